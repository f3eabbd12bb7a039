"""Layers by themselves: parameters, gradients through the face, ragged batches, copies."""

import copy
import pickle

import numpy as np
import pytest
from gradients import central_differences, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

import rnncore as rc

CELLS = [
    *((rc.RNN, {"activation": name}) for name in ("tanh", "sigmoid", "relu", "prelu", "identity")),
    (rc.LSTM, {}),
    (rc.GRU, {"reset_after": True}),
    (rc.GRU, {"reset_after": False}),
]
IDS = ["-".join([cell.__name__, *map(str, options.values())]) for cell, options in CELLS]
each_cell = pytest.mark.parametrize(("cell", "options"), CELLS, ids=IDS)

N, T, D, H = 4, 4, 3, 2
LENGTHS = np.array([2, 4, 0, 3])


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def make(cell, **options):
    """A layer in float64, with biases away from zero."""
    layer = cell(D, H, **options, dtype="float64", seed=1)
    for i, value in enumerate(layer.params.values()):
        value += 0.3 * draw(*value.shape, seed=100 + i)
    return layer


def states(layer, seed):
    """A random state as a list of its arrays."""
    depth = layer.num_layers * (2 if layer.bidirectional else 1)
    return [draw(depth, N, layer.hidden_size, seed=seed + i) for i in range(layer.states)]


def wrap(arrays):
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def unwrap(state):
    return list(state) if isinstance(state, tuple) else [state]


# --- gradients ---


@each_cell
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"bias": "single", "bidirectional": True},
        {"bias": False, "num_layers": 2},
        {"num_layers": 2, "bidirectional": True},
    ],
    ids=["one", "bidirectional", "two", "two-bidirectional"],
)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_every_gradient(cell, options, shape, lengths):
    layer = make(cell, **options, **shape)
    x, initial = draw(N, T, D), states(layer, 10)
    dy, dfinal = draw(N, T, layer.out_features, seed=20), states(layer, 30)

    def objective():
        y, final = layer.forward(x, wrap(initial), lengths, training=True)
        return (y * dy).sum() + sum((a * b).sum() for a, b in zip(unwrap(final), dfinal, strict=True))

    objective()
    dx, dinitial = layer.backward(dy, wrap(dfinal))
    found = {"x": dx, **dict(enumerate(unwrap(dinitial))), **layer.grads}
    arrays = {"x": x, **dict(enumerate(initial)), **layer.params}
    for name, array in arrays.items():
        assert relative_error(found[name], central_differences(objective, array)) < 1e-7, name


@each_cell
def test_gradients_with_tokens(cell, options):
    layer = make(cell, **options, bidirectional=True)
    ids, dy = np.array([[0, 2, 1, 1], [2, 2, 2, 0], [1, 1, 1, 1], [0, 1, 2, 0]]), draw(N, T, 2 * H)

    def objective():
        return (layer.forward(ids, lengths=LENGTHS, training=True)[0] * dy).sum()

    objective()
    dx, _ = layer.backward(dy)
    assert dx is None
    for name, array in layer.params.items():
        assert relative_error(layer.grads[name], central_differences(objective, array)) < 1e-7, name


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_linear(bias):
    layer = rc.Linear(3, 5, bias=bias, dtype="float64", seed=0)
    x, dy = draw(N, T, 3), draw(N, T, 5, seed=1)

    def objective():
        return (layer.forward(x, training=True) * dy).sum()

    objective()
    assert relative_error(layer.backward(dy), central_differences(objective, x)) < 1e-7
    assert list(layer.params) == (["weight", "bias"] if bias else ["weight"])
    for name, array in layer.params.items():
        assert relative_error(layer.grads[name], central_differences(objective, array)) < 1e-7, name


def test_embedding():
    layer = rc.Embedding(5, 2, dtype="float64", seed=0)
    ids, dy = np.array([[4, 0, 4], [1, 1, 2]]), draw(2, 3, 2)
    np.testing.assert_array_equal(layer.forward(ids, training=True), layer.params["weight"][ids])
    layer.backward(dy)
    expected = np.zeros((5, 2))
    for index, id_ in np.ndenumerate(ids):
        expected[id_] += dy[index]
    np.testing.assert_allclose(layer.grads["weight"], expected, rtol=1e-14)


