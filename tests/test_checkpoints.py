"""A run that was stopped and goes on gives the bits of one that never stopped."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import rnncore as rc
from rnncore.files import load_arrays
from rnncore.schedules import Cosine, EarlyStopping, ReduceOnPlateau, WarmUp
from rnncore.tasks import Batch

X = np.random.default_rng(9).normal(size=(3, 4, 2))


class Streams:
    """A task: epochs of five batches in random order, ragged, the second half carrying the state on."""

    def batches(self, rng):
        data = rng.normal(size=(5, 3, 4, 2))
        for k in rng.permutation(5):
            lengths = rng.integers(1, 5, size=3) if k % 2 else None
            yield Batch(data[k], data[k].cumsum(axis=1), lengths, carry=k > 2)

    def validate(self, model):
        return {"error": float(((model.predict(X) - X.cumsum(axis=1)) ** 2).mean())}

    def evaluate(self, model):
        return self.validate(model)


class Crash(Exception):
    pass


def crash_at(step):
    def callback(now, loss):
        if now == step:
            raise Crash

    return callback


def make(seed=1, **options):
    rng = np.random.default_rng(seed)
    settings = {"cell": "lstm", "num_layers": 2, "dropout": 0.3, "seed": rng} | options
    model = rc.SequenceModel(2, 4, 2, input="dense", **settings)
    return rc.Trainer(model, "mse", rc.Adam(lr=0.02), clip_norm=1.0, seed=rng)


def plain():
    return {}


def everything():
    """The error falls, so a rule that waits for it to rise lowers the rate and ends the run."""
    return {
        "accumulate": 3,
        "validate_every": 2,
        "schedule": WarmUp(5, ReduceOnPlateau("error", "max", patience=1, decay=0.5)),
        "early_stopping": EarlyStopping("error", "max", patience=6),
    }


def outcome(trainer, history):
    """All bits of a finished run."""
    of_model = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    of_optimizer = {f"optimizer.{name}": value for name, value in trainer.optimizer.state_dict().items()}
    return {
        **of_model,
        **of_optimizer,
        "settings": trainer.optimizer.settings.copy(),
        "loss": np.array(history.loss),
        "steps": np.array(list(history.metrics)),
        "metrics": np.array([found["error"] for found in history.metrics.values()]),
    }


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


# --- the same bits ---


@pytest.mark.parametrize("options", [plain, everything])
@pytest.mark.parametrize("every", [1, 3])
def test_a_run_that_crashed_goes_on(tmp_path, options, every):
    trainer = make()
    expected = outcome(trainer, trainer.fit(Streams(), 17, progress=False, **options()))
    length = len(expected["loss"])
    assert length == 17 if options is plain else 13 < length < 17
    for stop in range(1, length + 1):
        path = tmp_path / f"{stop}.safetensors"
        with pytest.raises(Crash):
            make().fit(
                Streams(),
                17,
                checkpoint=path,
                checkpoint_every=every,
                callbacks=[crash_at(stop)],
                progress=False,
                **options(),
            )
        assert path.exists() == (stop > every)
        again = make()
        seen = []
        history = again.fit(
            Streams(),
            17,
            checkpoint=path,
            checkpoint_every=every,
            resume=True,
            progress=False,
            callbacks=[lambda step, loss, seen=seen: seen.append(step)],
            **options(),
        )
        assert seen == list(range((stop - 1) // every * every + 1, length + 1))
        assert_same(outcome(again, history), expected)


def test_many_stops(tmp_path):
    trainer = make(dropout=0.0)
    expected = outcome(trainer, trainer.fit(Streams(), 12, schedule=WarmUp(3, Cosine(9)), progress=False))
    for stop in range(1, 12):
        with pytest.raises(Crash):
            make(dropout=0.0).fit(
                Streams(),
                12,
                schedule=WarmUp(3, Cosine(9)),
                checkpoint=tmp_path / "c",
                checkpoint_every=1,
                resume=True,
                callbacks=[crash_at(stop + 1)],
                progress=False,
            )
    again = make(dropout=0.0)
    history = again.fit(
        Streams(), 12, schedule=WarmUp(3, Cosine(9)), checkpoint=tmp_path / "c", resume=True, progress=False
    )
    assert_same(outcome(again, history), expected)


def test_a_rate_that_was_changed_by_hand(tmp_path):
    def run(steps, **options):
        trainer = make()

        def slow_down(step, loss):
            if step == 3:
                trainer.optimizer.lr /= 10

        return outcome(
            trainer, trainer.fit(Streams(), steps, callbacks=[slow_down], progress=False, **options)
        )

    expected = run(8)
    run(5, checkpoint=tmp_path / "c")
    assert_same(run(8, checkpoint=tmp_path / "c", resume=True), expected)


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM])
def test_every_generator(tmp_path, kind):
    def run(**options):
        rng = np.random.Generator(kind(5))
        model = rc.SequenceModel(2, 4, 2, input="dense", num_layers=2, dropout=0.5, seed=rng)
        trainer = rc.Trainer(model, "mse", seed=np.random.Generator(kind(6)))
        return outcome(trainer, trainer.fit(Streams(), progress=False, **options))

    expected = run(steps=9)
    run(steps=4, checkpoint=tmp_path / "c")
    assert_same(run(steps=9, checkpoint=tmp_path / "c", resume=True), expected)


def test_a_run_may_be_made_longer(tmp_path):
    whole, trainer = make(), make()
    expected = outcome(whole, whole.fit(Streams(), epochs=3, progress=False))
    trainer.fit(Streams(), epochs=1, checkpoint=tmp_path / "c", progress=False)
    assert len(load_arrays(tmp_path / "c", "checkpoint")[0]["loss"]) == 5
    again = make()
    history = again.fit(Streams(), epochs=3, checkpoint=tmp_path / "c", resume=True, progress=False)
    assert_same(outcome(again, history), expected)


def test_the_rate_comes_from_the_checkpoint(tmp_path):
    def run(steps, lr=0.02, **options):
        trainer = make()
        trainer.optimizer.lr = lr
        return outcome(trainer, trainer.fit(Streams(), steps, schedule=Cosine(8), progress=False, **options))

    expected = run(8)
    run(5, checkpoint=tmp_path / "c")
    assert_same(run(8, lr=0.5, checkpoint=tmp_path / "c", resume=True), expected)


def test_a_finished_run_stays_finished(tmp_path):
    first, again = make(), make()
    found = outcome(
        first, first.fit(Streams(), 17, checkpoint=tmp_path / "c", progress=False, **everything())
    )
    history = again.fit(
        Streams(),
        17,
        checkpoint=tmp_path / "c",
        resume=True,
        callbacks=[crash_at(1)],
        progress=False,
        **everything(),
    )
    assert_same(outcome(again, history), found)


def test_without_a_checkpoint_a_run_begins(tmp_path):
    one, other = make(), make()
    expected = outcome(one, one.fit(Streams(), 3, progress=False))
    history = other.fit(Streams(), 3, checkpoint=tmp_path / "c", resume=True, progress=False)
    assert_same(outcome(other, history), expected)


# --- Ctrl-C ---


@pytest.fixture
def ctrl_c():
    """Ctrl-C means what it does at a terminal: a job in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_at(step):
    def callback(now, loss):
        if now == step:
            signal.raise_signal(signal.SIGINT)

    return callback


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_writes_a_checkpoint(tmp_path):
    whole, again = make(), make()
    expected = outcome(whole, whole.fit(Streams(), 12, progress=False))
    with pytest.raises(KeyboardInterrupt):
        make().fit(Streams(), 12, checkpoint=tmp_path / "c", callbacks=[interrupt_at(7)], progress=False)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(load_arrays(tmp_path / "c", "checkpoint")[0]["loss"]) == 7
    history = again.fit(Streams(), 12, checkpoint=tmp_path / "c", resume=True, progress=False)
    assert_same(outcome(again, history), expected)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def twice(step, loss):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        make().fit(Streams(), 12, checkpoint=tmp_path / "c", callbacks=[twice], progress=False)
    assert not (tmp_path / "c").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_training_in_a_thread(tmp_path):
    """Only the main thread may look after signals."""
    found = []
    thread = threading.Thread(
        target=lambda: found.append(make().fit(Streams(), 3, checkpoint=tmp_path / "c", progress=False))
    )
    thread.start()
    thread.join()
    assert len(found[0].loss) == 3
    assert (tmp_path / "c").exists()


