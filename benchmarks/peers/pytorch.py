"""PyTorch, eager."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from works import Work

try:
    import torch
    from torch.nn.functional import cross_entropy, one_hot
    from torch.nn.utils.rnn import pack_padded_sequence

    pack = partial(pack_padded_sequence, batch_first=True, enforce_sorted=False)
except ImportError:
    installed = False
else:
    installed = True


def set_num_threads(count: int) -> None:
    """Set the number of threads, if PyTorch is there."""
    if installed:
        torch.set_num_threads(count)


def _network(work: Work) -> Any:
    """Return the recurrent layers and the head, with rnncore's weights."""
    dtype = getattr(torch, work.dtype)
    recurrent = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[work.cell]
    network = torch.nn.ModuleDict(
        {
            "rnn": recurrent(
                work.D,
                work.H,
                work.layers,
                bias=bool(work.bias),
                batch_first=True,
                bidirectional=work.bidirectional,
                dtype=dtype,
            ),
            "head": torch.nn.Linear(work.H * (1 + work.bidirectional), work.O, bool(work.bias), dtype=dtype),
        }
    )
    weights = work.model().state_dict()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in weights:
                parameter.copy_(torch.from_numpy(weights[name]))
            else:  # the second bias, where there is a single one
                parameter.zero_().requires_grad_(False)
    return network


def training(work: Work, packed: bool = False) -> Callable[[], float]:
    """Return one update; ragged batches packed, or padded with the loss masked."""
    network = _network(work)
    rnn, head, dtype = network["rnn"], network["head"], getattr(torch, work.dtype)
    parameters = [p for p in network.parameters() if p.requires_grad]
    rules = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}
    rule = rules[work.optimizer]
    optimizer = rule(parameters, lr=work.lr)
    x, y = map(torch.from_numpy, work.batch())
    lengths = work.lengths()
    if lengths is not None:
        lengths = torch.from_numpy(lengths)
        valid = torch.arange(work.T) < lengths[:, None]
        y = pack(y, lengths).data if packed else y[valid]

    def predict() -> Any:
        inputs = one_hot(x, work.D).to(dtype) if work.tokens else x
        if packed:
            inputs = pack(inputs, lengths)
        hidden, _ = rnn(inputs)
        if packed:
            hidden = hidden.data
        elif work.last:
            hidden = hidden[:, -1]
        prediction = head(hidden)
        if lengths is not None and not packed:
            prediction = prediction[valid]
        return prediction.sigmoid() if work.sigmoid else prediction

    def step() -> float:
        optimizer.zero_grad()
        prediction = predict()
        if work.loss == "cross_entropy":
            loss = cross_entropy(prediction.flatten(0, -2), y.flatten(), reduction=work.reduction)
        else:
            loss = 0.5 * getattr((prediction - y).square(), work.reduction)()
        loss.backward()
        if work.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, work.clip_value)
        if work.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, work.clip_norm)
        optimizer.step()
        return loss.item()

    return step


def inference(work: Work) -> Callable[[], np.ndarray]:
    """Return one forward pass."""
    network = _network(work)
    rnn, head = network["rnn"], network["head"]
    x = torch.from_numpy(work.batch()[0])

    @torch.inference_mode()
    def predict() -> np.ndarray:
        return head(rnn(x)[0]).numpy()

    return predict


def stream(work: Work) -> Callable[[], np.ndarray]:
    """Return one step that carries the state on."""
    network = _network(work)
    rnn, head = network["rnn"], network["head"]
    x = torch.from_numpy(np.ascontiguousarray(work.batch()[0][:, :1]))
    state = None

    @torch.inference_mode()
    def step() -> np.ndarray:
        nonlocal state
        hidden, state = rnn(x, state)
        return head(hidden[:, 0]).numpy()

    return step
