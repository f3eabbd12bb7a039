"""The NumPy kernels: values against textbook loops and PyTorch, gradients against complex steps."""

import numpy as np
import pytest
from kernel_cases import (
    CELL_NAMES,
    CELLS,
    Case,
    activation,
    assert_close,
    dropout,
    embedding,
    join,
    linear,
    loss,
    ragged,
    recurrent,
    update,
)

from rnncore import kernels
from rnncore.reference._stage import sigmoid, softmax
from rnncore.rows import Rows, Variable

NUMPY = kernels.load("numpy")
LOSSES = ["mse", "half_mse", "bce", "cross_entropy"]


def complex_step_gradients(case: Case) -> dict[str, np.ndarray]:
    """Derivatives of the objective of a complex case: Im f(x + ih) / h, without cancellation."""
    gradients = {}
    for name, variable in case.inputs.items():
        gradients[f"d{name}"] = np.empty(variable.value.shape)
        for index in np.ndindex(variable.value.shape):
            variable.value[index] += 1e-30j
            gradients[f"d{name}"][index] = case.objective().imag / 1e-30
            variable.value[index] = variable.value[index].real
    return gradients


def assert_gradients_exact(build) -> None:
    """Compare all gradients of a case with complex steps; `build` makes the case in the dtype it is given.

    Two runs add them up to twice what they are, but fill that of the input.
    """
    inputs = build(np.float64).run().run().inputs
    gradients = {f"d{name}": v.grad / (1 if name in ("x", "p") else 2) for name, v in inputs.items()}
    assert_close(gradients, complex_step_gradients(build(np.complex128)), 1e-12)


