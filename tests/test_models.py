"""Chains of layers: outputs, gradients through the face, saving and loading, streams."""

import copy
import json
import os
import pickle
import struct

import numpy as np
import pytest
from gradients import central_differences, relative_error
from safetensors.numpy import load_file, save_file

import rnncore as rc

N, T, D = 4, 4, 3
LENGTHS = np.array([2, 4, 0, 3])
SIGMOID = {"output_activation": "sigmoid"}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def chain(**options):
    """RNN, linear, LSTM both ways, linear: widths and states of every kind."""
    layers = [
        rc.RNN(D, 2, dtype="float64", seed=1),
        rc.Linear(2, 4, dtype="float64", seed=2),
        rc.LSTM(4, 3, bidirectional=True, dtype="float64", seed=3),
        rc.Linear(6, 2, dtype="float64", seed=4),
    ]
    return rc.Sequential(layers, **options)


# --- outputs ---


def test_a_chain_is_its_layers_one_after_another():
    model, x = chain(), draw(N, T, D)
    y, (h, (a, c)) = model.forward(x, lengths=LENGTHS)
    first, second, third, fourth = model.layers.values()
    z, expected_h = first.forward(x, lengths=LENGTHS)
    z, (expected_a, expected_c) = third.forward(second.forward(z), lengths=LENGTHS)
    for n, length in enumerate(LENGTHS):
        np.testing.assert_allclose(y[n, :length], fourth.forward(z)[n, :length], rtol=1e-12)
        assert not y[n, length:].any()
    for found, expected in ((h, expected_h), (a, expected_a), (c, expected_c)):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_state_of_a_chain_goes_on():
    model = rc.Sequential([rc.GRU(D, 2, dtype="float64"), rc.LSTM(2, 3, dtype="float64")])
    x = draw(N, T, D)
    whole, final = model.forward(x)
    first, state = model.forward(x[:, :1])
    rest, last = model.forward(x[:, 1:], state)
    np.testing.assert_allclose(np.concatenate([first, rest], axis=1), whole, rtol=1e-12)
    np.testing.assert_allclose(last[0], final[0], rtol=1e-12)
    np.testing.assert_allclose(last[1][1], final[1][1], rtol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_last_is_the_final_state_of_each_direction(bidirectional):
    lstm = rc.LSTM(D, 2, 2, bidirectional=bidirectional, dtype="float64", seed=1)
    head = rc.Linear(lstm.out_features, 5, dtype="float64", seed=2)
    x = draw(N, T, D)
    state = (draw(2 * (1 + bidirectional), N, 2, seed=1), draw(2 * (1 + bidirectional), N, 2, seed=2))
    y, (h, c) = rc.Sequential([lstm, head], output="last").forward(x, state, LENGTHS)
    _, (expected_h, expected_c) = lstm.forward(x, state, LENGTHS)
    top = np.concatenate(expected_h[-2:] if bidirectional else expected_h[-1:], axis=1)
    np.testing.assert_allclose(y, top @ head.params["weight"].T + head.params["bias"], rtol=1e-12)
    np.testing.assert_allclose(h, expected_h, rtol=1e-12)
    np.testing.assert_allclose(c, expected_c, rtol=1e-12)
    without_head, _ = rc.Sequential([lstm], output="last").forward(x, state, LENGTHS)
    np.testing.assert_allclose(without_head, top, rtol=1e-12)


def test_last_is_of_the_last_recurrent_layer():
    model = chain(output="last")
    y, (_, (h, _)) = model.forward(draw(N, T, D), lengths=LENGTHS)
    head = model.layers["3"]
    expected = np.concatenate(list(h), axis=1) @ head.params["weight"].T + head.params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-12)


