"""sigmoid, tanh and exp of the compiled kernels: how far off they are, and what becomes of extremes."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest

from rnncore import kernels
from rnncore.rows import Rows, Variable

each_level = pytest.mark.parametrize("level", [name for name in kernels.available() if name != "numpy"])
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def sigmoid(level, x) -> np.ndarray:
    return cell(level, "sigmoid", x)


def tanh(level, x) -> np.ndarray:
    return cell(level, "tanh", x)


def cell(level, activation, x) -> np.ndarray:
    """An Elman cell of one unit whose input weight is 1, so that h is the activation of x."""
    y, one, zero = np.empty((len(x), 1), x.dtype), np.ones((1, 1), x.dtype), np.zeros((1, 1), x.dtype)
    state = np.zeros((len(x), 1), x.dtype)
    weights = Variable(one), Variable(zero)
    stage = kernels.load(level).RNN(
        Rows(len(x), 1),
        Variable(x[:, None]),
        Variable(y),
        weights,
        (Variable(state),),
        (Variable(state.copy()),),
        activation=activation,
    )
    stage.pack()
    stage.forward()
    return y[:, 0]


def softmax(level, x) -> np.ndarray:
    """The share of x beside a zero; of positive x it is that of the zero which depends on an exp."""
    both, shares = np.stack([x, np.zeros_like(x)], axis=1), np.empty((len(x), 2), x.dtype)
    kernels.load(level).Activation(
        Rows(len(x), 1), Variable(both), Variable(shares), kind="softmax"
    ).forward()
    return shares[:, 0]


FUNCTIONS = {
    sigmoid: lambda e: e / (1 + e),
    tanh: lambda e: (e * e - 1) / (e * e + 1),
    softmax: lambda e: e / (1 + e),
}


def precise(function, x) -> np.ndarray:
    """The function in enough digits for e^x - 1, rounded to float64."""
    with localcontext(prec=100, Emin=-(10**6), Emax=10**6):
        return np.array([float(FUNCTIONS[function](Decimal(number).exp())) for number in x.tolist()])


def arguments(dtype) -> np.ndarray:
    """Of all sizes, and many where rounding to a power of two, clamping and underflow begin."""
    rng = np.random.default_rng(0)
    edges = [math.log(2) / 2, 10, 20, 87, 88, 89, 104, 708, 710, 745]
    sizes = [10 ** rng.uniform(-30, 4, 2000), rng.uniform(0, 25, 2000)]
    sizes += [edge + 10 ** rng.uniform(-6, 0, 50) * rng.choice([-1, 1], 50) for edge in edges]
    x = np.concatenate(sizes)
    return (x * rng.choice([-1, 1], len(x))).astype(dtype)


@each_level
@each_dtype
@pytest.mark.parametrize("function", FUNCTIONS)
def test_within_four_units_in_the_last_place(level, dtype, function):
    x = arguments(dtype)
    expected = precise(function, x)
    y = function(level, x)
    tiny = np.finfo(dtype).tiny
    normal = abs(expected) >= tiny
    error = abs(y - expected) / np.spacing(abs(expected).astype(dtype))
    assert error[normal].max() <= 4
    assert (abs(y[~normal]) <= tiny).all()
    assert normal.mean() > 0.7


@each_level
@each_dtype
def test_extremes(level, dtype):
    largest = np.finfo(dtype).max
    x = np.array([0.0, -0.0, largest, -largest, np.inf, -np.inf, np.nan], dtype)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(sigmoid(level, x), [0.5, 0.5, 1, 0, 1, 0, np.nan])
        y = tanh(level, x)
    np.testing.assert_array_equal(y, [0, 0, 1, -1, 1, -1, np.nan])
    np.testing.assert_array_equal(np.signbit(y[:2]), [False, False])  # x is added to a bias of zero
    np.testing.assert_array_equal(softmax(level, x[[0, 1, 2, 3]]), [0.5, 0.5, 1, 0])
