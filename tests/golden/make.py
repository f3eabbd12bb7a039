"""Makes the arrays in this folder with PyTorch: ``cd tests && python -m golden.make``.

What goes in, parameters included, are multiples of 1/64: exact in every precision, and small when compressed.
"""

import json
from pathlib import Path

import numpy as np
import torch
from twins import Twin, run, tensor, twin

import rnncore as rc

FOLDER = Path(__file__).parent
N, T, D, H, O, V = 3, 4, 2, 3, 2, 5  # noqa: E741
LENGTHS = np.array([2, 4, 1])
STEPS = 20

LAYERS = {
    "rnn-tanh": ("RNN", {"bidirectional": True}),
    "rnn-sigmoid": ("RNN", {"activation": "sigmoid", "bias": "single"}),
    "rnn-relu": ("RNN", {"activation": "relu", "bidirectional": True}),
    "rnn-prelu": ("RNN", {"activation": "prelu", "num_layers": 2}),
    "rnn-identity": ("RNN", {"activation": "identity", "bias": False}),
    "lstm": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "lstm-one-bias": ("LSTM", {"bias": "single"}),
    "lstm-no-bias": ("LSTM", {"bias": False}),
    "gru": ("GRU", {"num_layers": 2, "bidirectional": True}),
    "gru-one-bias": ("GRU", {"bias": "single"}),
    "gru-no-bias": ("GRU", {"bias": False}),
    "gru-reset-before": ("GRU", {"reset_after": False, "num_layers": 2}),
    "gru-reset-before-one-bias": ("GRU", {"reset_after": False, "bias": "single"}),
}
TRAININGS = {
    "training-lstm": {
        "model": {"input_size": V, "hidden_size": H, "output_size": O, "embedding_size": D},
        "loss": "cross_entropy",
        "optimizer": ["Adam", {"lr": 0.05}],
        "clipping": {"clip_norm": 0.5},
    },
    "training-gru": {
        "model": {
            "input_size": D,
            "hidden_size": H,
            "output_size": O,
            "cell": "gru",
            "input": "dense",
            "output": "last",
            "output_activation": "sigmoid",
        },
        "loss": "mse",
        "optimizer": ["SGD", {"lr": 0.5, "momentum": 0.9, "nesterov": True}],
        "clipping": {"clip_value": 0.1},
    },
}


class Draw:
    """Random multiples of 1/64."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def __call__(self, *shape):
        return np.round(64 * self.rng.standard_normal(shape)) / 64

    def parameters(self, layers, rng):
        """Initialize layers."""
        for layer in layers:
            for value in layer.params.values():
                value[...] = self(*value.shape)


def layer_arrays(cell, options):
    """A layer, a ragged batch with initial states, the gradients that arrive, and what comes of it."""
    draw = Draw()
    config = {"input_size": D, "hidden_size": H, **options}
    layer = getattr(rc, cell)(**config, init=draw.parameters, dtype="float64")
    depth, letters = layer.num_layers * len(layer.directions), "hc"[: layer.states]
    taken = {"x": draw(N, T, D)} | {f"{letter}_0": draw(depth, N, H) for letter in letters}
    arriving = {"dy": draw(N, T, layer.out_features)} | {
        f"d{letter}_n": draw(depth, N, H) for letter in letters
    }

    module = twin(layer)
    x, *initial = leaves = [tensor(array, grad=True) for array in taken.values()]
    y, final = run(module, x, initial, torch.tensor(LENGTHS))
    torch.autograd.backward([y, *final], [tensor(array) for array in arriving.values()])

    given = {f"d{name}": leaf.grad for name, leaf in zip(taken, leaves, strict=True)}
    given |= {f"grad.{name}": module.get_parameter(name).grad for name in layer.params}
    given |= dict(zip(["y", *(f"{letter}_n" for letter in letters)], [y, *final], strict=True))
    return {
        "config": json.dumps({"layer": cell, **config}),
        "lengths": LENGTHS,
        **{f"param.{name}": value for name, value in layer.params.items()},
        **taken,
        **arriving,
        **{name: value.detach().numpy() for name, value in given.items()},
    }


def training_arrays(config):
    """A model, a ragged batch, and the losses of its first updates."""
    draw = Draw()
    model = rc.SequenceModel(**config["model"], init=draw.parameters, dtype="float64")
    params = model.state_dict()
    if config["loss"] == "cross_entropy":
        x, y = draw.rng.integers(V, size=(N, T)), draw.rng.integers(O, size=(N, T))
    else:
        x, y = draw(N, T, D), draw(N, O)
    module = Twin(model)
    name, options = config["optimizer"]
    optimizer = getattr(torch.optim, name)(module.parameters(), **options)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss, _ = module.loss(config["loss"], "mean", tensor(x), tensor(y), torch.tensor(LENGTHS))
        loss.backward()
        if "clip_norm" in config["clipping"]:
            torch.nn.utils.clip_grad_norm_(module.parameters(), config["clipping"]["clip_norm"])
        else:
            torch.nn.utils.clip_grad_value_(module.parameters(), config["clipping"]["clip_value"])
        optimizer.step()
        losses.append(loss.item())
    return {
        "config": json.dumps(config),
        "lengths": LENGTHS,
        **{f"param.{name}": value for name, value in params.items()},
        "x": x,
        "y": y,
        "losses": np.array(losses),
    }


def make(name):
    """Return the arrays of that name."""
    return layer_arrays(*LAYERS[name]) if name in LAYERS else training_arrays(TRAININGS[name])


if __name__ == "__main__":
    for name in (*LAYERS, *TRAININGS):
        np.savez_compressed(FOLDER / name, **make(name))