# --- what cannot be gone on with ---


def settings(trainer):
    return outcome(trainer, rc.History())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 2}, "is of a run with accumulate = 1, but this one has 2"),
        ({"schedule": Cosine(5)}, "is of a run with schedule = None, but this one has {'type': 'Cosine'"),
        ({"validate_every": 3}, "is of a run with validate_every = None, but this one has 3"),
    ],
)
def test_another_run(tmp_path, options, message):
    make().fit(Streams(), 3, checkpoint=tmp_path / "c", progress=False)
    trainer = make(seed=2)
    before = settings(trainer)
    with pytest.raises(ValueError, match=message):
        trainer.fit(Streams(), 5, checkpoint=tmp_path / "c", resume=True, progress=False, **options)
    assert_same(settings(trainer), before)


def test_another_model(tmp_path):
    make().fit(Streams(), 3, checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match="is of a run with model = "):
        make(cell="gru").fit(Streams(), 5, checkpoint=tmp_path / "c", resume=True, progress=False)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "c"
    trainer = make()
    before = settings(trainer)

    def refused(message):
        with pytest.raises(ValueError, match=message):
            trainer.fit(Streams(), 5, checkpoint=path, resume=True, progress=False)
        assert_same(settings(trainer), before)

    trainer.model.save(path)
    refused("is no checkpoint of rnncore, but a model")
    make().fit(Streams(), 3, checkpoint=path, progress=False)
    with pytest.raises(ValueError, match="is no model of rnncore, but a checkpoint"):
        rc.load(path)
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    refused("is damaged")
    flipped = bytearray(content)
    flipped[-3] ^= 4
    path.write_bytes(flipped)
    refused("is damaged: its content does not match its checksum")


