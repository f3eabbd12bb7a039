"""Passes do not touch each other: several at once, and on several threads."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import rnncore as rc
from rnncore import kernels
from rnncore.plan import Plan

THREADS = 4


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def on_threads(work, count=THREADS):
    """Return what work(k) returns on each of some threads that begin together."""
    barrier = threading.Barrier(count)

    def begin(k):
        barrier.wait()
        return work(k)

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(begin, k) for k in range(count)]]


def leaves(state):
    if isinstance(state, np.ndarray):
        return [state]
    return [] if state is None else [leaf for part in state for leaf in leaves(part)]


def assert_same(found, expected):
    found, expected = leaves(found), leaves(expected)
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# --- threads ---

MODELS = {
    "small": lambda: rc.SequenceModel(8, 64, 1, input="dense", output="last"),
    "shared by the pool": lambda: rc.SequenceModel(8, 256, 2, "gru", 3, input="dense"),
    "both directions": lambda: rc.SequenceModel(8, 32, 2, "rnn", input="dense", bidirectional=True),
    "softmax": lambda: rc.SequenceModel(8, 48, 5, input="dense", output_activation="softmax"),
    "layer": lambda: rc.LSTM(8, 64, seed=0),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("ragged", [False, True])
def test_threads_that_share_a_network_get_what_each_would_get_alone(name, ragged):
    network = MODELS[name]()
    call = network.forward if name == "layer" else lambda x, **options: network.predict(x, **options)
    batches = [draw(16, 40, 8, seed=k) for k in range(THREADS)]
    lengths = [np.random.default_rng(k).integers(0, 41, 16) if ragged else None for k in range(THREADS)]
    expected = [call(x, lengths=length) for x, length in zip(batches, lengths, strict=True)]

    def ask(k):
        for _ in range(20):
            assert_same(call(batches[k], lengths=lengths[k]), expected[k])
        return True

    assert on_threads(ask) == [True] * THREADS


def test_threads_send_their_own_passes_back():
    """Gradients of the input are each thread's own; those of the weights add up, in any order."""
    layer = rc.LSTM(8, 32, 2, dtype="float64", seed=0)
    batches = [draw(4, 20, 8, seed=k) for k in range(THREADS)]
    expected = []
    for x in batches:
        y, _ = layer.forward(x, training=True)
        expected.append(layer.backward(y))
    sums = {name: 10 * grad for name, grad in layer.grads.items()}
    layer.zero_grad()

    def train(k):
        for _ in range(5):
            y, _ = layer.forward(batches[k], training=True)
            assert_same(layer.backward(y), expected[k])
            one = layer.run(batches[k])
            assert_same(one.backward(one.output), expected[k])
        return True

    assert on_threads(train) == [True] * THREADS
    for name, grad in layer.grads.items():
        np.testing.assert_allclose(grad, sums[name], rtol=1e-9, atol=1e-12)


def test_threads_evaluate_one_model_while_another_is_trained():
    task = rc.tasks.Forecasting(np.sin(np.arange(200) / 3), window=10, season=19)
    model, other = task.model(16, seed=0), task.model(16, seed=1)
    expected = task.evaluate(model)
    x, y = draw(8, 10, 1), draw(8, 1)

    def work(k):
        if k == 0:
            trainer = rc.Trainer(other, "mse")
            return [trainer.step(x, y) for _ in range(50)]
        return [task.evaluate(model) == expected for _ in range(5)]

    losses, *same = on_threads(work)
    assert losses[-1] < losses[0]
    assert same == [[True] * 5] * (THREADS - 1)


def held_by_another_thread(lock):
    """Hold a lock on a thread that has it for as long as the test needs."""
    begun, over = threading.Event(), threading.Event()

    def hold():
        with lock:
            begun.set()
            over.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(10)
    return thread, over


def test_a_stream_belongs_to_one_thread_at_a_time():
    stream = rc.SequenceModel(3, 4, 2, input="dense").stream()
    x = draw(1, 3)
    first = stream.step(x).copy()
    state = stream.state
    thread, over = held_by_another_thread(stream._turn)
    for use in (lambda: stream.step(x), stream.reset, lambda: stream.state):
        with pytest.raises(RuntimeError, match="another thread is using this stream"):
            use()
    over.set()
    thread.join()
    assert_same(stream.state, state)
    stream.reset()
    np.testing.assert_array_equal(stream.step(x), first)


