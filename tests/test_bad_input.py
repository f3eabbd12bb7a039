"""What comes in is taken as it should be, or refused with an error that names it and changes nothing."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import rnncore as rc

N, T, D, V = 3, 4, 2, 5
X = np.random.default_rng(0).normal(size=(N, T, D)).astype(np.float32)
IDS = np.random.default_rng(1).integers(V, size=(N, T))


def dense(**options):
    return rc.SequenceModel(D, 3, 2, input="dense", **options)


def tokens(**options):
    return rc.SequenceModel(V, 3, 2, **options)


# --- what works ---


def strided(x):
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


FORMS = {
    "fortran": np.asfortranarray,
    "strided": strided,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "read_only": read_only,
    "byte_swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "list": lambda x: x.tolist(),
    "unaligned": lambda x: np.frombuffer(b"0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@each_form
def test_any_form_of_numbers(form):
    model, lengths = dense(), np.array([2, 4, 3])
    expected = model.predict(X, lengths)
    np.testing.assert_array_equal(model.predict(form(X), form(lengths)), expected)
    layer = rc.GRU(D, 3, seed=0)
    state, dy = np.ones((1, N, 3), np.float32), np.ones((N, T, 3), np.float32)
    y, final = layer.forward(X, state, training=True)
    dx, dstate = layer.backward(dy)
    again, last = layer.forward(form(X), form(state), training=True)
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(last, final)
    for found, array in zip(layer.backward(form(dy)), (dx, dstate), strict=True):
        np.testing.assert_array_equal(found, array)


@each_form
def test_any_form_of_tokens_and_targets(form):
    expected = rc.Trainer(tokens(), "cross_entropy").step(IDS, IDS % 2)
    assert rc.Trainer(tokens(), "cross_entropy").step(form(IDS), form(IDS % 2)) == expected
    y = X @ np.eye(2, dtype=np.float32)
    expected = rc.Trainer(dense(), "mse").step(X, y)
    assert rc.Trainer(dense(), "mse").step(form(X), form(y)) == expected


@each_form
def test_any_form_of_parameters(form):
    model, other = dense(seed=0), dense(seed=1)
    other.load_state_dict({name: form(value) for name, value in model.params.items()})
    np.testing.assert_array_equal(other.predict(X), model.predict(X))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float16, np.float64, np.longdouble])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_other_real_numbers_are_cast(dtype, precision):
    model, x = dense(dtype=precision), np.abs(X * 3).astype(dtype)
    np.testing.assert_array_equal(model.predict(x), model.predict(x.astype(precision)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i8"])
def test_integers_of_any_type_are_tokens(dtype):
    np.testing.assert_array_equal(tokens().predict(IDS.astype(dtype)), tokens().predict(IDS))


def test_empty_batches():
    for model, x in ((dense(), np.zeros((0, T, D))), (tokens(), np.zeros((0, T), int))):
        y, (h, c) = model.forward(x, lengths=[])
        assert y.shape == (0, T, 2)
        assert h.shape == c.shape == (1, 0, 3)
        y, _ = model.forward(x, training=True)
        model.backward(y)
        assert not any(grad.any() for grad in model.grads.values())
    y, (h, _) = dense().forward(np.zeros((N, 0, D)), state=(np.ones((1, N, 3)), np.ones((1, N, 3))))
    assert y.shape == (N, 0, 2)
    np.testing.assert_array_equal(h, 1)


# --- what does not ---

WRONG_X = [
    (dense, X[0], ValueError, r"x must have shape \(N, T, 2\), got \(4, 2\)"),
    (dense, X[:, :, :1], ValueError, r"x must have shape \(N, T, 2\), got \(3, 4, 1\)"),
    (dense, 3.0, ValueError, r"x must have shape \(N, T, 2\), got \(\)"),
    (dense, X + 1j, TypeError, "x must hold real numbers, got dtype complex64"),
    (dense, X.astype(object), TypeError, "x must hold real numbers, got dtype object"),
    (dense, X.astype(str), TypeError, "x must hold real numbers, got dtype <U"),
    (dense, X.astype("M8[s]"), TypeError, "x must hold real numbers, got dtype datetime64"),
    (dense, None, TypeError, "x must hold real numbers, got dtype object"),
    (dense, [[[1, 2]], [[1, 2], [3, 4]]], ValueError, "x must be an array, but its parts differ in shape"),
    (tokens, IDS[0], ValueError, r"x must have shape \(N, T\), got \(4,\)"),
    (tokens, X, ValueError, r"x must have shape \(N, T\) \(input='tokens'\), got \(3, 4, 2\)"),
    (tokens, IDS * 1.0, TypeError, r"x must hold integers \(token ids\), got dtype float64"),
    (tokens, IDS > 2, TypeError, r"x must hold integers \(token ids\), got dtype bool"),
    (tokens, IDS.astype(str), TypeError, r"x must hold integers \(token ids\), got dtype <U"),
]


@pytest.mark.parametrize(("model", "x", "error", "message"), WRONG_X)
def test_wrong_x(model, x, error, message):
    with pytest.raises(error, match=message):
        model().forward(x)
    with pytest.raises(error, match=message):
        model().predict(x)
    with pytest.raises(error, match=message):
        rc.Trainer(model(), "mse").step(x, X)


@pytest.mark.parametrize("layer", [rc.LSTM(V, 3), rc.Embedding(V, 3)])
@pytest.mark.parametrize(
    ("wrong", "found"), [(V, "5"), (-1, "-1"), (-(2**62), "-46116860"), (2**63, "9223372036854775808")]
)
def test_tokens_outside_the_vocabulary(layer, wrong, found):
    ids = IDS.astype(np.uint64 if wrong > 2**62 else np.int64)
    ids[2, 1] = wrong
    message = rf"x\[2, 1\] = {found}\d*, but the vocabulary has ids 0 \.\.\. 4"
    with pytest.raises(ValueError, match=message):
        layer.forward(ids)
    model = rc.Sequential([layer], input="tokens")
    with pytest.raises(ValueError, match=message):
        model.predict(ids, lengths=[1, 3, 2])
    model.predict(ids, lengths=[1, 3, 1])  # behind the end of its sequence nobody looks
    trainer = rc.Trainer(model, "mse")
    with pytest.raises(ValueError, match=message):
        trainer.step(ids, np.zeros((N, T, 3)))


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2, 5], ValueError, r"lengths\[2\] = 5, but x has only T = 4 steps"),
        ([1, -2, 5], ValueError, r"lengths\[1\] = -2 is negative"),
        ([1, 2], ValueError, r"lengths must have shape \(3,\), got \(2,\)"),
        ([[1, 2, 3]], ValueError, r"lengths must have shape \(3,\), got \(1, 3\)"),
        (4, ValueError, r"lengths must have shape \(3,\), got \(\)"),
        ([1.0, 2.0, 3.0], TypeError, r"lengths must hold integers \(the valid steps .*\), got dtype float64"),
        ([True, True, False], TypeError, "lengths must hold integers .* got dtype bool"),
        (
            np.array([1, 2, 2**63], np.uint64),
            ValueError,
            r"lengths\[2\] = 9223372036854775808, but x has only",
        ),
    ],
)
def test_wrong_lengths(lengths, error, message):
    model = dense()
    for call in (model.forward, model.predict, rc.LSTM(D, 3).forward):
        with pytest.raises(error, match=message):
            call(X, lengths=lengths)
    with pytest.raises(error, match=message):
        rc.Trainer(model, "mse").step(X, X, lengths=lengths)


H0 = np.zeros((1, N, 3))


@pytest.mark.parametrize(
    ("cell", "state", "error", "message"),
    [
        ("gru", H0[0], ValueError, r"state must have shape \(1, 3, 3\) for a batch of N = 3, got \(3, 3\)"),
        ("gru", H0[:, :2], ValueError, r"state must have shape \(1, 3, 3\) .* got \(1, 2, 3\)"),
        ("gru", (H0, H0), ValueError, r"state must have shape \(1, 3, 3\) .* got \(2, 1, 3, 3\)"),
        ("gru", H0 + 1j, TypeError, "state must hold real numbers, got dtype complex128"),
        ("gru", "zero", TypeError, "state must hold real numbers, got dtype <U4"),
        ("lstm", H0, ValueError, r"state must be a pair \(h, c\), got ndarray"),
        ("lstm", (H0,), ValueError, r"state must be a pair \(h, c\), got tuple"),
        (
            "lstm",
            (H0, H0[:, :, :2]),
            ValueError,
            r"state\[1\] must have shape \(1, 3, 3\) .* got \(1, 3, 2\)",
        ),
    ],
)
def test_wrong_state(cell, state, error, message):
    model = dense(cell=cell)
    for call in (model.forward, model.layers["rnn"].forward):
        with pytest.raises(error, match=message):
            call(X, state)
    with pytest.raises(error, match=message):
        rc.Trainer(model, "mse").step(X, X, state=state)


def test_wrong_state_of_several_layers():
    model = rc.Sequential([rc.RNN(D, 3), rc.LSTM(3, 2)])
    good = [np.zeros((1, N, 3)), (np.zeros((1, N, 2)), np.zeros((1, N, 2)))]
    model.forward(X, good)
    model.forward(X, tuple(good))
    for state, message in (
        (good[0], "state must be a list of the states of 2 recurrent layers"),
        (good[:1], "state must be a list of the states of 2 recurrent layers"),
        (good[::-1], r"state\[0\] must have shape \(1, 3, 3\)|state\[0\] must be an array"),
        ([good[0], good[0]], r"state\[1\] must be a pair \(h, c\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.forward(X, state)
    with pytest.raises(ValueError, match="state is given, but no layer has one"):
        rc.Sequential([rc.Linear(D, 3)]).forward(X, good[0])


@pytest.mark.parametrize(
    ("dy", "error", "message"),
    [
        (np.zeros((N, T, 2)), ValueError, r"dy must have shape \(3, 4, 3\), got \(3, 4, 2\)"),
        (np.zeros((N, T - 1, 3)), ValueError, r"dy must have shape \(3, 4, 3\), got \(3, 3, 3\)"),
        (np.zeros((N, T, 3), complex), TypeError, "dy must hold real numbers, got dtype complex128"),
    ],
)
def test_wrong_gradients(dy, error, message):
    layer = rc.GRU(D, 3)
    layer.forward(X, training=True)
    with pytest.raises(error, match=message):
        layer.backward(dy)
    with pytest.raises(ValueError, match=r"dstate must have shape \(1, 3, 3\) for a batch of N = 3"):
        layer.backward(None, np.zeros((1, 2, 3)))
    assert not any(grad.any() for grad in layer.grads.values())
    layer.backward(np.ones((N, T, 3)))  # still possible


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rc.LSTM(0, 3), ValueError, "input_size must be at least 1, got 0"),
        (lambda: rc.LSTM(2, 0), ValueError, "hidden_size must be at least 1, got 0"),
        (lambda: rc.LSTM(2, -3), ValueError, "hidden_size must be at least 1, got -3"),
        (lambda: rc.LSTM(2, 3, 0), ValueError, "num_layers must be at least 1, got 0"),
        (lambda: rc.LSTM(2.0, 3), TypeError, "input_size must be an integer, got 2.0"),
        (lambda: rc.LSTM(2, True), TypeError, "hidden_size must be an integer, got True"),
        (lambda: rc.LSTM(2, "3"), TypeError, "hidden_size must be an integer, got '3'"),
        (lambda: rc.LSTM(2, 3, bias=1), ValueError, "bias must be one of True, 'single', False, got 1"),
        (lambda: rc.LSTM(2, 3, bias=[]), ValueError, r"bias must be one of True, 'single', False, got \[\]"),
        (lambda: rc.LSTM(2, 3, bidirectional=2), TypeError, "bidirectional must be True or False, got 2"),
        (lambda: rc.LSTM(2, 3, 2, dropout=1), ValueError, r"dropout must lie in \[0, 1\), got 1"),
        (lambda: rc.LSTM(2, 3, 2, dropout=-0.1), ValueError, r"dropout must lie in \[0, 1\), got -0.1"),
        (lambda: rc.LSTM(2, 3, dropout=0.5), ValueError, "dropout acts between layers, and num_layers = 1"),
        (
            lambda: rc.LSTM(2, 3, dtype="float16"),
            ValueError,
            "dtype must be 'float32' or 'float64', got 'float16'",
        ),
        (lambda: rc.LSTM(2, 3, dtype="no"), ValueError, "dtype must be 'float32' or 'float64', got 'no'"),
        (lambda: rc.LSTM(2, 3, dtype=None), ValueError, "dtype must be 'float32' or 'float64', got None"),
        (lambda: rc.LSTM(2, 3, dtype=">f4"), ValueError, "dtype must be 'float32' or 'float64', got '>f4'"),
        (
            lambda: rc.RNN(2, 3, activation="elu"),
            ValueError,
            "activation must be one of 'tanh', .*, got 'elu'",
        ),
        (lambda: rc.GRU(2, 3, reset_after=None), TypeError, "reset_after must be True or False, got None"),
        (lambda: rc.Linear(0, 3), ValueError, "in_features must be at least 1, got 0"),
        (lambda: rc.Linear(3, 0), ValueError, "out_features must be at least 1, got 0"),
        (lambda: rc.Linear(3, 1, bias="single"), TypeError, "bias must be True or False, got 'single'"),
        (lambda: rc.Embedding(0, 3), ValueError, "num_embeddings must be at least 1, got 0"),
        (lambda: rc.Embedding(3, 0), ValueError, "embedding_dim must be at least 1, got 0"),
        (lambda: rc.SequenceModel(0, 3, 1), ValueError, "input_size must be at least 1, got 0"),
        (lambda: rc.SequenceModel(2, 3, 0), ValueError, "output_size must be at least 1, got 0"),
        (
            lambda: rc.SequenceModel(2, 3, 1, "esn"),
            ValueError,
            "cell must be one of 'rnn', 'lstm', 'gru', got 'esn'",
        ),
        (
            lambda: rc.SequenceModel(2, 3, 1, input="text"),
            ValueError,
            "input must be one of 'tokens', 'dense'",
        ),
        (
            lambda: dense(embedding_size=3),
            ValueError,
            "embedding_size is for input='tokens', got input='dense'",
        ),
        (lambda: tokens(embedding_size=0), ValueError, "embedding_size must be at least 1, got 0"),
        (lambda: dense(output="some"), ValueError, "output must be one of 'all', 'last', got 'some'"),
        (
            lambda: dense(output_activation="relu"),
            ValueError,
            "output_activation must be one of None, 'sigmoid'",
        ),
    ],
)
def test_wrong_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_training_is_a_flag():
    with pytest.raises(TypeError, match="training must be True or False, got 'yes'"):
        dense().forward(X, training="yes")


def test_numbers_that_float32_cannot_hold_are_refused_in_training():
    x = X.astype(np.float64)
    x[1, 2, 0] = 1e300
    trainer = rc.Trainer(dense(), "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(ValueError, match=r"x\[1, 2, 0\] = 1e\+300 \(inf in float32\), expected a finite"):
            trainer.step(x, X)


def test_large_finite_numbers_are_fine():
    trainer = rc.Trainer(rc.SequenceModel(D, 3, 2, input="dense", dtype="float64"), "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert np.isfinite(trainer.step(np.full((N, T, D), 1e200), X))


# --- whatever comes ---


@settings(max_examples=100, deadline=None)
@given(
    x=hnp.arrays(
        dtype=st.one_of(
            hnp.floating_dtypes(),
            hnp.integer_dtypes(),
            hnp.unsigned_integer_dtypes(),
            hnp.boolean_dtypes(),
            hnp.complex_number_dtypes(),
        ),
        shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    ),
    lengths=st.none() | st.lists(st.integers(-1, 5), max_size=4),
    model=st.sampled_from([dense(), tokens()]),
)
def test_a_call_works_or_says_why_not(x, lengths, model):
    complaint = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # overflow of what is too large
        try:
            y = model.predict(x, lengths)
        except (TypeError, ValueError) as error:
            complaint = str(error)
    if complaint:
        assert complaint.startswith(("x", "lengths"))
    else:
        assert x.ndim == (3 if model.input == "dense" else 2)
        assert y.shape == (*x.shape[:2], 2)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(0, T), min_size=N, max_size=N),
    index=st.tuples(*map(st.integers, (0, 0, 0), (N - 1, T - 1, D - 1))),
)
def test_where_a_bad_number_stands(lengths, index):
    """The position named is that in the user's array, whatever the order inside."""
    assume(any(lengths))
    x = X.copy()
    x[index] = np.nan
    trainer = rc.Trainer(dense(), "mse", rc.SGD(lr=0))
    if index[1] < lengths[index[0]]:
        with pytest.raises(ValueError, match=r"x\[{}, {}, {}\] = nan".format(*index)):
            trainer.step(x, X, lengths)
    else:
        assert np.isfinite(trainer.step(x, X, lengths))


