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
from rnncore.files import load_arrays, save_arrays
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


# --- the best weights, however the run ends ---


class Scripted(Streams):
    """Validation gives these errors, one after another."""

    def __init__(self, errors):
        self.errors = iter(errors)

    def validate(self, model):
        return {"error": next(self.errors)}


def fail_at(step, error):
    def callback(now, loss):
        if now == step:
            raise error

    return callback


def ended(kind, path, resume=False):
    """A run whose best weights are those after 4 updates, and which ends in some way after 7."""
    trainer, stopping = make(), EarlyStopping("error", patience=9)
    callback = {
        "crash": fail_at(7, Crash()),
        "no number": fail_at(7, FloatingPointError()),
        "Ctrl-C": interrupt_at(7),
        "a second Ctrl-C": fail_at(7, KeyboardInterrupt()),
        "end": lambda step, loss: step == 7,
    }[kind]
    options = {"validate_every": 2, "early_stopping": stopping, "checkpoint": path, "progress": False}
    try:
        trainer.fit(Scripted([3, 1, 2, 4]), 20, callbacks=[callback], **options)
    except (Crash, FloatingPointError, KeyboardInterrupt):
        assert kind != "end"
    else:
        assert kind == "end"
    return trainer


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("checkpointed", [True, False])
@pytest.mark.parametrize("kind", ["crash", "no number", "Ctrl-C", "a second Ctrl-C", "end"])
def test_the_best_weights_however_the_run_ended(tmp_path, kind, checkpointed):
    path = tmp_path / "c" if checkpointed else None
    trainer, best, latest = ended(kind, path), make(), make()
    best.fit(Streams(), 4, progress=False)
    latest.fit(Streams(), 7, progress=False)
    assert_same(trainer.model.state_dict(), best.model.state_dict())
    if checkpointed and path.exists():
        arrays, _ = load_arrays(path, "checkpoint")
        for name, value in latest.model.params.items():
            np.testing.assert_array_equal(arrays[f"model.{name}"], value)
    assert not checkpointed or path.exists() == (kind in ("no number", "Ctrl-C", "end"))


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
    with pytest.raises(
        ValueError, match=r"is of a run with model.layers.rnn.type = 'LSTM', but this one has 'GRU'"
    ):
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


def refused(path, trainer, task, message, **options):
    """Resuming raises ValueError and leaves trainer, generators and file as they were."""

    def everything_of(trainer):
        generators = [str(rng.bit_generator.state) for rng in (trainer.rng, trainer.model.rng)]
        return settings(trainer) | {"generators": np.array(generators)}

    before, content = everything_of(trainer), path.read_bytes()
    with pytest.raises(ValueError, match=message):
        trainer.fit(task, 9, checkpoint=path, resume=True, progress=False, **options)
    assert_same(everything_of(trainer), before)
    assert path.read_bytes() == content


def with_momentum(momentum):
    trainer = make()
    return rc.Trainer(trainer.model, "mse", rc.SGD(momentum=momentum), clip_norm=1.0, seed=trainer.rng)


def test_an_optimizer_that_keeps_less_or_more(tmp_path):
    path = tmp_path / "c"
    with_momentum(0.9).fit(Streams(), 3, checkpoint=path, progress=False)
    message = r"with optimizer.slots = \['momentum_buffer'\], but this one has \[\]"
    refused(path, with_momentum(0), Streams(), message)
    with_momentum(0).fit(Streams(), 3, checkpoint=path, progress=False)
    refused(path, with_momentum(0.9), Streams(), r"with optimizer.slots = \[\], but this one has")


def test_another_kind_of_generator(tmp_path):
    make().fit(Streams(), 3, checkpoint=tmp_path / "c", progress=False)
    trainer = make()
    other = rc.Trainer(
        trainer.model, "mse", rc.Adam(), clip_norm=1.0, seed=np.random.Generator(np.random.Philox(1))
    )
    refused(tmp_path / "c", other, Streams(), r"generators = \['PCG64', 'PCG64'\], but .* \['Philox'")