@pytest.mark.parametrize("output", ["all", "last"])
def test_predict_applies_the_output_activation(output):
    x = draw(N, T, D)
    logits, _ = chain(output=output).forward(x, lengths=LENGTHS)
    valid = np.ones(N, bool) if output == "last" else np.arange(T) < LENGTHS[:, None]
    for activation, expected in {
        None: logits,
        "sigmoid": 1 / (1 + np.exp(-logits)),
        "softmax": np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True),
    }.items():
        p = chain(output=output, output_activation=activation).predict(x, LENGTHS)
        np.testing.assert_allclose(p[valid], expected[valid], rtol=1e-12)
        assert not p[~valid].any()


def test_predict_of_an_empty_batch():
    assert chain().predict(np.zeros((0, T, D))).shape == (0, T, 2)
    assert chain(output="last", **SIGMOID).predict(np.zeros((0, T, D))).shape == (0, 2)
    assert chain().predict(np.zeros((N, 0, D))).shape == (N, 0, 2)
    model = rc.SequenceModel(5, 4, 3, embedding_size=2)
    assert model.predict(np.zeros((0, 7), int)).shape == (0, 7, 3)


# --- gradients ---


@pytest.mark.parametrize("output", ["all", "last"])
def test_every_gradient_of_a_chain(output):
    model, x = chain(output=output), draw(N, T, D)
    state = [draw(1, N, 2, seed=1), (draw(2, N, 3, seed=2), draw(2, N, 3, seed=3))]
    dy = draw(N, T, 2, seed=4) if output == "all" else draw(N, 2, seed=4)
    dstate = [draw(1, N, 2, seed=5), (draw(2, N, 3, seed=6), draw(2, N, 3, seed=7))]

    def objective():
        y, (h, (a, c)) = model.forward(x, state, LENGTHS)
        dh, (da, dc) = dstate
        return (y * dy).sum() + (h * dh).sum() + (a * da).sum() + (c * dc).sum()

    model.forward(x, state, LENGTHS, training=True)
    dx, (dh, (da, dc)) = model.backward(dy, dstate)
    found = {"x": dx, "h": dh, "a": da, "c": dc} | model.grads
    arrays = {"x": x, "h": state[0], "a": state[1][0], "c": state[1][1]} | model.params
    for name, array in arrays.items():
        assert relative_error(found[name], central_differences(objective, array)) < 1e-7, name
    model.zero_grad()
    assert not any(grad.any() for grad in model.grads.values())


def test_gradients_where_the_output_is_the_final_state():
    model, x = rc.Sequential([rc.GRU(D, 3, 2, dtype="float64", seed=1)], output="last"), draw(N, T, D)
    dy, dstate = draw(N, 3, seed=1), draw(2, N, 3, seed=2)

    def objective():
        y, state = model.forward(x, lengths=LENGTHS)
        return (y * dy).sum() + (state * dstate).sum()

    model.forward(x, lengths=LENGTHS, training=True)
    dx, _ = model.backward(dy, dstate)
    assert relative_error(dx, central_differences(objective, x)) < 1e-7
    for name, array in model.params.items():
        assert relative_error(model.grads[name], central_differences(objective, array)) < 1e-7, name


def test_gradients_with_an_embedding():
    model = rc.SequenceModel(5, 3, 2, "gru", embedding_size=4, output="last", dtype="float64")
    ids, dy = np.array([[0, 4, 4], [1, 1, 2]]), draw(2, 2)

    def objective():
        return (model.forward(ids, lengths=[2, 3])[0] * dy).sum()

    model.forward(ids, lengths=[2, 3], training=True)
    assert model.backward(dy)[0] is None
    assert not model.grads["embedding.weight"][3].any()
    for name, array in model.params.items():
        assert relative_error(model.grads[name], central_differences(objective, array)) < 1e-7, name


# --- what a model is made of ---


def test_sequence_model():
    model = rc.SequenceModel(
        7, 5, 3, "gru", 2, embedding_size=4, bidirectional=True, bias="single", dropout=0.1, reset_after=False
    )
    assert list(model.layers) == ["embedding", "rnn", "head"]
    assert model.layers["rnn"].config() == {
        "input_size": 4,
        "hidden_size": 5,
        "num_layers": 2,
        "bias": "single",
        "bidirectional": True,
        "dropout": 0.1,
        "dtype": "float32",
        "reset_after": False,
    }
    assert model.params["head.weight"].shape == (3, 10)
    assert "head.bias" in model.params
    assert "head.bias" not in rc.SequenceModel(7, 5, 3, bias=False).params
    assert model.num_parameters == sum(value.size for value in model.params.values())
    assert rc.SequenceModel(7, 5, 3, "rnn", activation="relu").layers["rnn"].activation == "relu"


