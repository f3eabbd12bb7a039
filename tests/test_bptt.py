"""How far the gradient goes back: against each loss differentiated on its own, through its last k steps."""

import numpy as np
import pytest
from kernel_cases import relative_error

import rnncore as rc

N, T, D, H, out_size = 3, 6, 2, 4, 3


def gradients(output: str, cell: str, bptt: str | int, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Gradients of the trainer's loss, as an update by plain gradient descent of rate 1 takes them."""
    model, x, y = problem(output, cell)
    before = model.state_dict()
    trainer = rc.Trainer(model, "mse", rc.SGD(lr=1.0), reduction="sum", bptt=bptt)
    trainer.step(x, y, lengths)
    return {name: before[name] - after for name, after in model.state_dict().items()}


def problem(output: str, cell: str) -> tuple[rc.SequenceModel, np.ndarray, np.ndarray]:
    model = rc.SequenceModel(D, H, out_size, cell, 2, input="dense", output=output, dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    return (
        model,
        rng.normal(size=(N, T, D)),
        rng.normal(size=(N, out_size) if output == "last" else (N, T, out_size)),
    )


def by_windows(output: str, cell: str, k: int, lengths: np.ndarray) -> dict[str, np.ndarray]:
    """The same, from one window of k steps for each loss, the state before it taken as given."""
    model, x, y = problem(output, cell)
    total = {name: np.zeros_like(value) for name, value in model.params.items()}
    for n in range(N):
        steps = [lengths[n] - 1] if output == "last" else range(lengths[n])
        for t in steps:
            start = max(t - k + 1, 0)
            state = None
            if start:
                _, state = model.forward(x[n : n + 1, :start])
            model.zero_grad()
            logits, _ = model.forward(x[n : n + 1, start : t + 1], state, training=True)
            d = np.zeros_like(logits)
            if output == "last":
                d[0] = 2 * (logits[0] - y[n])
            else:
                d[0, -1] = 2 * (logits[0, -1] - y[n, t])
            model.backward(d)
            for name, grad in model.grads.items():
                total[name] += grad
    return total


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("output", ["all", "last"])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("lengths", [(6, 6, 6), (4, 6, 1)])
def test_each_loss_reaches_its_last_k_steps(cell, output, k, lengths):
    found = gradients(output, cell, k, np.array(lengths))
    expected = by_windows(output, cell, k, np.array(lengths))
    for name, grad in expected.items():
        assert relative_error(found[name], grad) <= 1e-12, name


@pytest.mark.parametrize("k", [6, 7])
def test_as_many_steps_as_there_are_is_full(k):
    lengths = np.array([4, 6, 6])
    full, found = gradients("all", "lstm", "full", lengths), gradients("all", "lstm", k, lengths)
    for name, grad in full.items():
        np.testing.assert_array_equal(found[name], grad)


@pytest.mark.parametrize(
    ("bptt", "error", "message"),
    [
        (0, ValueError, "bptt must be at least 1, got 0"),
        ("naive", TypeError, "bptt must be an integer, got 'naive'"),
        (1.5, TypeError, "bptt must be an integer, got 1.5"),
    ],
)
def test_a_horizon_that_makes_no_sense(bptt, error, message):
    with pytest.raises(error, match=message):
        rc.Trainer(problem("all", "rnn")[0], "mse", bptt=bptt)


def test_a_horizon_is_refused_by_a_bidirectional_model():
    model = rc.SequenceModel(D, H, out_size, input="dense", bidirectional=True)
    with pytest.raises(ValueError, match="bptt must be 'full' for a bidirectional model"):
        rc.Trainer(model, "mse", bptt=2)
