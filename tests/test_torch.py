"""Against PyTorch: outputs, every gradient, and the course of training from the same weights and data."""

import inspect
from collections.abc import Sequence
from itertools import count, cycle, islice, product

import numpy as np
import pytest
from kernel_cases import assert_close, relative_error

import rnncore as rc

torch = pytest.importorskip("torch")
from twins import Twin, run, tensor, twin  # noqa: E402

CELLS = [
    *((rc.RNN, {"activation": name}) for name in ("tanh", "relu", "sigmoid", "prelu", "identity")),
    (rc.LSTM, {}),
    (rc.GRU, {"reset_after": True}),
    (rc.GRU, {"reset_after": False}),
]
IDS = ["-".join([cell.__name__, *map(str, options.values())]) for cell, options in CELLS]
SIZES = (1, 3, 17, 33)
LENGTHS = {
    "one": np.array([1]),
    "full": np.array([3, 3, 3]),
    "sorted": np.array([4, 3, 3, 1, 1]),
    "unsorted": np.array([2, 4, 1, 4, 2, 3, 4, 1, 2]),
}
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}

each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])
each_cell = pytest.mark.parametrize(("cell", "options"), CELLS, ids=IDS)


@pytest.fixture(autouse=True)
def one_thread():
    """The tensors are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spread(layers, rng):
    """An initializer: weights that keep the size of what they are multiplied with, biases that show."""
    for layer in layers:
        for value in layer.params.values():
            scale = value.shape[1] ** -0.5 if value.ndim == 2 else 0.5
            value[...] = scale * rng.standard_normal(value.shape)


# --- layers ---


class Problem:
    """A recurrent layer, a batch with initial states, and the gradients that arrive at what it puts out."""

    def __init__(self, layer, lengths, seed):
        rng = np.random.default_rng(seed)

        def draw(*shape):
            return rng.standard_normal(shape).astype(layer.dtype)

        N, T = len(lengths), lengths.max()
        depth = layer.num_layers * len(layer.directions)
        self.layer, self.lengths = layer, lengths
        self.x, self.dy = draw(N, T, layer.in_features), abs(draw(N, T, layer.out_features))
        self.state = [draw(depth, N, layer.hidden_size) for _ in range(layer.states)]
        self.dstate = [abs(draw(depth, N, layer.hidden_size)) for _ in range(layer.states)]

    def ours(self):
        def wrap(arrays):
            return tuple(arrays) if len(arrays) > 1 else arrays[0]

        y, final = self.layer.forward(self.x, wrap(self.state), self.lengths, training=True)
        dx, dinitial = self.layer.backward(self.dy, wrap(self.dstate))
        return named(y, final, dx, dinitial, self.layer.grads)

    def pytorchs(self, dtype, scale=1.0):
        """PyTorch's results, where the input is `scale` times what it is for us."""
        module = twin(self.layer).to(dtype)
        x, *state = (tensor(array).to(dtype).requires_grad_() for array in (scale * self.x, *self.state))
        y, final = run(module, x, state, torch.tensor(self.lengths))
        arriving = [tensor(array).to(dtype) for array in (self.dy, *self.dstate)]
        torch.autograd.backward([y, *final], arriving)
        grads = {name: module.get_parameter(name).grad for name in self.layer.params}
        return named(y, final, x.grad, [s.grad for s in state], grads)


def named(y, final, dx, dinitial, grads):
    """Everything that a forward and a backward pass give, as arrays by name."""
    results = {"y": y, "dx": dx, **grads}
    for name, state in (("final", final), ("dinitial", dinitial)):
        arrays = state if isinstance(state, Sequence) else [state]
        results |= {f"{name}{i}": array for i, array in enumerate(arrays)}
    return {
        name: value.detach().numpy() if isinstance(value, torch.Tensor) else value
        for name, value in results.items()
    }