def test_a_trainer_belongs_to_one_thread_at_a_time():
    trainer = rc.Trainer(rc.SequenceModel(3, 4, 2, input="dense"), "mse")
    x, y = draw(2, 5, 3), draw(2, 5, 2)
    trainer.step(x, y)
    before = trainer.model.state_dict()
    thread, over = held_by_another_thread(trainer._turn)
    for use in (lambda: trainer.step(x, y), lambda: trainer.accumulate([rc.tasks.Batch(x, y)])):
        with pytest.raises(RuntimeError, match="another thread is training with this Trainer"):
            use()
    over.set()
    thread.join()
    for name, value in trainer.model.params.items():
        np.testing.assert_array_equal(value, before[name])
    assert trainer.step(x, y) > 0


# --- several passes at once ---


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_passes_of_one_model_are_sent_back_in_any_order(cell):
    model = rc.SequenceModel(3, 5, 2, cell, 2, input="dense", dtype="float64")
    batches = [draw(2, 4, 3, seed=k) for k in range(3)]
    expected, grads = [], dict.fromkeys(model.grads, 0)
    for x in batches:
        model.zero_grad()
        logits, state = model.forward(x, training=True)
        expected.append((logits, state, model.backward(logits, state)))
        grads = {name: grads[name] + value for name, value in model.grads.items()}
    model.zero_grad()
    passes = [model.run(x) for x in batches]
    model.forward(draw(2, 4, 3, seed=9), training=True)
    for k in (1, 2, 0):
        logits, state, gradients = expected[k]
        assert_same((passes[k].output, passes[k].state), (logits, state))
        assert_same(passes[k].backward(logits, state), gradients)
    for name, value in model.grads.items():
        np.testing.assert_allclose(value, grads[name], rtol=1e-12, atol=1e-15)


def test_steps_in_a_loop_give_the_gradients_of_the_whole_sequence():
    layer = rc.LSTM(3, 5, dtype="float64", seed=0)
    x, dy = draw(2, 6, 3), draw(2, 6, 5, seed=1)
    layer.forward(x, training=True)
    dx, _ = layer.backward(dy)
    expected = {name: grad.copy() for name, grad in layer.grads.items()}
    layer.zero_grad()
    state, passes = None, []
    for t in range(6):
        passes.append(layer.run(x[:, t : t + 1], state=state))
        state = passes[-1].state
    dstate = None
    for t in reversed(range(6)):
        d, dstate = passes[t].backward(dy[:, t : t + 1], dstate)
        np.testing.assert_allclose(d[:, 0], dx[:, t], rtol=1e-10, atol=1e-14)
    for name, grad in layer.grads.items():
        np.testing.assert_allclose(grad, expected[name], rtol=1e-10, atol=1e-14)


def test_a_pass_is_sent_back_once_and_survives_a_wrong_gradient():
    layer = rc.GRU(3, 5, seed=0)
    one = layer.run(draw(2, 4, 3))
    with pytest.raises(ValueError, match=r"dy must have shape \(2, 4, 5\), got \(2, 4, 4\)"):
        one.backward(np.ones((2, 4, 4)))
    one.backward(np.ones((2, 4, 5)))
    with pytest.raises(RuntimeError, match="this one has been sent back"):
        one.backward(np.ones((2, 4, 5)))


def test_passes_that_come_again_use_the_buffers_of_those_before():
    model = rc.SequenceModel(3, 5, 2, input="dense")
    x = draw(2, 4, 3)
    made = set()
    for _ in range(3):
        held = [model.run(x), model.run(x)]
        made |= {id(one._plan) for one in held}
        for one in held:
            one.backward(one.output)
    assert len(made) == 2
    for _ in range(3):  # a pass that is never sent back is replaced by the thread's next one
        model.forward(x, training=True)
    assert {id(plan) for _, plan in model._plans._idle} | {id(model._latest.pass_._plan)} == made


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "gru before"])
@pytest.mark.parametrize("H", [6, 16, 70])
@pytest.mark.parametrize("wrong", [np.inf, np.nan, 3e38])
def test_numbers_that_overflow_leave_nothing_behind(cell, H, wrong):
    """Not even where units are padded to whole vectors."""
    options = {"reset_after": False} if cell == "gru before" else {}
    model = rc.SequenceModel(3, H, 2, cell.split()[0], 2, input="dense", **options)
    x, dy = draw(18, 5, 3), draw(18, 5, 2)

    def send_back(x, dy):
        model.zero_grad()
        one = model.run(x)
        dx, dstate = one.backward(dy)
        grads = [grad.copy() for grad in model.grads.values()]
        return [one.output, *leaves(one.state), dx, *leaves(dstate), *grads]

    expected = send_back(x, dy)
    bad_x, bad_dy = x.copy(), dy.copy()
    bad_x[3, 2, 1] = bad_dy[1, 4, 0] = wrong
    for bad in ((bad_x, dy), (x, bad_dy), (np.full_like(x, wrong), np.full_like(dy, wrong))):
        send_back(*bad)
        assert_same(send_back(x, dy), expected)
    assert len(model._plans._idle) == 1