def rewritten(path, change):
    """Write a checkpoint again, with a checksum that fits what was changed."""
    arrays, about = load_arrays(path, "checkpoint")
    change(arrays, about)
    save_arrays(path, "checkpoint", arrays, about)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays, about: arrays.pop("best.head.bias"), "head.bias is missing"),
        (lambda arrays, about: arrays.update({"best.rnn.bias_hh_l1": np.zeros(3)}), r"got \(3,\)"),
        (lambda arrays, about: arrays.pop("model.head.bias"), "head.bias is missing"),
        (lambda arrays, about: arrays.pop("optimizer.0.exp_avg"), "0.exp_avg is missing"),
        (lambda arrays, about: arrays.update(settings=np.zeros(1)), r"settings must have shape \(7,\)"),
        (lambda arrays, about: arrays.update(loss=np.zeros((3, 1))), "loss must have shape"),
        (lambda arrays, about: arrays.pop("state.1"), "it has no '1'"),
        (
            lambda arrays, about: arrays.update({"state.0": np.zeros((2, 3, 5))}),
            r"state\[0\] must have shape",
        ),
        (lambda arrays, about: about["model_rng"].update(bit_generator="MT19937"), "cannot be resumed"),
        (lambda arrays, about: about.pop("schedule"), "schedule"),
        (lambda arrays, about: about["stopping"].pop("best"), "best"),
        (lambda arrays, about: about.pop("batches"), "batches"),
        (lambda arrays, about: about["settings"].pop("bptt"), "with bptt = None, but this one has 'full'"),
        (lambda arrays, about: about["settings"].update(speed=1), "with speed = 1, but this one has None"),
        (lambda arrays, about: about.pop("settings"), "it has no 'settings'"),
    ],
)
def test_a_checkpoint_that_lacks_something(tmp_path, change, message):
    """Its checksum is right; so a program wrote it that knows less, or more."""
    path = tmp_path / "c"
    make().fit(Streams(), 6, checkpoint=path, progress=False, **everything())
    rewritten(path, change)
    refused(path, make(seed=3), Streams(), message, **everything())


# --- other data ---

TEXT = "the cat sat on the mat, and the dog sat on the log. " * 20


def reading(text, **options):
    task = rc.tasks.CharLM(text, **({"batch_size": 4, "chunk": 8} | options))
    return rc.Trainer(task.model(4, seed=1), "cross_entropy", seed=1), task


@pytest.mark.parametrize(
    ("text", "options", "name"),
    [
        (TEXT.replace("c", "q"), {}, "text"),  # the same ids, which mean other letters
        (TEXT.replace("dog", "god"), {}, "text"),
        (TEXT, {"chunk": 9}, "chunk"),
    ],
)
def test_another_text(tmp_path, text, options, name):
    trainer, task = reading(TEXT)
    trainer.fit(task, 3, checkpoint=tmp_path / "c", progress=False)
    trainer, task = reading(text, **options)
    refused(tmp_path / "c", trainer, task, f"is of a run with task.{name} = .*, but this one has ")


@pytest.mark.parametrize(
    ("make_task", "name"),
    [
        (lambda k: rc.tasks.BinaryAddition(seed=k), "seed"),
        (lambda k: rc.tasks.AddingProblem(9 + k), "length"),
        (lambda k: rc.tasks.Forecasting(np.sin(np.arange(200) + k)), "series"),
        (lambda k: rc.tasks.NoisySine(k), "seed"),
        (lambda k: rc.tasks.NoisySine(carry=k == 1), "carry"),
        (lambda k: rc.tasks.CharLM(["ab", "ba" if k else "bb"]), "words"),
        (lambda k: rc.tasks.SequenceRegression(X + k, X[:, 0]), "train"),
        (lambda k: rc.tasks.SequenceClassification(X, [0, k, 1 - k], held_out=0), "train"),
    ],
)
def test_another_task_of_one_kind(tmp_path, make_task, name):
    def trainer():
        task = make_task(0)
        loss = {"CharLM": "cross_entropy", "SequenceClassification": "cross_entropy"}.get(
            type(task).__name__, "mse"
        )
        return rc.Trainer(task.model(4), loss, rc.Adam(lr=1e-4))

    trainer().fit(make_task(0), 1, checkpoint=tmp_path / "c", progress=False)
    refused(tmp_path / "c", trainer(), make_task(1), f"is of a run with task.{name} = ")
    trainer().fit(make_task(0), 2, checkpoint=tmp_path / "c", resume=True, progress=False)


class Selfwilled(Streams):
    """Shuffles by a generator of its own."""

    def __init__(self, seed=None):
        self.rng = np.random.default_rng(seed)

    def batches(self, rng):
        return super().batches(self.rng)


@pytest.mark.parametrize("updates", [1, 5, 7])
def test_batches_that_depend_on_more_than_the_generator(tmp_path, updates):
    make().fit(Selfwilled(), updates, checkpoint=tmp_path / "c", progress=False)
    message = r"task.batches\(\) gave other batches than those of the checkpoint"
    refused(tmp_path / "c", make(), Selfwilled(), message)


def test_batches_in_a_list_are_compared(tmp_path):
    batches = list(Streams().batches(np.random.default_rng(0)))
    make().fit(batches, epochs=1, checkpoint=tmp_path / "c", progress=False)
    other = [*batches[:3], batches[3]._replace(y=batches[3].y + 1e-9), batches[4]]
    refused(tmp_path / "c", make(), other, "gave other batches")
    whole, again = make(), make()
    expected = outcome(whole, whole.fit(batches, epochs=2, progress=False))
    history = again.fit(batches, epochs=2, checkpoint=tmp_path / "c", resume=True, progress=False)
    assert_same(outcome(again, history), expected)


def test_other_batches_in_a_longer_run(tmp_path):
    """The checkpoint was written between two epochs."""
    make().fit(Streams(), epochs=2, checkpoint=tmp_path / "c", progress=False)
    refused(tmp_path / "c", make(), Selfwilled(), "gave other batches")


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