def test_the_seed_decides():
    a, b, c = (rc.SequenceModel(7, 5, 3, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not any(np.array_equal(a[name], c[name]) for name in a if "weight" in name)


def test_names_of_layers():
    model = rc.Sequential({"encoder": rc.RNN(2, 3), "head": rc.Linear(3, 1)})
    assert next(iter(model.params)) == "encoder.weight_ih_l0"
    assert list(model.params)[-1] == "head.bias"
    assert list(rc.Sequential([rc.Linear(2, 1)]).params) == ["0.weight", "0.bias"]


def test_input_kind():
    assert rc.Sequential([rc.Embedding(5, 2), rc.RNN(2, 3)]).input == "tokens"
    assert rc.Sequential([rc.RNN(2, 3)]).input == "dense"
    assert rc.Sequential([rc.RNN(2, 3)], input="tokens").predict([[0, 1]]).shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("layers", "options", "error", "message"),
    [
        ([], {}, ValueError, "layers must not be empty"),
        ([rc.RNN], {}, TypeError, r"layers\['0'\] must be a layer, got ABCMeta"),
        (
            [rc.RNN(2, 3), rc.Linear(4, 1)],
            {},
            ValueError,
            r"layers\['1'\] takes 4 features, but layers\['0'\] gives 3",
        ),
        (
            [rc.RNN(2, 3), rc.Linear(3, 1, dtype="float64")],
            {},
            ValueError,
            r"layers\['1'\] has dtype float64, but layers\['0'\] float32",
        ),
        (
            [rc.RNN(2, 3), rc.Embedding(3, 2)],
            {},
            ValueError,
            r"layers\['1'\] takes token ids: it must be the first layer",
        ),
        ({"a.b": rc.Linear(2, 2)}, {}, ValueError, "the name of a layer must be a string without a dot"),
        ([rc.Linear(2, 2)] * 2, {}, ValueError, "layers holds the same layer twice"),
        ([rc.Linear(2, 2)], {"output": "last"}, ValueError, "output='last' needs a recurrent layer"),
        (
            [rc.Linear(2, 2)],
            {"output": "first"},
            ValueError,
            "output must be one of 'all', 'last', got 'first'",
        ),
        ([rc.Linear(2, 2)], {"input": "tokens"}, ValueError, "input must be one of 'dense', got 'tokens'"),
        (
            [rc.Linear(2, 2)],
            {"output_activation": "tanh"},
            ValueError,
            "output_activation must be one of None, 'sigmoid', 'softmax', got 'tanh'",
        ),
    ],
)
def test_chains_that_make_no_sense(layers, options, error, message):
    with pytest.raises(error, match=message):
        rc.Sequential(layers, **options)


def test_linear_behind_linear_warns():
    message = r"layers\['2'\] follows layers\['1'\] with nothing between: two linear maps in a row are one"
    with pytest.warns(UserWarning, match=message) as found:
        rc.Sequential([rc.RNN(2, 3), rc.Linear(3, 4), rc.Linear(4, 1)])
    assert [warning.filename for warning in found] == [__file__]
    rc.Sequential([rc.Linear(2, 3), rc.RNN(3, 3), rc.Linear(3, 4)])
    rc.Sequential([rc.Embedding(2, 3), rc.Linear(3, 4)])


def test_repr():
    assert repr(rc.SequenceModel(6, 4, 2, "gru", embedding_size=3, output="last")) == (
        "SequenceModel(\n"
        "    embedding: Embedding(num_embeddings=6, embedding_dim=3, dtype='float32'),\n"
        "    rnn: GRU(input_size=3, hidden_size=4, num_layers=1, bias=True, bidirectional=False, "
        "dropout=0.0, dtype='float32', reset_after=True),\n"
        "    head: Linear(in_features=4, out_features=2, bias=True, dtype='float32'),\n"
        "    input='tokens',\n"
        "    output='last',\n"
        "    output_activation=None,\n"
        ")"
    )


def test_summary():
    lines = rc.SequenceModel(7, 5, 3, embedding_size=4, output="last", **SIGMOID).summary().split("\n")
    assert [line.split() for line in lines if line[0] != "-"] == [
        ["layer", "type", "output", "parameters"],
        ["embedding", "Embedding", "(N,", "T,", "4)", "28"],
        ["rnn", "LSTM", "(N,", "5)", "220"],
        ["head", "Linear", "(N,", "3)", "18"],
        ["sigmoid", "(N,", "3)"],
        ["total", "266"],
    ]


# --- parameters in and out ---


def test_state_dict():
    model, other = chain(), chain()
    state = model.state_dict()
    for value in state.values():
        value *= 2
    assert not np.array_equal(state["0.weight_ih_l0"], model.params["0.weight_ih_l0"])  # copies
    other.load_state_dict(state)
    for name, value in other.params.items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("1.bias"), ValueError, "1.bias is missing"),
        (lambda s: s.update(extra=np.zeros(3)), ValueError, "extra is unknown"),
        (
            lambda s: s.update({"3.bias": np.zeros(3)}),
            ValueError,
            r"3.bias must have shape \(2,\), got \(3,\)",
        ),
        (
            lambda s: s.update({"3.bias": np.zeros(2, complex)}),
            TypeError,
            "3.bias must hold real numbers, got dtype complex128",
        ),
    ],
)
def test_load_state_dict_changes_all_or_nothing(change, error, message):
    model = chain()
    before = model.state_dict()
    state = {name: value + 1 for name, value in before.items()}
    change(state)
    with pytest.raises(error, match=message):
        model.load_state_dict(state)
    for name, value in model.params.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_stand_alone(duplicate):
    model, x = chain(**SIGMOID), draw(N, T, D)
    expected = model.predict(x)
    other = duplicate(model)
    for value in model.params.values():
        value[...] = 0
    np.testing.assert_array_equal(other.predict(x), expected)