# --- large batches ---


@pytest.mark.parametrize("output", ["all", "last"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_many_sequences_run_some_at_a_time_to_the_same_bits(monkeypatch, cell, output):
    model = rc.SequenceModel(3, 7, 2, cell, 2, input="dense", output=output, output_activation="sigmoid")
    x, lengths = draw(100, 9, 3), np.random.default_rng(1).integers(0, 10, 100)
    state = [np.random.default_rng(k).normal(size=(2, 100, 7)) for k in range(2)]
    state = tuple(state) if cell == "lstm" else state[0]
    whole = model.predict(x, lengths), model.forward(x, state, lengths)
    monkeypatch.setattr("rnncore.network.AT_ONCE", 1)
    parts = model.predict(x, lengths), model.forward(x, state, lengths)
    assert [key[0] for key, _ in model._plans._idle] == [100, 25]
    for found, expected in zip(leaves(parts), leaves(whole), strict=True):
        if kernels.active.name == "numpy":  # its products may depend on the batch
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(found, expected)


# --- streams ---


def test_rows_of_a_stream_begin_anew():
    model = rc.SequenceModel(3, 4, 2, "lstm", input="dense")
    stream, alone = model.stream(3), model.stream(3)
    x = draw(2, 3, 3)
    first = alone.step(x[1]).copy()
    stream.step(x[0])
    other = copy.deepcopy(stream)
    stream.reset([False, True, False])
    found, going = stream.step(x[1]), other.step(x[1])
    np.testing.assert_array_equal(found[1], first[1])
    np.testing.assert_array_equal(found[[0, 2]], going[[0, 2]])
    with pytest.raises(TypeError, match=r"rows must hold True or False, got dtype int"):
        stream.reset([1])
    with pytest.raises(ValueError, match=r"rows must have shape \(3,\), got \(2,\)"):
        stream.reset([True, False])


def test_a_pickled_stream_goes_on():
    model = rc.SequenceModel(3, 4, 2, "gru", input="dense")
    stream = model.stream(2)
    x = draw(3, 2, 3)
    stream.step(x[0])
    for array in model.params.values():
        array[...] = 0  # a stream keeps the weights it was made with, and so does its copy
    other = pickle.loads(pickle.dumps(stream))
    for x_t in x:
        np.testing.assert_array_equal(other.step(x_t), stream.step(x_t))
    assert np.abs(stream.step(x[0])).max() > 0


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_stream_refuses_what_it_would_never_forget(wrong):
    stream = rc.SequenceModel(3, 4, 2, input="dense").stream(2)
    x = draw(2, 3)
    stream.step(x)
    state = stream.state
    x[1, 2] = wrong
    with pytest.raises(ValueError, match=rf"x_t\[1, 2\] = {wrong}, expected a finite number"):
        stream.step(x)
    assert_same(stream.state, state)


# --- what kernels rely on ---


def test_what_kernels_rely_on_is_read_only():
    model = rc.SequenceModel(5, 4, 2, "gru", 2, embedding_size=3, bidirectional=True)
    other = rc.GRU(3, 4, seed=0)
    for thing in (model, *model.chain, rc.RNN(2, 3, activation="relu"), rc.LSTM(2, 3)):
        names = [name for name in dir(thing) if not name.startswith("_") and name != "rng"]
        assert {"params", "grads", "dtype", "chain"} <= set(names)
        for name in names:
            if callable(getattr(thing, name)) and name not in ("lock",):
                continue
            with pytest.raises(AttributeError):
                setattr(thing, name, 100)
    with pytest.raises(TypeError):
        model.layers["rnn"] = other


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # such assignments are on their way out of NumPy
@pytest.mark.parametrize("owner", ["params", "grads"])
def test_a_shape_set_on_a_parameter_changes_nothing(owner):
    layer = rc.LSTM(3, 5, seed=0)
    x = draw(2, 4, 3)
    expected, _ = layer.forward(x)
    for name, array in getattr(layer, owner).items():
        for attribute, value in (("shape", (array.size, 1)), ("dtype", np.int16)):
            view = getattr(layer, owner)[name]
            with np.testing.suppress_warnings() as quiet:
                quiet.filter(DeprecationWarning)
                setattr(view, attribute, value)
    layer.params["bias_ih_l0"] *= 1
    np.testing.assert_array_equal(layer.forward(x)[0], expected)
    assert copy.deepcopy(layer).params["weight_ih_l0"].shape == (20, 3)


# --- parameters written into ---


@pytest.mark.parametrize(
    ("dtype", "places", "values"),
    [
        ("float32", (1000, 1064), (-1, -1.0078125)),
        ("float64", (1000, 1032), (-1, -1.0625)),
    ],
)
def test_a_change_that_a_checksum_missed_is_seen(dtype, places, values):
    """These two pairs of numbers had the same checksum."""
    layer = rc.LSTM(8, 128, dtype=dtype, seed=0)
    x = draw(2, 4, 8)
    flat = layer.params["weight_hh_l0"].reshape(-1)
    flat[list(places)] = 1
    layer.forward(x)
    flat[list(places)] = values
    np.testing.assert_array_equal(layer.forward(x)[0], copy.deepcopy(layer).forward(x)[0])


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize(
    "options", [{"input": "dense"}, {"input": "tokens"}, {"input": "dense", "bidirectional": True}]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_change_of_any_parameter_is_seen_by_the_next_prediction(cell, options, threads):
    before = rc.get_num_threads()
    rc.set_num_threads(threads)
    try:
        model = rc.SequenceModel(9, 200, 3, cell, **options)
        x = np.arange(320).reshape(8, 40) % 9 if options["input"] == "tokens" else draw(8, 40, 9)
        model.predict(x)
        for name, array in model.params.items():
            for place in (0, array.size // 2, array.size - 1):
                array.reshape(-1)[place] += 0.5
                found = model.predict(x)
                np.testing.assert_array_equal(
                    found, copy.deepcopy(model).predict(x), err_msg=f"{name} {place}"
                )
    finally:
        rc.set_num_threads(before)


def test_weights_of_zero_are_weights_too():
    layer = rc.GRU(8, 128, init="zeros", seed=0)
    x = draw(2, 4, 8)
    np.testing.assert_array_equal(layer.forward(x)[0], np.zeros((2, 4, 128)))
    layer.params["weight_ih_l0"][...] = 0.1
    assert np.abs(layer.forward(x)[0]).max() > 0
    layer.params["weight_ih_l0"][...] = 0
    np.testing.assert_array_equal(layer.forward(x)[0], np.zeros((2, 4, 128)))


# --- steps that are refused ---


def trained():
    """A trainer after a step, with dropout, and a batch."""
    model = rc.SequenceModel(3, 6, 2, "lstm", 2, input="dense", dropout=0.5)
    trainer = rc.Trainer(model, "mse", rc.SGD(lr=0.1), reduction="sum")
    x, y = draw(4, 5, 3), draw(4, 5, 2, seed=1)
    trainer.step(x, y)
    return trainer, x, y


def snapshot(trainer):
    return trainer.model.state_dict(), trainer.state, trainer.model.rng.bit_generator.state


def assert_unchanged(trainer, before):
    params, state, generator = before
    for name, value in trainer.model.params.items():
        np.testing.assert_array_equal(value, params[name])
    assert_same(trainer.state, state)
    assert trainer.model.rng.bit_generator.state == generator


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
@pytest.mark.parametrize("shape", ["the same", "another"])
@pytest.mark.parametrize("read", [False, True])
def test_a_step_that_overflows_changes_nothing(shape, read):
    trainer, x, y = trained()
    twin, *_ = trained()
    before = snapshot(twin)
    if read:
        snapshot(trainer)
    large = np.full((4 if shape == "the same" else 2, 5, 2), 3e38)
    with pytest.raises(FloatingPointError, match="the parameters stay as they were"):
        trainer.step(x[: len(large)], large)
    assert_unchanged(trainer, before)
    assert trainer.step(x, y) == twin.step(x, y)


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_the_prediction_of_a_step_that_overflowed_is_not_given():
    trainer, x, y = trained()
    with pytest.raises(FloatingPointError):
        trainer.step(x, np.full(y.shape, 3e38))
    with pytest.raises(RuntimeError, match="prediction needs a step before it that was not refused"):
        trainer.prediction  # noqa: B018
    trainer.step(x, y)
    assert trainer.prediction.shape == y.shape


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
@pytest.mark.parametrize(("wrong", "error"), [(np.nan, ValueError), (3e38, FloatingPointError)])
def test_an_update_refused_at_its_second_batch_changes_nothing(wrong, error):
    trainer, x, y = trained()
    before, prediction = snapshot(trainer), trainer.prediction
    bad = y.copy()
    bad[1, 2, 0] = wrong
    with pytest.raises(error):
        trainer.accumulate([rc.tasks.Batch(x, y), rc.tasks.Batch(x, bad)])
    assert_unchanged(trainer, before)
    np.testing.assert_array_equal(trainer.prediction, prediction)


# --- numbers that are hard to sum up, and no numbers ---


def gradients_by(implementation, layer, x, dy, state):
    """Everything that a layer's passes compute on some kernels."""
    plan = Plan(
        layer.chain,
        *x.shape[:2],
        tokens=False,
        training=True,
        input_grads=True,
        implementation=implementation,
    )
    layer.zero_grad()
    plan.load(x, None, [state])
    plan.pack()
    plan.forward()
    out = [plan.read_logits(), *plan.read_final()[0]]
    plan.load_gradients(dy, None)
    plan.backward()
    return [
        *out,
        plan.read_input_grad(),
        *plan.read_initial_grad()[0],
        *(g.copy() for g in layer.grads.values()),
    ]


@pytest.mark.parametrize(
    "make",
    [
        *(lambda a=a: rc.RNN(3, 5, activation=a, seed=0) for a in rc.RNN.activations),
        lambda: rc.LSTM(3, 5, seed=0),
        lambda: rc.GRU(3, 5, seed=0),
        lambda: rc.GRU(3, 5, seed=0, reset_after=False),
    ],
)
@pytest.mark.parametrize("where", ["x", "state", "dy"])
def test_nan_goes_where_the_numpy_kernels_send_it(make, where):
    layer = make()
    x, dy = draw(2, 4, 3), draw(2, 4, 5, seed=1)
    state = [draw(1, 2, 5, seed=k) for k in range(layer.states)]
    {"x": x, "state": state[0], "dy": dy}[where][..., 1, 1] = np.nan
    found = gradients_by(kernels.active, layer, x, dy, state)
    expected = gradients_by(kernels.load("numpy"), layer, x, dy, state)
    assert any(np.isnan(array).any() for array in expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


@pytest.mark.skipif(kernels.active.name == "numpy", reason="its weight gradients are sums of the BLAS")
@pytest.mark.parametrize("name", ["tokens", "embedding", "dense"])
def test_gradients_over_very_many_steps_keep_their_digits(name):
    """Every term is 0.1 or twice that: a single sum of a million in float32 is 1 % off."""
    T, options = 1_000_000, {"embedding_size": 3} if name == "embedding" else {}
    x = np.ones((1, T, 2)) if name == "dense" else np.random.default_rng(0).integers(0, 2, (1, T))
    found = {}
    for dtype in ("float32", "float64"):
        if name == "dense":
            model = rc.Sequential([rc.Linear(2, 1, dtype=dtype, init="zeros")])
        else:
            model = rc.SequenceModel(
                2, 5, 1, "rnn", activation="identity", dtype=dtype, init="zeros", **options
            )
        for parameter, value in model.params.items():
            value[...] = "weight" in parameter and "hh" not in parameter
        model.run(x).backward(np.full((1, T, 1), 0.1))
        found[dtype] = model.grads
    for parameter, expected in found["float64"].items():
        error = np.abs(found["float32"][parameter] - expected).max() / np.abs(expected).max()
        assert error < 2e-4, f"{parameter}: {error:.1e}"