def test_data_that_became_less(tmp_path):
    class Fewer(Streams):
        def batches(self, rng):
            yield Batch(X, X)

    make().fit(Streams(), 3, checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match=r"task.batches\(\) gave less than the 3 batches of the checkpoint"):
        make().fit(Fewer(), 5, checkpoint=tmp_path / "c", resume=True, progress=False)


def test_arguments_that_make_no_sense(tmp_path):
    for options, message in (
        ({"resume": True}, "checkpoint_every and resume need checkpoint"),
        ({"checkpoint_every": 3}, "checkpoint_every and resume need checkpoint"),
        ({"checkpoint": tmp_path / "c", "checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make().fit(Streams(), 5, **options)
    with pytest.raises(FileNotFoundError):
        make().fit(
            Streams(), 2, checkpoint=tmp_path / "nowhere" / "c", callbacks=[crash_at(1)], progress=False
        )


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_a_failed_update_leaves_the_last_good_weights(tmp_path):
    class Exploding(Streams):
        def batches(self, rng):
            for k, batch in enumerate(super().batches(rng)):
                yield batch._replace(x=batch.x * 1e200 if k == 3 else batch.x)

    def network():
        model = rc.SequenceModel(2, 4, 2, "rnn", input="dense", activation="identity", dtype="float64")
        return rc.Trainer(model, "mse", "sgd")

    trainer, good, again = network(), network(), network()
    with pytest.raises(FloatingPointError, match="at update 4"):
        trainer.fit(Exploding(), 9, checkpoint=tmp_path / "c", progress=False)
    good.fit(Streams(), 3, progress=False)
    for name, value in good.model.params.items():
        np.testing.assert_array_equal(trainer.model.params[name], value)
    history = again.fit(Exploding(), 4, checkpoint=tmp_path / "c", resume=True, progress=False)
    assert len(history.loss) == 4  # behind the batch that failed


# --- kill -9 ---

PROGRAM = """
import sys
import numpy as np
import rnncore as rc
sys.path.insert(0, sys.argv[1])
from test_checkpoints import Streams, everything, make, outcome
print("begun", flush=True)
trainer = make(dropout=0.3)
options = everything() | {"early_stopping": None, "checkpoint_every": 7, "resume": True, "progress": False}
history = trainer.fit(Streams(), int(sys.argv[4]), checkpoint=sys.argv[2], **options)
np.savez(sys.argv[3], **outcome(trainer, history))
"""


def start(folder, updates, name):
    arguments = [
        os.path.dirname(__file__),
        folder / f"{name}.safetensors",
        folder / f"{name}.npz",
        str(updates),
    ]
    command = [sys.executable, "-P", "-c", PROGRAM, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


def end(process):
    """Wait for a process and return its exit code."""
    with process:
        return process.wait()


def kill_and_resume(folder, kills, updates):
    """Kill so many runs at random moments and resume them; return how many had a file half-written."""
    process = start(folder, updates, "whole")
    begun = time.monotonic()
    assert end(process) == 0
    length = time.monotonic() - begun
    expected = dict(np.load(folder / "whole.npz"))
    rng = np.random.default_rng(0)
    halves = 0
    for k in range(kills):
        process = start(folder, updates, k)
        time.sleep(rng.uniform(0, length))
        process.kill()
        end(process)
        halves += len(list(folder.glob(".*.part")))
        assert end(start(folder, updates, k)) == 0
        assert_same(dict(np.load(folder / f"{k}.npz")), expected)
        assert not list(folder.glob(".*.part"))
    return halves


def test_kill(tmp_path):
    kill_and_resume(tmp_path, 2, 100)


@pytest.mark.slow
def test_kill_at_many_moments(tmp_path):
    kill_and_resume(tmp_path, 10, 300)