def pose(layer, lengths):
    """A problem and its solution by PyTorch in float64.

    Where sums cancel or an activation has its kink, rounding shows without bound in any float32 computation.
    So in float32 a problem is drawn anew until PyTorch's own solutions nearby come close, on both sides.
    """
    for seed in count():
        problem = Problem(layer, lengths, seed)
        expected = problem.pytorchs(torch.float64)
        if layer.dtype == np.float64:
            return problem, expected
        rounded = [problem.pytorchs(torch.float32, scale) for scale in (1 - 1e-6, 1 + 1e-6)]
        if all(relative_error(r[name], expected[name]) < 3e-6 for r in rounded for name in expected):
            return problem, expected


@each_cell
@each_dtype
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("bias", [True, "single", False], ids=["two-biases", "one-bias", "no-bias"])
def test_recurrent_layers(cell, options, dtype, num_layers, bidirectional, bias):
    shift = num_layers + 2 * bidirectional + [True, "single", False].index(bias)  # meets every D with every H
    for i, (H, lengths) in enumerate(zip(SIZES, LENGTHS.values(), strict=True)):
        D = SIZES[(i + shift) % 4]
        layer = cell(
            D,
            H,
            num_layers,
            **options,
            bidirectional=bidirectional,
            bias=bias,
            init=spread,
            dtype=dtype,
            seed=i,
        )
        problem, expected = pose(layer, lengths)
        assert_close(problem.ours(), expected, TOLERANCE[dtype], (D, H, lengths))


@each_cell
@each_dtype
def test_tokens_are_one_hot_vectors(cell, options, dtype):
    layer = cell(6, 17, 2, **options, bidirectional=True, init=spread, dtype=dtype, seed=0)
    problem, _ = pose(layer, LENGTHS["unsorted"])
    ids = problem.x.argmax(axis=2)
    problem.x = np.eye(6, dtype=dtype)[ids]
    expected = problem.pytorchs(torch.float64)
    problem.x = ids
    results = problem.ours()
    assert results.pop("dx") is None
    del expected["dx"]
    assert_close(results, expected, TOLERANCE[dtype])


@each_dtype
@pytest.mark.parametrize("bias", [True, False])
def test_linear(dtype, bias):
    rng = np.random.default_rng(0)
    for I, O in product(SIZES, SIZES):  # noqa: E741
        layer = rc.Linear(I, O, bias=bias, init=spread, dtype=dtype, seed=0)
        x, dy = (abs(rng.standard_normal((2, 5, size))).astype(dtype) for size in (I, O))
        module, tx = twin(layer), tensor(x, grad=True)
        y = module(tx)
        y.backward(tensor(dy))
        expected = {"y": y.detach().numpy(), "dx": tx.grad.numpy()}
        expected |= {name: value.grad.numpy() for name, value in module.named_parameters()}
        assert_close(
            {"y": layer.forward(x, training=True), "dx": layer.backward(dy), **layer.grads},
            expected,
            TOLERANCE[dtype],
        )


@each_dtype
def test_embedding(dtype):
    rng = np.random.default_rng(0)
    for E in SIZES:
        layer = rc.Embedding(5, E, init=spread, dtype=dtype, seed=0)
        ids, dy = rng.integers(5, size=(4, 7)), abs(rng.standard_normal((4, 7, E))).astype(dtype)
        module = twin(layer)
        y = module(torch.tensor(ids))
        y.backward(tensor(dy))
        results = {"y": layer.forward(ids, training=True)}
        layer.backward(dy)
        expected = {"y": y.detach().numpy(), "weight": module.weight.grad.numpy()}
        assert_close(results | dict(layer.grads), expected, TOLERANCE[dtype])


# --- training ---

STEPS = 50
V, D, H, O = 7, 5, 9, 3  # noqa: E741