# --- files ---


@pytest.mark.parametrize(
    "model",
    [
        chain(output="last", output_activation="softmax"),
        rc.SequenceModel(6, 4, 2, embedding_size=3),
        rc.SequenceModel(D, 4, 2, "rnn", input="dense", activation="prelu", bias="single", num_layers=2),
        rc.SequenceModel(D, 4, 2, "gru", input="dense", reset_after=False, bias=False, dtype="float64"),
        rc.SequenceModel(D, 4, 2, num_layers=2, input="dense", dropout=0.5, bidirectional=True),
    ],
)
def test_save_and_load(model, tmp_path):
    path = tmp_path / "model.safetensors"
    model.save(path)
    other = rc.load(path)
    assert other.config() == model.config()
    x = draw(N, T, D) if model.input == "dense" else np.arange(N * T).reshape(N, T) % 6
    np.testing.assert_array_equal(other.predict(x, LENGTHS), model.predict(x, LENGTHS))
    for name, value in load_file(path).items():  # any reader of the format can have the parameters
        np.testing.assert_array_equal(value, model.params[name])


def test_layers_whose_names_begin_alike(tmp_path):
    """Parameters of layer 1 are not those of layer 10."""
    model = rc.Sequential([rc.RNN(D, 2, seed=0), *(rc.RNN(2, 2, seed=k) for k in range(1, 12))])
    model.save(tmp_path / "model")
    other = rc.load(tmp_path / "model")
    assert list(other.layers) == [str(k) for k in range(12)]
    for name, value in model.params.items():
        np.testing.assert_array_equal(other.params[name], value)