@pytest.mark.parametrize(("cell", "options"), CELLS, ids=CELL_NAMES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("biases", [0, 1, 2])
@pytest.mark.parametrize("tokens", [False, True])
def test_recurrent_gradients(cell, options, reverse, biases, tokens):
    options = options | {"reverse": reverse}
    rows = ragged(4, 4)  # lengths 4, 3, 1, 0
    assert_gradients_exact(
        lambda dtype: recurrent(NUMPY, cell, options, rows, biases=biases, tokens=tokens, dtype=dtype)
    )


@pytest.mark.parametrize(("cell", "options"), CELLS, ids=CELL_NAMES)
def test_recurrent_gradients_from_the_final_state_alone(cell, options):
    rows = ragged(3, 3)
    assert_gradients_exact(
        lambda dtype: recurrent(NUMPY, cell, options, rows, read_steps=False, columns=True, dtype=dtype)
    )


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("O", [2, 3])  # of three, the shape does not tell W from its transpose
def test_linear_gradients(last, bias, O):  # noqa: E741
    assert_gradients_exact(lambda dtype: linear(NUMPY, ragged(3, 4), O=O, bias=bias, last=last, dtype=dtype))


@pytest.mark.parametrize("build", [embedding, dropout, join])
def test_embedding_dropout_and_join_gradients(build):
    assert_gradients_exact(lambda dtype: build(NUMPY, ragged(3, 4), dtype=dtype))


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
@pytest.mark.parametrize("last", [False, True])
def test_activation_gradients(kind, last):
    assert_gradients_exact(lambda dtype: activation(NUMPY, ragged(3, 4), kind=kind, last=last, dtype=dtype))


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("last", [False, True])
def test_loss_gradients(kind, reduction, last):
    assert_gradients_exact(
        lambda dtype: loss(NUMPY, ragged(3, 4), kind=kind, reduction=reduction, last=last, dtype=dtype)
    )


def textbook_cell(cell, options, x, h, c, weights):
    """One step of one sequence, from the equations; x is a vector."""
    H = len(h)
    a = weights["weight_ih"] @ x + weights["bias_ih"]
    b = weights["weight_hh"] @ h + weights["bias_hh"]
    if cell == "LSTM":
        i, f, g, o = (a + b).reshape(4, H)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        return np.tanh(c) / (1 + np.exp(-o)), c
    if cell == "GRU":
        r, z = (1 / (1 + np.exp(-(a + b)[: 2 * H]))).reshape(2, H)
        if options["reset_after"]:
            n = np.tanh(a[2 * H :] + r * b[2 * H :])
        else:
            n = np.tanh(a[2 * H :] + weights["weight_hh"][2 * H :] @ (r * h) + weights["bias_hh"][2 * H :])
        return (1 - z) * n + z * h, c
    z = a + b
    functions = {
        "tanh": np.tanh(z),
        "sigmoid": 1 / (1 + np.exp(-z)),
        "relu": z * (z > 0),
        "prelu": z * np.where(z > 0, 1, weights.get("slope", 0)),
        "identity": z,
    }
    return functions[options["activation"]], c


@pytest.mark.parametrize(("cell", "options"), CELLS, ids=CELL_NAMES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
def test_recurrent_values_equal_one_sequence_at_a_time(cell, options, reverse, tokens):
    N, T, D, H = 4, 5, 3, 2
    rows = ragged(N, T)
    case = recurrent(NUMPY, cell, options | {"reverse": reverse}, rows, D=D, H=H, tokens=tokens)
    case.stage.forward()
    x = np.eye(D)[case.x] if tokens else case.x
    values = {name: variable.value for name, variable in case.inputs.items()}
    expected = {name: np.empty_like(variable.value) for name, variable in case.outputs.items()}
    for n in range(N):
        h, c = values["h_0"][n], values["c_0"][n] if cell == "LSTM" else None
        steps = range(rows.lengths[n])
        for t in reversed(steps) if reverse else steps:
            m = rows.offsets[0, t] + n
            h, c = textbook_cell(cell, options, x[m], h, c, values)
            expected["y"][m] = h
        expected["h_T"][n] = h
        if cell == "LSTM":
            expected["c_T"][n] = c
    assert_close({name: variable.value for name, variable in case.outputs.items()}, expected, 1e-14)


@pytest.mark.parametrize(("cell", "options"), [CELLS[0], CELLS[2], CELLS[5], CELLS[6]])
@pytest.mark.parametrize("reverse", [False, True])
def test_recurrent_layer_equals_pytorch(cell, options, reverse):
    torch = pytest.importorskip("torch")
    N, T, D, H = 3, 5, 2, 3
    rows = Rows(N, T)
    rows.arrange(np.array([5, 3, 1]))  # sorted: the packed batch is PyTorch's too
    case = recurrent(NUMPY, cell, options | {"reverse": reverse}, rows, D=D, H=H).run()

    nonlinearity = {"nonlinearity": options["activation"]} if cell == "RNN" else {}
    layer = getattr(torch.nn, cell)(D, H, bidirectional=reverse, dtype=torch.float64, **nonlinearity)
    suffix = "_l0_reverse" if reverse else "_l0"
    tensors = {}
    for name, variable in case.inputs.items():
        tensors[name] = torch.tensor(variable.value, requires_grad=True)
        if name.startswith(("weight", "bias")):
            tensors[name] = getattr(layer, name + suffix)
            tensors[name].data = torch.tensor(variable.value)
    # PyTorch reverses only beside a forward direction: it gets the same state, and nobody reads its outputs
    state = tuple(torch.stack([tensors[name]] * (1 + reverse)) for name in ("h_0", "c_0") if name in tensors)
    packed = torch.nn.utils.rnn.PackedSequence(tensors["x"], torch.tensor(rows.counts))
    y, final = layer(packed, state if cell == "LSTM" else state[0])
    outputs = {"y": y.data[:, -H:]}
    outputs |= dict(
        zip(("h_T", "c_T"), [s[-1] for s in (final if cell == "LSTM" else (final,))], strict=False)
    )
    sum((outputs[name] * torch.tensor(case.outputs[name].grad)).sum() for name in outputs).backward()

    expected = {name: tensor.detach().numpy() for name, tensor in outputs.items()}
    expected |= {f"d{name}": tensor.grad.numpy() for name, tensor in tensors.items()}
    assert_close(case.results(), expected, 1e-12)


@pytest.mark.parametrize(("cell", "options"), CELLS, ids=CELL_NAMES)
def test_zero_lengths_pass_the_state_and_its_gradient_through(cell, options):
    rows = Rows(2, 3)
    rows.arrange(np.array([0, 0]))
    case = recurrent(NUMPY, cell, options, rows).run()
    for name in ("h", "c") if cell == "LSTM" else ("h",):
        np.testing.assert_array_equal(case.outputs[f"{name}_T"].value, case.inputs[f"{name}_0"].value)
        np.testing.assert_array_equal(case.inputs[f"{name}_0"].grad, case.outputs[f"{name}_T"].grad)
    assert not case.inputs["weight_hh"].grad.any()


def loss_value(kind: str, p: list, t: list) -> float:
    stage = NUMPY.Loss(Rows(1, 1), Variable(np.array([p])), np.array([t]), kind=kind)
    stage.forward()
    return stage.value[0]


def test_loss_values():
    assert loss_value("mse", [1.0, 4.0], [0.0, 2.0]) == 2.5
    assert loss_value("half_mse", [1.0, 4.0], [0.0, 2.0]) == 1.25
    assert loss_value("bce", [0.0, np.log(3)], [1.0, 0.25]) == pytest.approx(
        (np.log(2) + np.log(4) - np.log(3) / 4) / 2
    )
    stage = NUMPY.Loss(Rows(1, 1), Variable(np.log([[1.0, 3.0]])), np.array([1]), kind="cross_entropy")
    stage.forward()
    assert stage.value[0] == pytest.approx(np.log(4 / 3))


def test_losses_of_huge_logits():
    assert loss_value("bce", [1e4, -1e4], [0.0, 1.0]) == 1e4
    assert loss_value("bce", [1e4, -1e4], [1.0, 0.0]) == 0
    assert loss_value("bce", [40.0], [1.0]) == pytest.approx(np.exp(-40), rel=1e-15)
    stage = NUMPY.Loss(
        Rows(2, 1), Variable(np.array([[1e4, 0], [-1e4, 0]])), np.array([1, 1]), kind="cross_entropy"
    )
    stage.forward()
    assert stage.value[0] == 5e3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_softmax_at_the_extremes(dtype):
    z = np.array([[-np.inf, -1e4, 0, 1e4, np.inf, np.nan]], dtype)
    np.testing.assert_array_equal(sigmoid(z), [[0, 0, 0.5, 1, 1, np.nan]])
    assert sigmoid(z).dtype == dtype
    np.testing.assert_array_equal(softmax(np.array([[-1e4, 1e4, 1e4]], dtype)), [[0, 0.5, 0.5]])


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "prelu", "identity"])
def test_nan_passes_through(activation):
    case = recurrent(NUMPY, "RNN", {"activation": activation}, Rows(1, 2))
    case.inputs["x"].value[0] = np.nan
    case.stage.forward()
    assert np.isnan(case.outputs["h_T"].value).all()


