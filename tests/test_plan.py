"""Plans belong to one pass at a time, the latest few are kept, and what cannot fit in memory is refused."""

from types import SimpleNamespace

import numpy as np
import pytest

import rnncore as rc
from rnncore import kernels, machine
from rnncore.plan import Plans


def plan(nbytes=1):
    return SimpleNamespace(nbytes=nbytes)


def test_a_plan_is_taken_by_one_pass_at_a_time():
    plans, made = Plans(), [plan(), plan()]
    first = plans.take("a", lambda: made[0])
    second = plans.take("a", lambda: made[1])
    assert (first, second) == (made[0], made[1])
    plans.give_back("a", first)
    assert plans.take("a", plan) is first
    assert all(plans.take("a", plan) is not one for one in made)


def test_the_latest_plans_are_kept():
    plans = Plans(count=2)
    a, b, c = plan(), plan(), plan()
    for key, one in (("a", a), ("b", b), ("c", c)):
        plans.give_back(key, one)
    assert plans.take("a", plan) is not a
    assert plans.take("b", plan) is b
    assert plans.take("c", plan) is c


def test_idle_plans_take_a_bounded_amount_of_memory():
    plans = Plans(count=8, room=100)
    a, b, large = plan(60), plan(30), plan(101)
    plans.give_back("a", a)
    plans.give_back("b", b)
    assert plans.take("a", plan) is a
    plans.give_back("a", a)
    plans.give_back("large", large)
    assert plans.take("b", plan) is not b
    assert plans.take("a", plan) is not a
    assert plans.take("large", plan) is large  # one may always stay: its shape may be the only one


@pytest.mark.skipif(kernels.active.name == "numpy", reason="its inference keeps what training does")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_the_estimate_of_a_plans_memory(cell, options, training):
    model = rc.SequenceModel(16, 64, 16, cell, input="dense", **options)
    x = np.zeros((32, 500, 16))
    if training:
        model.run(x).release()
    else:
        model.forward(x)
    ((_, found),) = model._plans._idle
    numbers = sum(layer.numbers(training) for layer in model.chain) + 16
    estimate = len(x) * x.shape[1] * numbers * 4
    assert 0.5 * found.nbytes <= estimate <= 1.2 * found.nbytes


def test_a_batch_that_cannot_fit_is_refused_before_anything_is_allocated(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 2.0**30)
    model = rc.SequenceModel(1, 1024, 1, input="dense")
    x = np.zeros((1, 2_000_000, 1), np.float32)
    with pytest.raises(
        MemoryError, match=r"N = 1 sequences of T = 2000000 steps needs about .* GiB of buffers, and 1 GiB"
    ):
        model.predict(x)
    assert model.predict(x[:, :3]).shape == (1, 3, 1)
