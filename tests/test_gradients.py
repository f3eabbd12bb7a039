"""What becomes of a gradient on its way back through time."""

import numpy as np
import pytest

import rnncore as rc
from rnncore import pictures
from rnncore.tasks import gradients
from rnncore.tasks.characters import cross_entropy


def loss(model, rnn_state, x, y):
    logits, _ = model.forward(x, rnn_state)
    return float(cross_entropy(logits[:, -1:], y[:, None]).sum())


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_norms_against_differences(cell):
    model = rc.SequenceModel(5, 3, 5, cell=cell, dtype="float64", seed=1)
    rng = np.random.default_rng(0)
    x, y = rng.integers(5, size=(2, 6)), rng.integers(5, size=2)
    before = model.forward(x, training=True)[0]
    found = gradients.norms(model, x, y)
    assert found.shape == (6,)
    assert all((grad == 0).all() for grad in model.grads.values())
    for t in range(5):
        _, state = model.forward(x[:, : t + 1])
        expected = np.zeros((2, 3))
        for n, j in np.ndindex(2, 3):
            sides = []
            for step in (1e-6, -1e-6):
                moved = tuple(s.copy() for s in state) if cell == "lstm" else state.copy()
                (moved[0] if cell == "lstm" else moved)[0, n, j] += step
                sides.append(loss(model, moved, x[:, t + 1 :], y))
            expected[n, j] = (sides[0] - sides[1]) / 2e-6
        assert found[t] == pytest.approx(np.linalg.norm(expected, axis=1).mean(), rel=1e-7)
    assert np.array_equal(model.forward(x)[0], before)


def test_a_gradient_that_explodes_and_one_that_vanishes():
    for scale in (2.0, 0.5):
        model = rc.SequenceModel(2, 4, 2, cell="rnn", activation="identity", dtype="float64", seed=0)
        model.params["rnn.weight_hh_l0"][...] *= scale  # of an orthogonal matrix
        model.params["head.weight"][...] *= 1e-5  # the loss is as good as linear
        found = gradients.norms(model, [[0, 1] * 5], [1])
        assert found[:-1] / found[1:] == pytest.approx(np.full(9, scale))


def test_picture(tmp_path):
    pytest.importorskip("matplotlib")
    pictures.gradient_norms(tmp_path / "g.png", "Gradients", [1e-3, 0.01, 0.1, 1.0], ["full", 2, 1])
    assert (tmp_path / "g.png").stat().st_size > 10_000
