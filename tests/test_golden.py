"""Arrays that PyTorch gave once, for machines without it: outputs, every gradient, courses of training."""

import json
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import assert_close, relative_error

import rnncore as rc

FILES = {path.stem: path for path in sorted((Path(__file__).parent / "golden").glob("*.npz"))}
COURSES = [name for name in FILES if name.startswith("training")]
LAYERS = [name for name in FILES if name not in COURSES]


def read(name):
    """All arrays, parameters apart, and the configuration."""
    with np.load(FILES[name]) as file:
        arrays = dict(file)
    params = {key.removeprefix("param."): arrays.pop(key) for key in list(arrays) if key.startswith("param.")}
    return json.loads(str(arrays.pop("config"))), params, arrays


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    config, params, arrays = read(name)
    layer = getattr(rc, config.pop("layer"))(**config, init=params, dtype="float64")
    letters = "hc"[: layer.states]

    def state(key):
        found = tuple(arrays.pop(key.format(letter)) for letter in letters)
        return found if len(found) > 1 else found[0]

    def named(key, state):
        found = state if isinstance(state, tuple) else (state,)
        return {key.format(letter): array for letter, array in zip(letters, found, strict=True)}

    y, final = layer.forward(arrays.pop("x"), state("{}_0"), arrays.pop("lengths"), training=True)
    dx, dinitial = layer.backward(arrays.pop("dy"), state("d{}_n"))
    found = {"y": y, "dx": dx, **named("{}_n", final), **named("d{}_0", dinitial)}
    found |= {f"grad.{key}": grad for key, grad in layer.grads.items()}
    assert_close(found, arrays, 1e-10)


@pytest.mark.parametrize("name", COURSES)
def test_training(name):
    config, params, arrays = read(name)
    model = rc.SequenceModel(**config["model"], init=params, dtype="float64")
    optimizer, options = config["optimizer"]
    trainer = rc.Trainer(model, config["loss"], getattr(rc, optimizer)(**options), **config["clipping"])
    losses = [trainer.step(arrays["x"], arrays["y"], arrays["lengths"]) for _ in arrays["losses"]]
    assert losses[-1] < losses[0]
    assert relative_error(np.array(losses), arrays["losses"]) <= 1e-10


@pytest.mark.parametrize("name", FILES)
def test_arrays_are_those_of_their_script(name):
    pytest.importorskip("torch")
    from golden.make import make

    with np.load(FILES[name]) as file:
        kept, made = dict(file), make(name)
    assert str(kept.pop("config")) == made.pop("config")
    assert_close(kept, made, 1e-12)
