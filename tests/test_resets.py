"""Sequences that begin anew at some of their steps equal their pieces run by themselves."""

from itertools import pairwise

import numpy as np
import pytest

import rnncore as rc
from rnncore import kernels
from rnncore.rows import Fragments

N, T, D, H = 4, 9, 3, 6
RESETS = np.zeros((N, T), bool)
RESETS[0, [3, 4, 8]] = RESETS[1, 0] = RESETS[2, [2, 7]] = True
LENGTHS = np.array([9, 5, 6, 0])  # the reset at step 7 of sequence 2 is behind its end
CELLS = [(rc.RNN, {}), (rc.LSTM, {}), (rc.GRU, {}), (rc.GRU, {"reset_after": False})]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def leaves(state):
    if isinstance(state, np.ndarray):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]


def wrap(arrays):
    return tuple(arrays) if len(arrays) > 1 else arrays[0]


def pieces(n, length):
    """The bounds of the pieces of sequence n."""
    cuts = [0, *(t for t in range(1, length) if RESETS[n, t]), length]
    return [(a, b) for a, b in pairwise(cuts) if a < b]


@pytest.mark.parametrize(("cell", "options"), CELLS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("more", [{}, {"num_layers": 2}, {"num_layers": 2, "bidirectional": True}])
def test_pieces_run_apart_give_the_same(cell, options, ragged, more):
    layer = cell(D, H, dtype="float64", seed=0, **options, **more)
    directions = len(layer.directions)
    depth = layer.num_layers * directions
    lengths = LENGTHS if ragged else np.full(N, T)
    x, dy = draw(N, T, D), draw(N, T, H * directions, seed=1)
    initial = [draw(depth, N, H, seed=2 + k) for k in range(layer.states)]
    arriving = [draw(depth, N, H, seed=4 + k) for k in range(layer.states)]

    y, final, dx, dinitial = np.zeros_like(dy), [a.copy() for a in initial], np.zeros_like(x), []
    dinitial = [np.zeros_like(a) for a in initial]
    reverse = np.arange(depth) % directions == 1
    for n in range(N):
        parts = pieces(n, lengths[n])
        if not parts:  # the state goes through
            for k in range(layer.states):
                dinitial[k][:, n] = arriving[k][:, n]
        for i, (a, b) in enumerate(parts):
            begins, ends = (
                ~reverse & (i == 0) & ~RESETS[n, 0] | reverse & (i == len(parts) - 1),
                ~reverse & (i == len(parts) - 1) | reverse & (i == 0),
            )
            state = [np.where(begins[:, None], s[:, n], 0)[:, None] for s in initial]
            one = layer.run(x[n : n + 1, a:b], state=wrap(state))
            y[n, a:b] = one.output[0]
            dstate = [np.where(ends[:, None], s[:, n], 0)[:, None] for s in arriving]
            d, d0 = one.backward(dy[n : n + 1, a:b], wrap(dstate))
            dx[n, a:b] = d[0]
            for k in range(layer.states):
                final[k][ends, n] = leaves(one.state)[k][ends, 0]
                dinitial[k][begins, n] = leaves(d0)[k][begins, 0]
    expected = {name: grad.copy() for name, grad in layer.grads.items()}

    layer.zero_grad()
    found, last = layer.forward(x, wrap(initial), lengths, training=True, resets=RESETS)
    np.testing.assert_allclose(found, y, rtol=1e-10, atol=1e-12)
    for a, b in zip(leaves(last), final, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    d, d0 = layer.backward(dy, wrap(arriving))
    np.testing.assert_allclose(d, dx, rtol=1e-10, atol=1e-12)
    for a, b in zip(leaves(d0), dinitial, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    for name, grad in layer.grads.items():
        np.testing.assert_allclose(grad, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("input", ["dense", "tokens"])
@pytest.mark.parametrize("output", ["all", "last"])
@pytest.mark.parametrize("bptt", ["full", 1, 2])
def test_a_step_equals_one_on_the_pieces(input, output, bptt):
    x = draw(N, T, D) if input == "dense" else np.random.default_rng(0).integers(0, D, (N, T))
    y = draw(N, T, 2, seed=1) if output == "all" else draw(N, 2, seed=1)
    options = {"input": input, "output": output, "dtype": "float64"}
    lengths = np.array([9, 5, 6, 1])
    models = [rc.SequenceModel(D, H, 2, "gru", 2, **options) for _ in range(2)]
    whole, apart = (rc.Trainer(m, "mse", rc.SGD(lr=0.1), reduction="sum", bptt=bptt) for m in models)
    bounds = [(n, a, b) for n in range(N) for a, b in pieces(n, lengths[n])]
    if output == "last":
        bounds = [max(b for b in bounds if b[0] == n) for n in range(N)]
    px, size = np.zeros((len(bounds), *x.shape[1:]), x.dtype), [b - a for _, a, b in bounds]
    py = np.zeros((len(bounds), *y.shape[1:]))
    for i, (n, a, b) in enumerate(bounds):
        px[i, : b - a] = x[n, a:b]
        py[i, : b - a if output == "all" else None] = y[n, a:b] if output == "all" else y[n]
    for _ in range(3):
        expected = apart.step(px, py, size)
        assert whole.step(x, y, lengths, resets=RESETS) == pytest.approx(expected, rel=1e-10)
    for name, value in models[0].params.items():
        np.testing.assert_allclose(value, models[1].params[name], rtol=1e-10, atol=1e-12)
    loss, count, _ = whole.measure(x, y, lengths, resets=RESETS)
    assert loss == pytest.approx(apart.measure(px, py, size)[0], rel=1e-10)
    assert count == apart.measure(px, py, size)[1]


@pytest.mark.skipif(kernels.active.name == "numpy", reason="its products may depend on the batch")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_stream_that_begins_anew_gives_the_same_bits(cell):
    model = rc.SequenceModel(D, H, 2, cell, 2, input="dense")
    x = draw(N, T, D).astype(np.float32)
    expected = model.predict(x, resets=RESETS)
    stream = model.stream(N)
    for t in range(T):
        np.testing.assert_array_equal(stream.step(x[:, t], reset=RESETS[:, t]), expected[:, t])


@pytest.mark.parametrize("threads", [1, 3])
def test_dropout_and_threads_change_no_bit(threads):
    before = rc.get_num_threads()
    rng = np.random.default_rng(0)
    x, y, resets = draw(20, 60, 4), draw(20, 60, 3), rng.random((20, 60)) < 0.05

    def train(threads):
        rc.set_num_threads(threads)
        model = rc.SequenceModel(4, 90, 3, "lstm", 2, input="dense", dropout=0.5)
        trainer = rc.Trainer(model, "mse")
        losses = [trainer.step(x, y, resets=resets) for _ in range(3)]
        return losses, trainer.state, model.state_dict()

    try:
        one, some = train(1), train(threads)
    finally:
        rc.set_num_threads(before)
    assert some[0] == one[0]
    for a, b in zip(leaves(some[1]), leaves(one[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    for name, value in some[2].items():
        np.testing.assert_array_equal(value, one[2][name])


def test_batches_of_a_task_may_begin_anew():
    x, y = draw(N, T, D), draw(N, T, 2, seed=1)
    batch = rc.tasks.Batch(x, y, resets=RESETS)
    models = [rc.SequenceModel(D, H, 2, input="dense", dtype="float64") for _ in range(3)]
    trainers = [rc.Trainer(model, "mse") for model in models]
    trainers[0].fit([batch], 2, epochs=2, progress=False)
    for _ in range(2):
        trainers[1].step(x, y, resets=RESETS)
        trainers[2].accumulate([batch, batch])
    for name, value in models[0].params.items():
        np.testing.assert_array_equal(value, models[1].params[name])
        np.testing.assert_allclose(value, models[2].params[name], rtol=1e-12)


def test_no_reset_is_none():
    model = rc.SequenceModel(D, H, 2, input="dense")
    x = draw(N, T, D)
    np.testing.assert_array_equal(model.predict(x, resets=np.zeros((N, T), bool)), model.predict(x))


def test_fragments_take_the_room_of_the_batch():
    """However many resets there are: few plans serve all, and none has more rows than the batch has steps."""
    model = rc.SequenceModel(D, H, 2, input="dense")
    rng = np.random.default_rng(0)
    x = draw(8, 128, D)
    for _ in range(20):
        model.predict(x, resets=rng.random((8, 128)) < rng.random())
    assert len(model._plans._idle) <= 8
    assert {plan.rows.capacity for _, plan in model._plans._idle} == {8 * 128}
    cut = Fragments.cut(np.ones((8, 128), bool), None, last=False)
    assert (len(cut.lengths), cut.room) == (1024, 1024)


@pytest.mark.parametrize(
    ("resets", "error", "message"),
    [
        (np.zeros((N, T)), TypeError, "resets must hold True or False, got dtype float64"),
        (np.zeros((N, T + 1), bool), ValueError, r"resets must have shape \(4, 9\), got \(4, 10\)"),
        (np.zeros(N, bool), ValueError, r"resets must have shape \(4, 9\), got \(4,\)"),
    ],
)
def test_wrong_resets(resets, error, message):
    model = rc.SequenceModel(D, H, 2, input="dense")
    trainer = rc.Trainer(model, "mse")
    x, y = draw(N, T, D), draw(N, T, 2)
    for call in (
        model.predict,
        model.forward,
        model.run,
        lambda x, resets: trainer.step(x, y, resets=resets),
    ):
        with pytest.raises(error, match=message):
            call(x, resets=resets)
    both = rc.SequenceModel(D, H, 2, input="dense", output="last", bidirectional=True)
    with pytest.raises(ValueError, match="resets must be None for a bidirectional model with output='last'"):
        both.predict(x, resets=RESETS)


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_the_place_of_an_overflow_is_told_in_the_callers_steps():
    model = rc.SequenceModel(D, H, 2, "rnn", input="dense", activation="identity", dtype="float64")
    x, y = draw(N, T, D), draw(N, T, 2)
    x[0, 6] = 1e308
    model.params["rnn.weight_ih_l0"][...] = 10
    with pytest.raises(FloatingPointError, match="gate h at time step 6 of sequence 0 is inf"):
        rc.Trainer(model, "mse").step(x, y, resets=RESETS)