def batches(model, loss):
    """Ragged batches of different shapes, over and over: inputs, targets, lengths."""
    rng = np.random.default_rng(0)
    made = []
    for N, T in ((4, 5), (1, 6), (6, 3), (3, 1), (5, 4)):
        lengths = rng.integers(1, T + 1, N)
        lengths[rng.integers(N)] = T
        x = rng.integers(V, size=(N, T)) if model.input == "tokens" else rng.standard_normal((N, T, D))
        shape = (N, O) if model.output == "last" else (N, T, O)
        y = rng.integers(O, size=shape[:-1]) if loss == "cross_entropy" else rng.random(shape)
        made.append((x, y, lengths))
    return islice(cycle(made), STEPS)


class Training:
    """A model and its twin, trained side by side from the same parameters."""

    def __init__(self, model, loss, optimizer, options, reduction="mean", clip_norm=None, clip_value=None):
        self.loss, self.reduction, self.clip_norm, self.clip_value = loss, reduction, clip_norm, clip_value
        self.model, self.twin = model, Twin(model)
        self.trained = [p for p in self.twin.parameters() if p.requires_grad]
        self.optimizer = getattr(torch.optim, optimizer)(self.trained, **options)
        self.trainer = rc.Trainer(
            model,
            loss,
            getattr(rc, optimizer)(**options),
            reduction=reduction,
            clip_norm=clip_norm,
            clip_value=clip_value,
        )
        self.losses = {"ours": [], "pytorchs": []}

    def step(self, x, y, lengths, state=None, twin_state=None):
        """Make an update each way, and return PyTorch's final state."""
        self.losses["ours"].append(self.trainer.step(x, y, lengths, state))
        x, y = (tensor(a) if a.dtype.kind == "i" else tensor(a).to(self.trained[0].dtype) for a in (x, y))
        self.optimizer.zero_grad()
        loss, final = self.twin.loss(self.loss, self.reduction, x, y, torch.tensor(lengths), twin_state)
        loss.backward()
        if self.clip_norm is not None:
            assert torch.nn.utils.clip_grad_norm_(self.trained, self.clip_norm) > self.clip_norm
        if self.clip_value is not None:
            assert max(p.grad.abs().max() for p in self.trained) > self.clip_value
            torch.nn.utils.clip_grad_value_(self.trained, self.clip_value)
        self.optimizer.step()
        self.losses["pytorchs"].append(loss.item())
        return [state.detach() for state in final]

    def check(self):
        """Compare the losses; in float64 also what training leaves: parameters and what the optimizer keeps.

        In float32 an optimizer that divides by a gradient's size magnifies the rounding of small ones.
        """
        tolerance = TOLERANCE[self.model.dtype.name]
        losses = np.array(self.losses["ours"])
        assert relative_error(losses, np.array(self.losses["pytorchs"])) <= tolerance
        assert losses[-5:].sum() < losses[:5].sum()  # on each of the five batches once
        if self.model.dtype == np.float32:
            return
        twins = {name: self.twin.get_parameter(name) for name in self.model.params}
        assert_close(self.model.params, {n: p.detach().numpy() for n, p in twins.items()}, tolerance)
        state = self.trainer.optimizer.state_dict()
        assert state.pop("steps") == STEPS
        for key, value in state.items():
            index, slot = key.split(".")
            layer = list(self.model.layers)[int(index)]
            kept = [self.optimizer.state[p][slot] for n, p in twins.items() if n.startswith(f"{layer}.")]
            assert relative_error(value, torch.cat([k.flatten() for k in kept]).numpy()) <= tolerance, key


OPTIMIZERS = [
    ("SGD", {"lr": 0.3}, {}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}, {}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}, {}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}, {}),
    ("Adagrad", {"lr": 0.1}, {}),
    ("Adagrad", {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.01}, {}),
    ("RMSprop", {"lr": 0.01}, {}),
    ("RMSprop", {"lr": 0.01, "alpha": 0.9, "momentum": 0.5, "centered": True, "weight_decay": 0.01}, {}),
    ("Adam", {"lr": 0.02}, {}),
    ("Adam", {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-3, "weight_decay": 0.01}, {}),
    ("AdamW", {"lr": 0.02}, {}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.3}, {}),
    *(
        (optimizer, options, clipping)
        for clipping in ({"clip_norm": 0.1}, {"clip_value": 0.02})
        for optimizer, options in (
            ("SGD", {"lr": 0.5, "momentum": 0.9, "nesterov": True}),
            ("Adagrad", {"lr": 0.1}),
            ("RMSprop", {"lr": 0.01}),
            ("Adam", {"lr": 0.02}),
            ("AdamW", {"lr": 0.02}),
        )
    ),
]


