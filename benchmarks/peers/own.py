"""rnncore."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from works import Work

import rnncore as rc
from rnncore import kernels

installed = True


def training(work: Work, level: str | None = None) -> Callable[[], float]:
    """Return one update through `Trainer.step`, on the kernels of a level or on those in use."""
    usual = kernels.active
    kernels.active = usual if level is None else kernels.load(level)
    try:
        optimizer = {"sgd": rc.SGD, "adagrad": rc.Adagrad, "adam": rc.Adam}[work.optimizer](lr=work.lr)
        trainer = rc.Trainer(
            work.model(),
            work.loss,
            optimizer,
            reduction=work.reduction,
            clip_value=work.clip_value,
            clip_norm=work.clip_norm,
        )
        x, y = work.batch()
        lengths = work.lengths()
        if level is not None:  # lay the plan out on these kernels, and change nothing
            optimizer.lr = 0.0
            trainer.step(x, y, lengths)
            optimizer.lr = work.lr
    finally:
        kernels.active = usual
    return lambda: trainer.step(x, y, lengths)


def inference(work: Work) -> Callable[[], np.ndarray]:
    """Return one call of `predict`."""
    model = work.model()
    x, _ = work.batch()
    return lambda: model.predict(x)


def stream(work: Work) -> Callable[[], np.ndarray]:
    """Return one call of `Stream.step`."""
    step = work.model().stream(work.N).step
    x = np.ascontiguousarray(work.batch()[0][:, 0])
    return lambda: step(x)
