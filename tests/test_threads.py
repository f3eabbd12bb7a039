"""Threads change no bit."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

import rnncore as rc
from rnncore import kernels

pytestmark = pytest.mark.skipif(kernels.active.name == "numpy", reason="the NumPy kernels run on one thread")


@pytest.fixture(autouse=True)
def threads_as_before():
    before = rc.get_num_threads()
    yield
    rc.set_num_threads(before)


def trained(
    threads: int,
    cell: str,
    N: int,
    lengths: np.ndarray | None,
    *,
    hidden_size: int = 90,
    T: int = 60,
    **options,
) -> dict[str, np.ndarray]:
    """Parameters, predictions and state after three updates large enough to be shared out."""
    rc.set_num_threads(threads)
    rng = np.random.default_rng(0)
    model = rc.SequenceModel(20, hidden_size, 5, cell, 2, seed=1, **options)
    trainer = rc.Trainer(model, "cross_entropy", rc.Adam(lr=0.01), clip_norm=0.1)
    x, y = rng.integers(0, 20, (N, T)), rng.integers(0, 5, (N, T) if model.output == "all" else N)
    for _ in range(3):
        trainer.step(x, y, lengths)
    state = trainer.state
    states = dict(enumerate(state if isinstance(state, tuple) else (state,)))
    return model.state_dict() | {"prediction": model.predict(x, lengths)} | states


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": True, "dtype": "float64"},
        {"output": "last", "embedding_size": 9},
        {"hidden_size": 140},
        {"dropout": 0.5},
        {"dropout": 0.3, "bidirectional": True, "output": "last"},
    ],
)
@pytest.mark.parametrize("N", [3, 21, 40])
@pytest.mark.parametrize("ragged", [False, True])
def test_the_number_of_threads_changes_no_bit(cell, options, N, ragged):
    lengths = np.random.default_rng(1).integers(0, 61, N) if ragged else None
    one = trained(1, cell, N, lengths, **options)
    for threads in (2, 3, 4):
        shared = trained(threads, cell, N, lengths, **options)
        for name, value in one.items():
            np.testing.assert_array_equal(shared[name], value, err_msg=f"{threads} threads: {name}")


def test_a_run_resumed_on_another_number_of_threads_ends_with_the_same_bits(tmp_path):
    task = rc.tasks.SequenceRegression(
        np.random.default_rng(0).normal(size=(50, 60, 4)),
        np.random.default_rng(1).normal(size=50),
        held_out=0,
    )

    def run(threads, steps, path, **options):
        rc.set_num_threads(threads)
        model = rc.SequenceModel(4, 90, 1, "gru", 2, input="dense", output="last", dropout=0.4)
        trainer = rc.Trainer(model, "mse", seed=0)
        trainer.fit(task, steps, checkpoint=path, progress=False, **options)
        return model.state_dict()

    whole = run(1, 6, tmp_path / "whole")
    run(3, 3, tmp_path / "half")
    for name, value in run(2, 6, tmp_path / "half", resume=True).items():
        np.testing.assert_array_equal(value, whole[name])


def shared_batch(cell: str, **options) -> tuple[rc.Trainer, np.ndarray, np.ndarray, np.ndarray]:
    """A trainer, and a ragged batch that is work enough for several threads."""
    rng = np.random.default_rng(0)
    model = rc.SequenceModel(4, 90, 5, cell, 2, input="dense", dropout=0.5, dtype="float64", **options)
    trainer = rc.Trainer(model, "cross_entropy", rc.SGD(lr=0.1))
    return trainer, rng.normal(size=(40, 60, 4)), rng.integers(0, 5, (40, 60)), rng.integers(1, 61, 40)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_refused_batch_leaves_a_shared_one_to_be_read(threads):
    rc.set_num_threads(threads)
    trainer, x, y, lengths = shared_batch("lstm")
    trainer.step(x, y, lengths)
    prediction, n, t = trainer.prediction, 17, int(lengths[17]) - 1
    y[n, t] = 5
    with pytest.raises(ValueError, match=rf"y\[{n}, {t}\] = 5, expected"):
        trainer.step(x, y, lengths)
    x[n, t, 2] = np.inf
    with pytest.raises(ValueError, match=rf"x\[{n}, {t}, 2\] = inf, expected a finite number"):
        trainer.step(x, y, np.minimum(lengths + 1, 60))
    np.testing.assert_array_equal(trainer.prediction, prediction)


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
@pytest.mark.parametrize("threads", [1, 3])
def test_the_place_where_a_shared_batch_fails(threads):
    rc.set_num_threads(threads)
    trainer, x, y, lengths = shared_batch("rnn", activation="identity")
    t = int(lengths[31]) // 2
    x[31, t] = 1e308
    trainer.model.params["rnn.weight_ih_l0"][7] = 10
    with pytest.raises(
        FloatingPointError, match=rf"layer rnn.l0, gate h at time step {t} of sequence 31 is inf"
    ):
        trainer.step(x, y, lengths)


# Weights enough for threads to share the products of few rows, and so many that they share more rows' too.
@pytest.mark.parametrize(
    ("cell", "hidden_size", "options"),
    [
        ("lstm", 225, {}),
        ("lstm", 330, {"bidirectional": True}),
        ("gru", 380, {}),
        ("gru", 270, {"reset_after": False, "dtype": "float64"}),
        ("rnn", 660, {"output": "last"}),
    ],
)
@pytest.mark.parametrize("N", [1, 5, 19])
def test_threads_that_share_products_change_no_bit(cell, hidden_size, options, N):
    lengths = np.random.default_rng(1).integers(8, 17, N)
    one = trained(1, cell, N, lengths, hidden_size=hidden_size, T=16, **options)
    for threads in (2, 5):
        shared = trained(threads, cell, N, lengths, hidden_size=hidden_size, T=16, **options)
        for name, value in one.items():
            np.testing.assert_array_equal(shared[name], value, err_msg=f"{threads} threads: {name}")


# More rows than are taken through the steps at a time: each share's bands have its buffers in turn.
@pytest.mark.skipif(kernels.active.name == "numpy", reason="NumPy's products may depend on the batch")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2, "output": "last"}])
@pytest.mark.parametrize("H", [32, 37])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_large_batch_gives_the_bits_of_small_ones(cell, options, H, threads):
    rc.set_num_threads(threads)
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(300, 40, 3)).astype(np.float32), rng.integers(0, 41, 300)
    model = rc.SequenceModel(3, H, 2, cell, input="dense", **options)
    state = model.forward(x, lengths=lengths)[1]
    states = [np.split(array, 10, axis=1) for array in (state if isinstance(state, tuple) else (state,))]
    y, some = model.predict(x, lengths), slice(30, 60)
    np.testing.assert_array_equal(model.predict(x[some], lengths[some]), y[some])
    part = model.forward(x[some], lengths=lengths[some])[1]
    for found, expected in zip(part if isinstance(part, tuple) else (part,), states, strict=True):
        np.testing.assert_array_equal(found, expected[1])
    if "bidirectional" not in options:
        stream, few = model.stream(300), model.stream(30)
        for t in range(3):
            np.testing.assert_array_equal(few.step(x[some, t]), stream.step(x[:, t])[some])


def test_threads_that_fell_asleep_wake_up_or_are_done_without():
    x = np.random.default_rng(0).normal(size=(40, 60, 4))
    model = rc.SequenceModel(4, 90, 3, "gru", input="dense")
    rc.set_num_threads(1)
    expected = model.predict(x)
    for threads, pause in ((2, 0), (7, 0.3), (2, 0), (3, 0.3), (7, 0)):  # the same plan, laid out anew
        rc.set_num_threads(threads)
        time.sleep(pause)
        for _ in range(3):
            np.testing.assert_array_equal(model.predict(x), expected)


# Every other step takes weights that no cache holds from the last one back: after five steps, the next sixth.
@pytest.mark.skipif(kernels.active.name == "numpy", reason="NumPy's products may depend on the batch")
@pytest.mark.parametrize(("cell", "H"), [("rnn", 740), ("lstm", 370), ("gru", 520)])
@pytest.mark.parametrize("N", [1, 2, 3, 7])
def test_the_order_of_weights_changes_no_bit(cell, H, N):
    x = np.random.default_rng(0).normal(size=(N, 5, 4)).astype(np.float32)
    model = rc.SequenceModel(4, H, 3, cell, input="dense", init="pytorch")
    y, stream = model.predict(x), model.stream(N)
    np.testing.assert_array_equal(model.predict(x), y)
    for t in range(5):
        np.testing.assert_array_equal(stream.step(x[:, t]), y[:, t])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_predictions_follow_any_change_of_a_weight(cell):
    x = np.random.default_rng(0).normal(size=(2, 9, 5))
    model = rc.SequenceModel(5, 400, 3, cell, 2, input="dense", seed=0)
    rng = np.random.default_rng(1)
    before = model.predict(x)
    for name, array in model.params.items():
        i = tuple(rng.integers(0, size) for size in array.shape)
        old = array[i]
        array[i] = old + 0.5
        same = rc.SequenceModel(5, 400, 3, cell, 2, input="dense", seed=2)
        same.load_state_dict(model.state_dict())
        changed = same.predict(x)
        assert (changed != before).any(), name
        for first, second in ((1, 2), (2, 1)):  # each packs the weights in shares of its own
            rc.set_num_threads(first)
            array[i] = old + 0.5
            np.testing.assert_array_equal(model.predict(x), changed, err_msg=name)
            rc.set_num_threads(second)
            array[i] = old
            np.testing.assert_array_equal(model.predict(x), before, err_msg=name)


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (0, ValueError, r"count must be 1 \.\.\. 64, got 0"),
        (65, ValueError, r"count must be 1 \.\.\. 64, got 65"),
        (1.5, TypeError, "count must be an integer, got 1.5"),
        (True, TypeError, "count must be an integer, got True"),
    ],
)
def test_a_number_of_threads_that_makes_no_sense(count, error, message):
    with pytest.raises(error, match=message):
        rc.set_num_threads(count)


def in_a_fresh_process(program: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", "-c", program],  # the installed package, not the sources in the folder
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.skipif(kernels.active.name == "numpy", reason="the NumPy kernels use one thread")
def test_the_environment_sets_the_number():
    program = "import rnncore; print(rnncore.get_num_threads())"
    assert in_a_fresh_process(program, RNNCORE_NUM_THREADS="3").stdout.split() == ["3"]
    wrong = in_a_fresh_process(program, RNNCORE_NUM_THREADS="many")
    assert "RNNCORE_NUM_THREADS must be a whole number of 1 ... 64, got 'many'" in wrong.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own():
    program = """
import os
import numpy as np
import rnncore as rc

rc.set_num_threads(2)
model = rc.SequenceModel(8, 96, 8, input="dense")
x = np.ones((32, 40, 8), np.float32)
before = model.predict(x)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(model.predict(x), before) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert in_a_fresh_process(program).stdout.split() == ["0"]