def test_gradients_add_up_until_zeroed():
    layer = make(rc.GRU)
    x, dy = draw(N, T, D), draw(N, T, H, seed=1)
    layer.forward(x, training=True)
    layer.backward(dy)
    once = {name: grad.copy() for name, grad in layer.grads.items()}
    layer.forward(x, training=True)
    layer.backward(dy)
    for name, grad in layer.grads.items():
        np.testing.assert_allclose(grad, 2 * once[name], rtol=1e-14)
    layer.zero_grad()
    assert not any(grad.any() for grad in layer.grads.values())


def test_backward_of_the_state_alone():
    layer = make(rc.LSTM)
    x, dstate = draw(N, T, D), wrap(states(layer, 5))
    layer.forward(x, training=True)
    dx, _ = layer.backward(None, dstate)
    layer.forward(x, training=True)
    with_zeros, _ = layer.backward(np.zeros((N, T, H)), dstate)
    assert dx.any()
    np.testing.assert_array_equal(dx, with_zeros)


def test_backward_runs_once_after_each_forward():
    layer = make(rc.RNN)
    dy = draw(N, T, H)
    with pytest.raises(RuntimeError, match="backward runs once after each forward"):
        layer.backward(dy)
    layer.forward(draw(N, T, D), training=True)
    layer.backward(dy)
    with pytest.raises(RuntimeError, match="backward runs once"):
        layer.backward(dy)
    layer.forward(draw(N, T, D))
    with pytest.raises(RuntimeError, match="backward runs once"):
        layer.backward(dy)


# --- parameters ---


def test_parameters_are_named_and_shaped_as_in_pytorch():
    layer = rc.LSTM(3, 5, 2, bidirectional=True)
    assert {name: value.shape for name, value in layer.params.items()} == {
        f"{role}_l{k}{suffix}": shape
        for k, width in ((0, 3), (1, 10))
        for suffix in ("", "_reverse")
        for role, shape in {
            "weight_ih": (20, width),
            "weight_hh": (20, 5),
            "bias_ih": (20,),
            "bias_hh": (20,),
        }.items()
    }
    assert list(layer.params)[:5] == [
        "weight_ih_l0",
        "weight_hh_l0",
        "bias_ih_l0",
        "bias_hh_l0",
        "weight_ih_l0_reverse",
    ]
    assert {name: grad.shape for name, grad in layer.grads.items()} == {
        name: value.shape for name, value in layer.params.items()
    }


@pytest.mark.parametrize(
    ("bias", "names"), [(True, ["bias_ih_l0", "bias_hh_l0"]), ("single", ["bias_ih_l0"]), (False, [])]
)
def test_biases(bias, names):
    assert list(rc.GRU(3, 5, bias=bias).params) == ["weight_ih_l0", "weight_hh_l0", *names]


def test_slope_of_prelu():
    layer = rc.RNN(3, 5, 2, activation="prelu")
    assert layer.params["slope_l0"] == layer.params["slope_l1"] == np.float32(0.25)


def test_writing_into_a_parameter_takes_effect():
    layer = make(rc.RNN)
    x = draw(N, T, D)
    before, _ = layer.forward(x, training=True)
    layer.params["weight_ih_l0"][...] = 0
    layer.params["weight_hh_l0"] *= 0  # Python assigns the array it changed: the same one
    after, _ = layer.forward(x, training=True)
    bias = layer.params["bias_ih_l0"] + layer.params["bias_hh_l0"]
    np.testing.assert_allclose(after, np.broadcast_to(np.tanh(bias), after.shape), rtol=1e-13)
    assert not np.allclose(before, after)


def test_replacing_a_parameter_is_an_error():
    layer = rc.Linear(3, 5)
    with pytest.raises(TypeError, match=r"params\['weight'\] cannot be replaced .* write into it"):
        layer.params["weight"] = np.zeros((5, 3), np.float32)
    with pytest.raises(TypeError, match=r"grads\['weight'\] cannot be replaced"):
        layer.grads["weight"] = np.zeros((5, 3), np.float32)


def test_parameters_given():
    params = {"weight": [[1, 2], [3, 4]], "bias": [5, 6]}
    layer = rc.Linear(2, 2, init=params)
    np.testing.assert_array_equal(layer.forward([[[1, 0]]], training=True), [[[6, 9]]])
    with pytest.raises(ValueError, match=r"weight must have shape \(3, 2\), got \(2, 2\)"):
        rc.Linear(2, 3, init=params)
    with pytest.raises(ValueError, match="bias is unknown"):
        rc.Linear(2, 2, bias=False, init=params)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda layer: pickle.loads(pickle.dumps(layer))]
)
def test_copies_stand_alone(duplicate):
    layer = make(rc.GRU, num_layers=2, reset_after=False, bias="single", dropout=0.5)
    x = draw(N, T, D)
    expected, _ = layer.forward(x)
    other = duplicate(layer)
    assert other.config() == layer.config()
    np.testing.assert_array_equal(other.forward(x)[0], expected)
    layer.params["weight_hh_l0"][...] = 0
    np.testing.assert_array_equal(other.forward(x)[0], expected)