@pytest.mark.parametrize(("cell", "options"), CELLS, ids=CELL_NAMES)
def test_float32_stays_float32(cell, options):
    case = recurrent(NUMPY, cell, options, ragged(3, 3), dtype=np.float32).run()
    assert {array.dtype for array in vars(case.stage).values() if isinstance(array, np.ndarray)} == {
        np.dtype("f4")
    }


# --- optimizers ---

P, G = np.array([1.0, -2.0, 0.5]), np.array([0.3, -4.0, 1e-3])


def zeros() -> np.ndarray:
    return np.zeros(3)


def test_sgd():
    p = P.copy()
    update(NUMPY, "SGD", p, G, [None], 0.1, 1, 0.0, 0.0, 0.0, False)
    np.testing.assert_allclose(p, P - 0.1 * G, rtol=1e-15)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum_under_a_constant_gradient(nesterov):
    p, buffer = P.copy(), np.full(3, np.nan)  # what the buffer held at first does not matter
    for step in (1, 2, 3, 4):
        update(NUMPY, "SGD", p, G, [buffer], 0.1, step, 0.9, 0.0, 0.0, nesterov)
    sums = [sum(0.9**j for j in range(k)) for k in (1, 2, 3, 4)]  # the buffer in units of G
    np.testing.assert_allclose(p, P - 0.1 * G * sum(1 + 0.9 * s if nesterov else s for s in sums), rtol=1e-14)