# --- masks, aliases, data frames ---


def masked(x, *places):
    found = np.ma.masked_array(x.copy())
    for place in places:
        found[place] = np.ma.masked
    return found


class Frame:
    """Stands for a data frame: iterating it gives its labels."""

    def __init__(self, values, columns=None):
        self.values, self.columns = np.asarray(values), columns

    def __iter__(self):
        return iter(self.columns)

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        return self.values


def test_a_mask_that_hides_something_is_refused():
    x, y = masked(X, (1, 2, 0), (0, 0, 1)), np.zeros((N, T, 2))
    message = "must have no masked elements, but has {}: fill them or leave them out"
    trainer, series = rc.Trainer(dense(), "mse"), masked(np.arange(200.0), 3, 5, 7)
    for name, count, call in (
        ("x", 2, lambda: dense().predict(x)),
        ("x", 2, lambda: rc.LSTM(D, 3).forward(x)),
        ("x", 2, lambda: dense().predict([*x])),
        ("x", 2, lambda: trainer.step(x, y)),
        ("y", 1, lambda: trainer.step(X, masked(y, (0, 0, 0)))),
        ("lengths", 1, lambda: dense().predict(X, masked(np.array([1, 2, 3]), 1))),
        ("x_t", 1, lambda: dense().stream(N).step(x[:, 0])),
        ("state", 1, lambda: rc.GRU(D, 3).forward(X, masked(np.zeros((1, N, 3)), (0, 0, 0)))),
        (
            "head.bias",
            1,
            lambda: dense().load_state_dict(dense().params | {"head.bias": masked(np.ones(2), 0)}),
        ),
        ("series", 3, lambda: rc.tasks.Forecasting(series)),
        ("x", 2, lambda: rc.tasks.SequenceRegression(x, y[:, 0])),
        (r"x\[1\]", 1, lambda: rc.tasks.SequenceRegression([*x[:0], X[0], x[1]], [1, 2])),
        ("y", 1, lambda: rc.tasks.SequenceRegression(X, masked(np.arange(3.0), 2))),
        ("y", 1, lambda: rc.tasks.SequenceClassification(X, masked(np.arange(3), 2))),
    ):
        with pytest.raises(ValueError, match=f"{name} {message.format(count)}"):
            call()
    np.testing.assert_array_equal(dense().predict(masked(X)), dense().predict(X))  # nothing is hidden
    np.testing.assert_array_equal(dense().predict([*masked(X)]), dense().predict(X))