def test_saving_replaces_a_file_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    chain().save(path)
    content = path.read_bytes()
    other = rc.SequenceModel(6, 4, 2)

    def fail(*args):
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space left"):
            other.save(path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    other.save(path)
    assert rc.load(path).config() == other.config()
    with pytest.raises(FileNotFoundError):
        other.save(tmp_path / "nowhere" / "model.safetensors")


def test_damaged_and_foreign_files(tmp_path):
    path = tmp_path / "model.safetensors"
    chain().save(path)
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]

    def refused(changed, message):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=message) as error:
            rc.load(path)
        assert str(path) in str(error.value)

    for length in (0, 4, 8, 20, size, size + 8, size + 20, len(content) - 1):
        refused(content[:length], "is damaged, or no model file")
    refused(content + b"0", "is damaged, or no model file")
    refused(b"<html>this is no model</html>", "is damaged, or no model file")
    for place in (size + 8, size + 100, len(content) - 1):  # one bit of the parameters
        flipped = bytearray(content)
        flipped[place] ^= 1
        refused(bytes(flipped), "is damaged: its content does not match its checksum")
    refused(content.replace(b'\\"last\\"', b'\\"lost\\"').replace(b'\\"all\\"', b'\\"alt\\"'), "is damaged")

    header = json.loads(content[8 : 8 + size])["__metadata__"]["rnncore"]
    for metadata, message in (
        (None, "is no model of rnncore: its metadata has no entry 'rnncore'"),
        ({"format": "pt"}, "is no model of rnncore"),
        ({"rnncore": "{"}, "is damaged: its configuration cannot be read"),
        ({"rnncore": "[]"}, "is damaged: its configuration cannot be read"),
        ({"rnncore": header.replace('"format": 1', '"format": 2')}, "has format 2, but .* reads format 1"),
        ({"rnncore": '{"format": 1}'}, "is damaged: 'checksum'"),
        ({"rnncore": header}, "is damaged: its content does not match its checksum"),
    ):
        save_file({"0.weight": np.zeros(3)}, path, metadata=metadata)
        refused(path.read_bytes(), message)

    with pytest.raises(FileNotFoundError):
        rc.load(tmp_path / "nothing.safetensors")


# --- streams ---


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stream_is_the_whole_sequence(cell, batch_size):
    model = rc.SequenceModel(
        D, 5, 2, cell, 2, input="dense", output_activation="softmax", dropout=0.5, dtype="float64"
    )
    x = draw(batch_size, 6, D)
    expected = model.predict(x)
    stream = model.stream(batch_size)
    out = np.zeros((batch_size, 2))
    for t in range(6):
        y = stream.step(x[:, t], out=out if t % 2 else None)
        assert (y is out) == bool(t % 2)
        np.testing.assert_allclose(y, expected[:, t], rtol=1e-12)
    for found, final in zip(stream.state, model.forward(x)[1], strict=True):
        np.testing.assert_allclose(found, final, rtol=1e-12)
    stream.reset()
    np.testing.assert_allclose(stream.step(x[:, 0]), expected[:, 0], rtol=1e-12)


def test_a_stream_of_tokens():
    model = rc.SequenceModel(6, 5, 2, embedding_size=3, dtype="float64")
    ids = np.arange(10).reshape(2, 5) % 6
    stream = model.stream(2)
    for t, expected in enumerate(np.moveaxis(model.predict(ids), 1, 0)):
        np.testing.assert_allclose(stream.step(ids[:, t]), expected, rtol=1e-12)


def test_a_stream_of_last_outputs():
    model, x = rc.SequenceModel(D, 5, 2, input="dense", output="last", dtype="float64"), draw(2, 4, D)
    stream = model.stream(2)
    for t in range(4):
        np.testing.assert_allclose(stream.step(x[:, t]), model.predict(x[:, : t + 1]), rtol=1e-12)