def test_sgd_dampens_all_but_the_first_gradient():
    p, buffer = P.copy(), zeros()
    for step in (1, 2):
        update(NUMPY, "SGD", p, G, [buffer], 0.1, step, 0.9, 0.25, 0.0, False)
    np.testing.assert_allclose(buffer, 0.9 * G + 0.75 * G, rtol=1e-15)
    np.testing.assert_allclose(p, P - 0.1 * (G + buffer), rtol=1e-15)


def test_adagrad_under_a_constant_gradient():
    p, sum_ = P.copy(), zeros()
    for step in (1, 2, 3):
        update(NUMPY, "Adagrad", p, G, [sum_], 0.1, step, 1e-3, 0.0)
    np.testing.assert_allclose(sum_, 3 * G**2, rtol=1e-15)
    expected = P - 0.1 * sum(G / (np.sqrt(k) * abs(G) + 1e-3) for k in (1, 2, 3))
    np.testing.assert_allclose(p, expected, rtol=1e-14)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_under_a_constant_gradient(centered, momentum):
    p, square_avg, lr, alpha, eps = P.copy(), zeros(), 0.1, 0.75, 1e-3
    buffer, grad_avg = zeros() if momentum else None, zeros() if centered else None
    for step in (1, 2, 3):
        update(NUMPY, "RMSprop", p, G, [square_avg, buffer, grad_avg], lr, step, alpha, eps, momentum, 0.0)
    expected, moved = P.copy(), zeros()
    for k in (1, 2, 3):
        share = 1 - alpha**k  # of the gradient in its average, and of its square
        variance = (share - share**2 if centered else share) * G**2
        moved = momentum * moved + G / (np.sqrt(variance) + eps)
        expected -= lr * moved
    np.testing.assert_allclose(p, expected, rtol=1e-13)


def test_adam_under_a_constant_gradient():
    p, exp_avg, exp_avg_sq = P.copy(), zeros(), zeros()
    for step in (1, 2, 3):
        update(NUMPY, "Adam", p, G, [exp_avg, exp_avg_sq], 0.1, step, 0.9, 0.99, 1e-3, 0.0, False)
    np.testing.assert_allclose(
        p, P - 3 * 0.1 * G / (abs(G) + 1e-3), rtol=1e-13
    )  # the bias corrections are exact
    np.testing.assert_allclose(exp_avg, (1 - 0.9**3) * G, rtol=1e-14)
    np.testing.assert_allclose(exp_avg_sq, (1 - 0.99**3) * G**2, rtol=1e-13)


UPDATES = {
    "SGD": lambda decay: ([zeros()], 0.1, 1, 0.9, 0.0, decay, True),
    "Adagrad": lambda decay: ([zeros()], 0.1, 1, 1e-3, decay),
    "RMSprop": lambda decay: ([zeros(), None, None], 0.1, 1, 0.9, 1e-3, 0.0, decay),
    "Adam": lambda decay: ([zeros(), zeros()], 0.1, 1, 0.9, 0.99, 1e-3, decay, False),
}