def test_repr():
    assert repr(rc.Linear(2, 3)) == "Linear(in_features=2, out_features=3, bias=True, dtype='float32')"
    assert repr(rc.Linear(2, 3).params) == "params: weight (3, 2), bias (3,)"


# --- sequences ---


@each_cell
def test_elementary_equations(cell, options):
    """One layer against the equations, written down step by step once more."""
    layer = make(cell, **options)
    x, initial = draw(N, T, D), states(layer, 10)
    w, u, b, d = (layer.params[f"{role}_l0"] for role in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    h, c = initial[0][0], initial[-1][0]
    for t in range(T):
        a, r = x[:, t] @ w.T + b, h @ u.T + d
        if cell is rc.RNN:
            f = {
                "tanh": np.tanh,
                "sigmoid": sigmoid,
                "relu": lambda z: np.maximum(z, 0),
                "prelu": lambda z: np.where(z > 0, z, layer.params["slope_l0"] * z),
                "identity": lambda z: z,
            }[options["activation"]]
            h = f(a + r)
        elif cell is rc.LSTM:
            i, f, g, o = np.split(a + r, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            reset, z = sigmoid(a[:, :H] + r[:, :H]), sigmoid(a[:, H : 2 * H] + r[:, H : 2 * H])
            if options["reset_after"]:
                n = np.tanh(a[:, 2 * H :] + reset * r[:, 2 * H :])
            else:
                n = np.tanh(a[:, 2 * H :] + (reset * h) @ u[2 * H :].T + d[2 * H :])
            h = (1 - z) * n + z * h
    y, final = layer.forward(x, wrap(initial), training=True)
    np.testing.assert_allclose(y[:, -1], h, rtol=1e-12)
    np.testing.assert_allclose(unwrap(final)[0][0], h, rtol=1e-12)
    if cell is rc.LSTM:
        np.testing.assert_allclose(final[1][0], c, rtol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@each_cell
def test_ragged_batch_is_each_sequence_alone(cell, options, bidirectional):
    layer = make(cell, **options, num_layers=2, bidirectional=bidirectional)
    x, initial = draw(N, T, D), states(layer, 10)
    y, final = layer.forward(x, wrap(initial), LENGTHS, training=True)
    for n, length in enumerate(LENGTHS):
        assert not y[n, length:].any()
        if length == 0:
            for a, b in zip(unwrap(final), initial, strict=True):
                np.testing.assert_array_equal(a[:, n], b[:, n])
            continue
        alone, last = layer.forward(
            x[n : n + 1, :length], wrap([s[:, n : n + 1] for s in initial]), training=True
        )
        np.testing.assert_allclose(y[n, :length], alone[0], rtol=1e-12)
        for a, b in zip(unwrap(final), unwrap(last), strict=True):
            np.testing.assert_allclose(a[:, n], b[:, 0], rtol=1e-12)


def test_padding_is_not_looked_at():
    layer = make(rc.LSTM)
    x, dy = draw(N, T, D), draw(N, T, H, seed=1)
    y, _ = layer.forward(x, lengths=LENGTHS, training=True)
    dx, _ = layer.backward(dy)
    grads = {name: grad.copy() for name, grad in layer.grads.items()}
    layer.zero_grad()
    for n, length in enumerate(LENGTHS):
        x[n, length:] = dy[n, length:] = np.nan
    again, _ = layer.forward(x, lengths=LENGTHS, training=True)
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(layer.backward(dy)[0], dx)
    for name, grad in layer.grads.items():
        np.testing.assert_array_equal(grad, grads[name])


def test_tokens_are_one_hot_vectors():
    layer = make(rc.LSTM)
    ids = np.array([[0, 2, 1], [2, 2, 0]])
    for found, expected in zip(
        layer.forward(ids, training=True), layer.forward(np.eye(D)[ids], training=True), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_nan_passes_through_forward():
    x = draw(2, 3, D)
    x[1, 1, 0] = np.nan
    for cell, options in CELLS:
        y, _ = make(cell, **options).forward(x, training=True)
        assert np.isnan(y[1, 1:]).all()
        assert np.isfinite(y[0]).all()
        assert np.isfinite(y[1, 0]).all()


def test_results_are_the_users_own():
    layer = make(rc.LSTM)
    x, dy = draw(N, T, D), draw(N, T, H, seed=1)
    y, (h, c) = layer.forward(x, training=True)
    dx, (dh, dc) = layer.backward(dy)
    kept = [array.copy() for array in (y, h, c, dx, dh, dc)]
    layer.forward(2 * x, training=True)
    layer.backward(2 * dy)
    for array, expected in zip((y, h, c, dx, dh, dc), kept, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_alternating_shapes():
    """Buffers are kept for several shapes and for training and inference: none may leak into another."""
    layer = make(rc.GRU, num_layers=2)
    batches = [draw(n, t, D, seed=n + t) for n in (1, 3, 4) for t in (1, 2, 5, 7)]
    expected = [copy.copy(layer).forward(x, training=True)[0] for x in batches]
    for _ in range(2):
        for x, y in zip(batches, expected, strict=True):
            np.testing.assert_array_equal(layer.forward(x)[0], y)
            np.testing.assert_array_equal(layer.forward(x, training=True)[0], y)


def test_full_after_ragged():
    layer = make(rc.LSTM, bidirectional=True)
    x = draw(N, T, D)
    expected, _ = layer.forward(x, training=True)
    layer.forward(x, lengths=LENGTHS, state=wrap(states(layer, 1)), training=True)
    np.testing.assert_array_equal(layer.forward(x, training=True)[0], expected)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 3),
    t=st.integers(0, 4),
    d=st.integers(1, 3),
    h=st.integers(1, 3),
    depth=st.integers(1, 2),
    bidirectional=st.booleans(),
    cell=st.sampled_from([rc.RNN, rc.LSTM, rc.GRU]),
    data=st.data(),
)
def test_shapes(n, t, d, h, depth, bidirectional, cell, data):
    layer = cell(d, h, depth, bidirectional=bidirectional, seed=0)
    lengths = data.draw(st.none() | st.lists(st.integers(0, t), min_size=n, max_size=n))
    x = np.ones((n, t, d))
    y, final = layer.forward(x, lengths=lengths, training=True)
    directions = 2 if bidirectional else 1
    assert y.shape == (n, t, h * directions)
    assert y.dtype == np.float32
    assert {s.shape for s in unwrap(final)} == {(depth * directions, n, h)}
    dx, dinitial = layer.backward(np.ones_like(y))
    assert dx.shape == x.shape
    assert {s.shape for s in unwrap(dinitial)} == {(depth * directions, n, h)}


# --- dropout ---


def test_dropout_between_layers():
    layer = rc.RNN(D, 50, 2, activation="identity", dropout=0.25, dtype="float64", seed=0)
    for name, value in layer.params.items():  # the second layer adds up what the first one lets through
        value[...] = {"weight_ih_l1": 1, "bias_ih_l0": 0.5}.get(name, 0)
    x = np.zeros((40, 5, D))
    plain, _ = layer.forward(x)
    np.testing.assert_allclose(plain, 25)
    y, _ = layer.forward(x, training=True)
    kept = y[:, :, 0] * 0.75 / 0.5  # units let through, each scaled by 1 / (1 - p)
    np.testing.assert_allclose(kept, kept.round(), atol=1e-9)
    assert abs(kept.mean() / 50 - 0.75) < 0.02
    assert kept.std() > 1
    assert not np.array_equal(y, layer.forward(x, training=True)[0])


def test_dropout_has_the_gradient_of_its_mask():
    layer = make(rc.LSTM, num_layers=3, bidirectional=True, dropout=0.4)
    x, dy = draw(N, T, D), draw(N, T, 2 * H, seed=1)
    state = layer.rng.bit_generator.state

    def objective():
        layer.rng.bit_generator.state = state  # the same masks again
        return (layer.forward(x, lengths=LENGTHS, training=True)[0] * dy).sum()

    objective()
    dx, _ = layer.backward(dy)
    assert relative_error(dx, central_differences(objective, x)) < 1e-7
    for name, array in layer.params.items():
        assert relative_error(layer.grads[name], central_differences(objective, array)) < 1e-7, name


def test_the_seed_decides():
    x = draw(N, T, D)
    y, again, other = (
        rc.LSTM(D, H, 2, dropout=0.5, seed=seed).forward(x, training=True)[0] for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(y, again)
    assert not np.array_equal(y, other)