def test_swapped_parameters_are_swapped():
    """Also where the arrays given are those that are written into."""
    model = dense()
    before = model.state_dict()
    a, b = "rnn.bias_ih_l0", "rnn.bias_hh_l0"
    model.params[b][...] = np.arange(12)
    model.load_state_dict({**model.params, a: model.params[b], b: model.params[a]})
    np.testing.assert_array_equal(model.params[a], np.arange(12))
    np.testing.assert_array_equal(model.params[b], before[a])


def test_a_swapped_state_is_swapped():
    stream = rc.SequenceModel(D, 3, 2, input="dense").stream(N)
    stream.step(X[:, 0])
    h, c = stream.state
    stream.state = c, h
    np.testing.assert_array_equal(stream.state, (c, h))


def test_data_frames_are_their_values():
    frame = Frame(X[:, :, 0], columns=list("abcd"))
    task = rc.tasks.SequenceRegression(frame, Frame([1.0, 2, 3]), held_out=0)
    assert sorted(task.train.x[:, :, 0].tolist()) == sorted(X[:, :, 0].tolist())
    task = rc.tasks.SequenceRegression([Frame(x, "ab") for x in X], [1.0, 2, 3], held_out=0)
    assert sorted(task.train.x.tolist()) == sorted(X.tolist())
    series = Frame(np.random.default_rng(0).normal(size=(100, 2)), columns=["load", 7])
    task = rc.tasks.Forecasting(series, window=5)
    assert task.columns == ["load", "7"]
    np.testing.assert_array_equal(task.series, series.values)
    assert rc.tasks.Forecasting(series, window=5, columns=["a", "b"]).columns == ["a", "b"]