@pytest.mark.parametrize("name", list(UPDATES))
def test_weight_decay_adds_to_the_gradient(name):
    decayed, expected, g = P.copy(), P.copy(), G.copy()
    update(NUMPY, name, decayed, g, *UPDATES[name](0.2))
    update(NUMPY, name, expected, G + 0.2 * P, *UPDATES[name](0.0))
    np.testing.assert_allclose(decayed, expected, rtol=1e-15)
    np.testing.assert_array_equal(g, G)


def test_decoupled_weight_decay_shrinks_the_parameter():
    decayed, expected = P.copy(), 0.98 * P
    update(NUMPY, "Adam", decayed, G, [zeros(), zeros()], 0.1, 1, 0.9, 0.99, 1e-3, 0.2, True)
    update(NUMPY, "Adam", expected, G, [zeros(), zeros()], 0.1, 1, 0.9, 0.99, 1e-3, 0.0, False)
    np.testing.assert_allclose(decayed, expected, rtol=1e-15)


def optimizer_against_pytorch(name: str, options: dict, rule: str, slots: list, settings) -> None:
    """Take five steps of PyTorch's optimizer and of ours, whose settings are lr, step and `settings`."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    p = rng.standard_normal(7)
    tensor = torch.tensor(p.copy(), requires_grad=True)
    optimizer = getattr(torch.optim, name)([tensor], lr=0.1, foreach=False, **options)
    for step in range(1, 6):
        g = rng.standard_normal(7)
        tensor.grad = torch.tensor(g)
        optimizer.step()
        update(NUMPY, rule, p, g, slots, 0.1, step, *settings)
    np.testing.assert_allclose(p, tensor.detach().numpy(), rtol=1e-13)


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0, 0, False), (0.9, 0.3, False), (0.9, 0, True)]
)
@pytest.mark.parametrize("decay", [0, 0.1])
def test_sgd_equals_pytorch(momentum, dampening, nesterov, decay):
    options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": decay}
    buffer = np.zeros(7) if momentum else None
    optimizer_against_pytorch(
        "SGD",
        options,
        "SGD",
        [buffer],
        (momentum, dampening, decay, nesterov),
    )


@pytest.mark.parametrize("decay", [0, 0.1])
def test_adagrad_equals_pytorch(decay):
    optimizer_against_pytorch("Adagrad", {"weight_decay": decay}, "Adagrad", [np.zeros(7)], (1e-10, decay))


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("decay", [0, 0.1])
def test_rmsprop_equals_pytorch(momentum, centered, decay):
    square_avg, buffer, grad_avg = (
        np.zeros(7),
        np.zeros(7) if momentum else None,
        np.zeros(7) if centered else None,
    )
    optimizer_against_pytorch(
        "RMSprop",
        {"momentum": momentum, "centered": centered, "weight_decay": decay},
        "RMSprop",
        [square_avg, buffer, grad_avg],
        (0.99, 1e-8, momentum, decay),
    )


@pytest.mark.parametrize(("name", "decay"), [("Adam", 0), ("Adam", 0.1), ("AdamW", 0.1)])
def test_adam_equals_pytorch(name, decay):
    optimizer_against_pytorch(
        name,
        {"weight_decay": decay},
        "Adam",
        [np.zeros(7), np.zeros(7)],
        (0.9, 0.999, 1e-8, decay, name == "AdamW"),
    )


def test_norms_and_clipping():
    g = np.array([3.0, -4.0, 0.5], np.float32)
    rule = NUMPY.Adagrad(Variable(g, g), g, np.zeros(4))
    assert rule.sum_of_squares() == 25.25
    rule.clip(3.5)
    assert g.tolist() == [3.0, -3.5, 0.5]
    rule.scale(0.5)
    assert g.tolist() == [1.5, -1.75, 0.25]
    g.fill(1e30)
    assert rule.sum_of_squares() == pytest.approx(3e60)
    g.fill(np.nan)
    rule.clip(1.0)
    assert np.isnan(g).all()