def test_a_stream_goes_on_from_a_state():
    model, x = rc.SequenceModel(D, 5, 2, input="dense", dtype="float64"), draw(2, 4, D)
    _, state = model.forward(x[:, :3])
    stream = model.stream(2)
    stream.state = state
    state[0][...] = 0  # the stream has its own
    np.testing.assert_allclose(stream.step(x[:, 3]), model.predict(x)[:, 3], rtol=1e-12)
    with pytest.raises(ValueError, match=r"state\[0\] must have shape \(1, 2, 5\) for a batch of N = 2"):
        stream.state = model.forward(x[:1])[1]
    stream.state = None
    np.testing.assert_allclose(stream.step(x[:, 0]), model.predict(x)[:, 0], rtol=1e-12)
    fresh = model.stream(2)
    fresh.step(x[:, 1])
    fresh.state = None
    np.testing.assert_allclose(fresh.step(x[:, 0]), model.predict(x)[:, 0], rtol=1e-12)


def test_a_stream_keeps_its_weights():
    model, x = rc.SequenceModel(D, 5, 2, input="dense", dtype="float64"), draw(1, 1, D)
    expected, stream = model.predict(x)[:, 0], model.stream()
    for value in model.params.values():
        value[...] = 0
    np.testing.assert_allclose(stream.step(x[:, 0]), expected, rtol=1e-12)


@pytest.mark.parametrize("hidden", [5, 64, 128])
@pytest.mark.parametrize(
    "options",
    [
        {"input": "dense"},
        {"input": "tokens"},
        {"embedding_size": 4},
        {"cell": "rnn", "activation": "prelu", "num_layers": 2},
        {"cell": "gru", "output": "last"},
    ],
)
def test_training_goes_on_beside_a_stream(hidden, options):
    """The kernels read some parameters at every step: biases, slopes, and the rows that token ids pick."""
    model = rc.SequenceModel(6, hidden, 2, **options)
    dense = options.get("input") == "dense"
    x = draw(3, 9, 6) if dense else np.random.default_rng(0).integers(6, size=(3, 9))
    y = draw(3, 2) if model.output == "last" else draw(3, 9, 2)
    trainer = rc.Trainer(model, "mse", rc.SGD(lr=0.5))
    trainer.step(x, y)
    stream, twin = model.stream(3), copy.deepcopy(model).stream(3)
    for t in range(9):
        for value in model.params.values():
            value[...] = 0.01 * (t + 1)
        trainer.step(x, y)
        np.testing.assert_array_equal(stream.step(x[:, t]), twin.step(x[:, t]))


def test_a_refused_step_leaves_the_stream_as_it_was():
    model, ids = rc.SequenceModel(6, 5, 2, dtype="float64"), np.array([[1, 2, 3]])
    stream = model.stream()
    stream.step(ids[:, 0])
    for x_t, error, message in (
        ([6], ValueError, r"x_t\[0\] = 6, but the vocabulary has ids 0 ... 5"),
        ([-1], ValueError, r"x_t\[0\] = -1, but the vocabulary has ids 0 ... 5"),
        ([1, 2], ValueError, r"x_t must have shape \(1,\), got \(2,\)"),
        ([0.5], TypeError, r"x_t must hold integers \(token ids\), got dtype float64"),
    ):
        with pytest.raises(error, match=message):
            stream.step(x_t)
    for out, error, message in (
        (np.zeros(2), ValueError, r"out must have shape \(1, 2\), got \(2,\)"),
        (np.zeros((1, 2), int), TypeError, "out must be an array of float64, got dtype int64"),
        ([[0, 0]], TypeError, "out must be an array of float64, got list"),
        (np.broadcast_to(0.0, (1, 2)), ValueError, "out must be writeable"),
    ):
        with pytest.raises(error, match=message):
            stream.step(ids[:, 1], out=out)
    np.testing.assert_allclose(stream.step(ids[:, 1]), model.predict(ids)[:, 1], rtol=1e-12)


def test_a_bidirectional_model_refuses_to_stream():
    with pytest.raises(ValueError, match="a bidirectional model cannot be streamed"):
        rc.SequenceModel(D, 5, 2, bidirectional=True).stream()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        rc.SequenceModel(D, 5, 2).stream(0)
