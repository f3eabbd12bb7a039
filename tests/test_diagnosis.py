"""A step that fails tells in which layer, gate and time step infinity or NaN begins."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest

import rnncore as rc
from rnncore import diagnosis, kernels

pytestmark = pytest.mark.filterwarnings("ignore:overflow|invalid value|divide:RuntimeWarning")

LENGTHS = [6, 3, 5]
ONE = np.zeros((3, 6, 2))
ONE[2, 0] = 1  # at the first step of the last sequence


def make(cell="lstm", **options):
    """A model whose parameters are zero."""
    settings = {"input": "dense", "dtype": "float64", "init": "zeros", "bias": "single"} | options
    return rc.SequenceModel(2, 4, 2, cell, **settings)


def linear(W_ih=1.0, W_hh=0.0, W_hy=1.0, **options):
    """An Elman network that multiplies its state: h_t = W_ih x_t + W_hh h_{t-1}, for the first unit alone."""
    model = make("rnn", activation="identity", **options)
    for name, value in model.params.items():
        if name.startswith("rnn.weight_ih"):
            value[0, 0] = W_ih
        elif name.startswith("rnn.weight_hh"):
            value[0, 0] = W_hh
        elif name == "head.weight":
            value[0, 0] = value[0, -4] = W_hy
    return model


def failure(model, x=ONE, y=ONE, loss="mse", state=None, **options):
    trainer = rc.Trainer(model, loss, "sgd", **options)
    before = model.state_dict()
    with pytest.raises(FloatingPointError) as error:
        trainer.step(x, y, LENGTHS, state)
    for name, value in model.params.items():
        np.testing.assert_array_equal(value, before[name])
    what, _, where = str(error.value).partition(" at update 1: the parameters stay as they were. ")
    return what, where


def test_forward():
    """1, 1e100, ..., 1e300, inf"""
    what, where = failure(linear(W_hh=1e100))
    assert what.startswith("the loss is ")
    assert where == "Forward, it begins in layer rnn.l0, gate h at time step 4 of sequence 2 is inf."


def test_forward_in_the_reverse_direction():
    x = np.zeros((3, 6, 2))
    x[2, 4] = 1  # its last step, where the reverse direction begins
    _, where = failure(linear(W_hh=1e80, bidirectional=True), x)
    assert where == "Forward, it begins in layer rnn.l0_reverse, gate h at time step 0 of sequence 2 is inf."


def test_forward_in_the_second_layer():
    _, where = failure(linear(W_hh=1e30, num_layers=2), 1e160 * ONE)
    # layer 0 is 1e160 · 1e30^t, so layer 1 is (t + 1) times as much: both are still finite after five steps
    assert where == "Forward, it begins in the loss, the sum of its terms."
    model = linear(W_hh=1e30, num_layers=2)
    model.params["rnn.weight_ih_l1"][0, 0] = 1e60
    _, where = failure(model, 1e160 * ONE)
    assert where == "Forward, it begins in layer rnn.l1, gate h at time step 3 of sequence 2 is inf."


@pytest.mark.parametrize("layer", [0, 1])
def test_a_gate_of_a_gru(layer):
    """A closed reset gate times an infinite product is no number, in n alone."""
    model = make("gru", num_layers=2)
    r, z, n = (slice(4 * k, 4 * k + 4) for k in range(3))
    for k in range(2):
        model.params[f"rnn.bias_ih_l{k}"][n] = 5.0  # h goes to 1
        model.params[f"rnn.bias_ih_l{k}"][z] = -50.0  # at the first step
    model.params[f"rnn.bias_ih_l{layer}"][r] = -1000.0
    model.params[f"rnn.weight_hh_l{layer}"][n] = 1e308
    _, where = failure(model)
    assert where == f"Forward, it begins in layer rnn.l{layer}, gate n at time step 1 of sequence 0 is nan."


def test_the_head():
    model = make(output="last")
    model.params["rnn.bias_ih_l0"][...] = 50.0  # h = tanh(5)
    model.params["head.weight"][1] = 1e308
    _, where = failure(model, y=ONE[:, 0])
    assert where == "Forward, it begins in layer head, output of sequence 0 is inf."


def test_the_loss():
    what, where = failure(make(), y=1e200 * ONE)
    assert what == "the loss is inf"
    assert where == "Forward, it begins in the loss, the sum of its terms."


def test_backward():
    """The outputs are zero; the way back from the last step multiplies by 1e100 four times."""
    what, where = failure(linear(W_hh=1e100), 0 * ONE, ONE + np.eye(6)[4][:, None])
    assert what.startswith("the norm of the gradients is ")
    assert (
        where
        == "Backward, it begins in layer rnn.l0, gradient of gate h at time step 0 of sequence 0 is -inf."
    )


def test_backward_in_an_lstm():
    model = make()
    model.params["head.weight"][...] = 1
    model.params["rnn.weight_hh_l0"][8:12] = 1e160  # through g alone
    y = np.zeros((3, 6, 2))
    y[1, 2] = 1  # the end of sequence 1
    _, where = failure(model, 0 * ONE, y)
    # at step 0 the gradient of h is infinite; that of the input gate is g = 0 times as much
    assert (
        where
        == "Backward, it begins in layer rnn.l0, gradient of gate i at time step 0 of sequence 1 is nan."
    )


def test_backward_through_the_head():
    model = make()
    model.params["head.weight"][...] = 1e308
    y = np.zeros((3, 6, 2))
    y[1, 1] = 100.0
    _, where = failure(model, 0 * ONE, y)
    assert (
        where == "Backward, it begins in layer head, gradient of input at time step 1 of sequence 1 is -inf."
    )


def test_the_gradient_of_a_parameter():
    _, where = failure(linear(W_ih=0.0), 1e200 * ONE, 1e150 * ONE)
    assert where == "Backward, it begins in the gradient of rnn.weight_ih_l0."


def test_the_norm():
    what, where = failure(linear(W_ih=0.0), 1e20 * ONE, 1e150 * ONE)
    assert what == "the norm of the gradients is inf"
    assert where == "Every gradient is finite, but the sum of their squares is not."


def test_truncated_backpropagation_is_followed():
    y = ONE + np.eye(6)[4][:, None]
    assert np.isfinite(rc.Trainer(linear(W_hh=1e100), "mse", "sgd", bptt=2).step(0 * ONE, y, LENGTHS))
    _, where = failure(linear(W_hh=1e200), 0 * ONE, y, bptt=3)
    assert (
        where
        == "Backward, it begins in layer rnn.l0, gradient of gate h at time step 2 of sequence 0 is -inf."
    )


def test_what_was_given():
    model = make()
    model.params["rnn.bias_ih_l0"][3] = np.nan
    assert failure(model)[1] == "Parameter rnn.bias_ih_l0 holds nan."
    model = make()
    model.params["head.weight"][...] = 1
    state = np.zeros((1, 3, 4)), np.full((1, 3, 4), np.inf)
    assert failure(model, state=state)[1] == "The initial state holds inf."


def test_dropout_is_the_same_again():
    """Only the units that were kept can overflow."""
    model = make("rnn", num_layers=2, dropout=0.5, activation="identity", seed=1)
    model.params["rnn.bias_ih_l0"][...] = 1e200
    model.params["rnn.weight_ih_l1"][...] = 1e200
    model.params["head.weight"][...] = 1
    _, where = failure(model)
    assert where.startswith("Forward, it begins in layer rnn.l1, gate h at time step 0 of sequence ")


def test_kernels_that_overflow_where_numpy_does_not():
    """Numbers as large as theirs are rounded differently; nothing is then said of gradients."""
    model = linear()
    trainer = rc.Trainer(model, "mse", "sgd")
    trainer.step(ONE, ONE, LENGTHS)
    failed = copy.copy(trainer._latest)
    for loss in (np.nan, np.inf):
        failed.step = SimpleNamespace(loss=loss)
        assert diagnosis.locate(model, failed, "mean") == (
            f"With the NumPy kernels all is finite: only the kernels {kernels.active.name} overflow."
        )
    failed.step = SimpleNamespace(loss=1.0)
    assert diagnosis.locate(model, failed, "mean").startswith("Every gradient is finite, but the sum")


def test_a_state_that_is_no_number():
    for activation in ("tanh", "relu", "prelu"):
        model = make("rnn", activation=activation, init="default")
        state = np.zeros((1, 3, 4))
        state[0, 2, 1] = np.nan
        what, where = failure(model, state=state)
        assert (what, where) == ("the loss is nan", "The initial state holds nan.")