def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"load": np.arange(100.0), "rain": np.arange(100)})
    assert rc.tasks.Forecasting(frame, window=5).columns == ["load", "rain"]
    assert rc.tasks.Forecasting(frame["load"], window=5).columns == ["load"]
    task = rc.tasks.SequenceClassification(frame, pandas.Series(list("ab") * 50))
    assert task.train.x.shape == (80, 2, 1)
    assert task.classes.tolist() == ["a", "b"]
    with pytest.raises(TypeError, match="column 'day' of series must hold real numbers"):
        rc.tasks.Forecasting(pandas.DataFrame({"day": ["Mon"] * 100, "rain": np.arange(100)}))


# --- what an error says ---


def test_an_id_is_told_as_it_was_given():
    ids = np.full((N, T), 2**63 + 5, np.uint64)
    for call in (
        lambda: tokens().predict(ids),
        lambda: rc.GRU(V, 3).forward(ids),
        lambda: rc.Trainer(tokens(), "cross_entropy").step(ids, IDS % 2),
    ):
        with pytest.raises(ValueError, match=r"x\[0, 0\] = 9223372036854775813, but the vocabulary has ids"):
            call()
    with pytest.raises(ValueError, match=r"x_t\[0\] = 9223372036854775813, but the vocabulary has ids"):
        tokens().stream(N).step(ids[:, 0])
    with pytest.raises(ValueError, match=r"y\[0, 0\] = 9223372036854775813, expected a class of"):
        rc.Trainer(tokens(), "cross_entropy").step(IDS, ids)