@each_dtype
@pytest.mark.parametrize(
    ("optimizer", "options", "clipping"),
    OPTIMIZERS,
    ids=["-".join([name, *options, *clipping]) for name, options, clipping in OPTIMIZERS],
)
def test_training_with_every_optimizer(optimizer, options, clipping, dtype):
    model = rc.SequenceModel(V, H, O, "lstm", init=spread, dtype=dtype)
    training = Training(model, "cross_entropy", optimizer, options, **clipping)
    for batch in batches(model, "cross_entropy"):
        training.step(*batch)
    training.check()


INPUTS = {
    "tokens": {"input": "tokens", "input_size": V},
    "embedding": {"input": "tokens", "input_size": V, "embedding_size": D},
    "dense": {"input": "dense", "input_size": D},
}
SEEN = [  # by the losses
    ("mse", None),
    ("mse", "sigmoid"),
    ("half_mse", "softmax"),
    ("bce", None),
    ("cross_entropy", None),
]
REDUCTIONS = cycle(["mean", "sum"])
NETWORKS = cycle(
    [
        {"cell": "lstm", "num_layers": 2, "bidirectional": True},
        {"cell": "gru", "bias": "single", "num_layers": 2},
        {"cell": "rnn", "bidirectional": True},
        {"cell": "gru", "reset_after": False, "bias": "single"},
        {"cell": "lstm", "bias": False},
        {"cell": "rnn", "activation": "prelu", "num_layers": 2},
        {"cell": "gru", "bidirectional": True},
    ]
)
MODELS = [
    (source, output, *seen, next(REDUCTIONS), next(NETWORKS))
    for source, output, seen in product(INPUTS, ("all", "last"), SEEN)
]


@pytest.mark.parametrize(
    ("source", "output", "loss", "activation", "reduction", "network"),
    MODELS,
    ids=["-".join([*map(str, case[:5]), *map(str, case[5].values())]) for case in MODELS],
)
@each_dtype
def test_training_of_every_kind_of_model(source, output, loss, activation, reduction, network, dtype):
    options = INPUTS[source] | network
    model = rc.SequenceModel(
        hidden_size=H,
        output_size=O,
        output=output,
        output_activation=activation,
        init=spread,
        dtype=dtype,
        **options,
    )
    training = Training(model, loss, "Adam", {"lr": 0.01}, reduction)
    for batch in batches(model, loss):
        training.step(*batch)
    training.check()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_training_that_carries_the_state_on(cell):
    model = rc.SequenceModel(V, H, O, cell, 2, init=spread, dtype="float64")
    training = Training(model, "cross_entropy", "Adam", {"lr": 0.02})
    rng = np.random.default_rng(0)
    x, y = rng.integers(V, size=(4, 5 * 6)), rng.integers(O, size=(4, 5 * 6))
    state = twin_state = None
    for i in range(STEPS):
        part = slice(i % 5 * 6, i % 5 * 6 + 6)
        twin_state = training.step(x[:, part], y[:, part], np.array([6, 3, 6, 5]), state, twin_state)
        state = training.trainer.state
    training.check()
    found = state if isinstance(state, tuple) else (state,)
    for own, expected in zip(found, twin_state, strict=True):
        assert relative_error(own, expected.numpy()) <= 1e-10


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW"])
def test_defaults_are_pytorchs(optimizer):
    ours, theirs = (inspect.signature(getattr(module, optimizer)).parameters for module in (rc, torch.optim))
    assert {name: ours[name].default for name in ours} == {name: theirs[name].default for name in ours}