def test_a_place_is_that_in_the_whole_batch():
    """Many sequences are run some at a time."""
    model = rc.SequenceModel(V, 128, 2)
    ids = np.zeros((9000, 50), np.int32)
    assert model._rows_at_once(*ids.shape) < 4000
    ids[8000, 3] = 9
    with pytest.raises(ValueError, match=r"x\[8000, 3\] = 9, but the vocabulary has ids 0 ... 4"):
        model.predict(ids)


@pytest.mark.parametrize(
    ("network", "x", "message"),
    [
        (dense(), X[0], r"x must have shape \(N, T, 2\), got \(4, 2\): x\[None\] is a batch of one sequence"),
        (dense(), X[0].astype(int), r"got \(4, 2\): x\[None\] is a batch of one sequence"),
        (rc.LSTM(D, 3), X[0], r"x must have shape \(N, T, 2\), got \(4, 2\): x\[None\] is a batch of one"),
        (rc.LSTM(3, 3), X[0], r"x must have shape \(N, T, 3\), got \(4, 2\)$"),
        (rc.LSTM(1, 3), X[0], r"got \(4, 2\): x\[:, :, None\] has one number at each step"),
        (rc.Linear(D, 3), X[0], r"got \(4, 2\): x\[None\] is a batch of one sequence"),
        (tokens(), IDS[0], r"x must have shape \(N, T\), got \(4,\): x\[None\] is a batch of one sequence"),
        (rc.Embedding(V, 3), IDS[0], r"got \(4,\): x\[None\] is a batch of one sequence"),
        (dense(), X[0, 0], r"x must have shape \(N, T, 2\), got \(2,\)"),
    ],
)
def test_an_axis_that_is_missing(network, x, message):
    with pytest.raises(ValueError, match=message):
        network.forward(x)
