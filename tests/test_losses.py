"""Losses through the face: values by the textbook, gradients by central differences, targets refused."""

import numpy as np
import pytest
from gradients import central_differences, relative_error

import rnncore as rc

N, T, D = 3, 4, 2
CLASSES = range(3)
LENGTHS = np.array([2, 0, 4])
VALID = np.arange(T) < LENGTHS[:, None]
COMBINATIONS = [
    ("mse", None),
    ("mse", "sigmoid"),
    ("mse", "softmax"),
    ("half_mse", None),
    ("half_mse", "sigmoid"),
    ("half_mse", "softmax"),
    ("bce", None),
    ("bce", "sigmoid"),
    ("cross_entropy", None),
    ("cross_entropy", "softmax"),
]


def problem(loss, output):
    """Input and target."""
    rng = np.random.default_rng(0)
    shape = (N, T) if output == "all" else (N,)
    y = rng.choice(CLASSES, size=shape) if loss == "cross_entropy" else rng.random((*shape, len(CLASSES)))
    return rng.normal(size=(N, T, D)), y


def textbook(loss, logits, prediction, y):
    """The terms of the loss, for rows of logits."""
    if loss == "mse":
        return (prediction - y) ** 2
    if loss == "half_mse":
        return (prediction - y) ** 2 / 2
    if loss == "bce":
        p = 1 / (1 + np.exp(-logits))
        return -y * np.log(p) - (1 - y) * np.log(1 - p)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(y)), y])


def trainer(loss, activation, output, reduction="mean", **options):
    """Of a model with large weights, to have large gradients; its updates change nothing."""
    options = {"cell": "rnn", "init": "tutorial", "dtype": "float64"} | options
    model = rc.SequenceModel(
        D, 2, len(CLASSES), input="dense", output=output, output_activation=activation, **options
    )
    return rc.Trainer(model, loss, rc.SGD(lr=0), reduction=reduction)


@pytest.mark.parametrize(("loss", "activation"), COMBINATIONS)
@pytest.mark.parametrize("output", ["all", "last"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values(loss, activation, output, reduction):
    x, y = problem(loss, output)
    fitted = trainer(loss, activation, output, reduction)
    rows = VALID if output == "all" else slice(None)
    logits, _ = fitted.model.forward(x, lengths=LENGTHS)
    terms = textbook(loss, logits[rows], fitted.model.predict(x, LENGTHS)[rows], y[rows])
    expected = terms.mean() if reduction == "mean" else terms.sum()
    np.testing.assert_allclose(fitted.step(x, y, LENGTHS), expected, rtol=1e-12)
    value, count, _ = fitted.measure(x, y, LENGTHS)
    np.testing.assert_allclose(value, terms.mean(), rtol=1e-12)
    assert count == terms.size


def check_gradients(fitted, x, y):
    fitted.step(x, y, LENGTHS)

    def objective():
        mean, count, _ = fitted.measure(x, y, LENGTHS)
        return mean * count if fitted.reduction == "sum" else mean

    for name, array in fitted.model.params.items():
        expected = central_differences(objective, array)
        assert relative_error(fitted.model.grads[name], expected) < 1e-7, name


@pytest.mark.parametrize(("loss", "activation"), COMBINATIONS)
@pytest.mark.parametrize(("output", "reduction"), [("all", "mean"), ("all", "sum"), ("last", "mean")])
def test_gradients(loss, activation, output, reduction):
    check_gradients(trainer(loss, activation, output, reduction), *problem(loss, output))


@pytest.mark.parametrize(
    ("loss", "activation", "output"),
    [
        ("mse", None, "all"),
        ("half_mse", "sigmoid", "last"),
        ("bce", "sigmoid", "last"),
        ("cross_entropy", None, "all"),
    ],
)
def test_gradients_of_two_layers_in_both_directions(loss, activation, output):
    options = {"cell": "lstm", "num_layers": 2, "bidirectional": True}
    check_gradients(trainer(loss, activation, output, **options), *problem(loss, output))


@pytest.mark.parametrize(("loss", "target"), [("bce", [[[1, 0, 1]]]), ("cross_entropy", [[0]])])
def test_large_logits_neither_overflow_nor_vanish(loss, target):
    fitted = rc.Trainer(
        rc.Sequential([rc.Linear(1, 3, bias=False, init={"weight": [[-800], [0], [800]]})]), loss
    )
    value, count, _ = fitted.measure([[[1]]], target)
    np.testing.assert_allclose(value * count, 800 + np.log(2) if loss == "bce" else 1600, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "activation", "message"),
    [
        ("hinge", None, "loss must be one of 'mse', 'half_mse', 'bce', 'cross_entropy', got 'hinge'"),
        ("bce", "softmax", "loss 'bce' implies output_activation 'sigmoid', but the model has 'softmax'"),
        ("cross_entropy", "sigmoid", "loss 'cross_entropy' implies output_activation 'softmax'"),
    ],
)
def test_losses_refused(loss, activation, message):
    with pytest.raises(ValueError, match=message):
        trainer(loss, activation, "all")


@pytest.mark.parametrize(
    ("loss", "output", "change", "error", "message"),
    [
        ("mse", "all", lambda y: y[:, :3], ValueError, r"y must have shape \(3, 4, 3\), got \(3, 3, 3\)"),
        ("mse", "all", lambda y: y[:, :, 0], ValueError, r"y must have shape \(3, 4, 3\), got \(3, 4\)"),
        ("mse", "last", lambda y: y[:2], ValueError, r"y must have shape \(3, 3\), got \(2, 3\)"),
        ("mse", "all", lambda y: y + 1j, TypeError, "y must hold real numbers, got dtype complex128"),
        ("mse", "all", lambda y: y.astype(str), TypeError, "y must hold real numbers, got dtype <U"),
        ("mse", "all", lambda y: y * np.inf, ValueError, r"y\[2, 0, 0\] = inf, expected a finite number"),
        ("half_mse", "last", lambda y: y * np.nan, ValueError, r"y\[2, 0\] = nan, expected a finite number"),
        ("bce", "all", lambda y: y + 1, ValueError, r"y\[2, 0, 0\] = 1\.\d+, expected a number in \[0, 1\]"),
        (
            "bce",
            "all",
            lambda y: y * np.nan,
            ValueError,
            r"y\[2, 0, 0\] = nan, expected a number in \[0, 1\]",
        ),
        ("cross_entropy", "all", lambda y: y[:, :3], ValueError, r"y must have shape \(3, 4\), got \(3, 3\)"),
        ("cross_entropy", "last", lambda y: y[None], ValueError, r"y must have shape \(3,\), got \(1, 3\)"),
        (
            "cross_entropy",
            "all",
            lambda y: y * 1.0,
            TypeError,
            r"y must hold integers \(classes\), got dtype",
        ),
        (
            "cross_entropy",
            "all",
            lambda y: y + 3,
            ValueError,
            r"y\[2, 0\] = \d, expected a class of 0 \.\.\. 2",
        ),
        (
            "cross_entropy",
            "last",
            lambda y: -1 - y,
            ValueError,
            r"y\[2\] = -\d, expected a class of 0 \.\.\. 2",
        ),
    ],
)
def test_targets_refused(loss, output, change, error, message):
    x, y = problem(loss, output)
    fitted = trainer(loss, None, output)
    fitted.step(x, y, LENGTHS)
    before = fitted.model.state_dict()
    with pytest.raises(error, match=message):
        fitted.step(x, change(y), LENGTHS)
    with pytest.raises(error, match=message):
        fitted.measure(x, change(y), LENGTHS)
    for name, value in fitted.model.params.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i4"])
def test_classes_of_any_integer_type(dtype):
    x, y = problem("cross_entropy", "last")
    assert trainer("cross_entropy", None, "last").step(x, y.astype(dtype), LENGTHS) == trainer(
        "cross_entropy", None, "last"
    ).step(x, y, LENGTHS)


def test_what_stands_behind_the_end_of_a_sequence_does_not_matter():
    x, y = problem("cross_entropy", "all")
    expected = trainer("cross_entropy", None, "all").step(x, y, LENGTHS)
    x[~VALID], y[~VALID] = np.nan, -100
    assert trainer("cross_entropy", None, "all").step(x, y, LENGTHS) == expected


# --- what a model predicts after training ---


def probabilities(loss, logits):
    """By the textbook."""
    if loss == "bce":
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(("loss", "activation"), [("bce", "sigmoid"), ("cross_entropy", "softmax")])
@pytest.mark.parametrize("output", ["all", "last"])
def test_a_loss_from_logits_makes_predictions_probabilities(tmp_path, loss, activation, output):
    x, y = problem(loss, output)
    model = trainer("mse", None, output).model
    before = model.predict(x)
    np.testing.assert_array_equal(before, model.forward(x)[0])
    fitted = rc.Trainer(model, loss, rc.SGD(lr=0))
    assert model.output_activation == activation
    np.testing.assert_array_equal(model.forward(x)[0], before)  # logits as ever
    p = model.predict(x)
    np.testing.assert_allclose(p, probabilities(loss, before), rtol=1e-12)
    fitted.step(x, y)
    np.testing.assert_allclose(fitted.prediction, p, rtol=1e-12)
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(rc.load(tmp_path / "model").predict(x), p)
    np.testing.assert_allclose(
        model.stream(N).step(x[:, 0]), model.predict(x[:, :1]).reshape(N, -1), rtol=1e-12
    )


def test_a_loss_on_predictions_leaves_them():
    for activation in (None, "sigmoid", "softmax"):
        assert trainer("mse", activation, "all").model.output_activation == activation


def test_a_refused_trainer_leaves_predictions():
    model = trainer("mse", None, "all").model
    with pytest.raises(ValueError, match="clip_norm"):
        rc.Trainer(model, "bce", clip_norm=-1)
    assert model.output_activation is None


@pytest.mark.parametrize("loss", ["mse", "half_mse", "bce"])
@pytest.mark.parametrize("output", ["all", "last"])
def test_targets_of_a_single_output_need_no_axis_for_it(loss, output):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, T, D)), rng.random((N, T, 1) if output == "all" else (N, 1))
    found = []
    for target in (y, y[..., 0], y[..., 0].tolist(), y[..., 0].astype(">f8")):
        model = rc.SequenceModel(D, 3, 1, input="dense", output=output)
        fitted = rc.Trainer(model, loss, rc.SGD(lr=0.1))
        found.append((fitted.step(x, target, LENGTHS), fitted.measure(x, target, LENGTHS)[:2]))
    assert found == [found[0]] * 4
    with pytest.raises(ValueError, match=r"y\[2(, 0)?\] = nan, expected a "):
        fitted.step(x, np.full(y.shape[:-1], np.nan), [0, 0, 4])
    with pytest.raises(ValueError, match=r"y must have shape \(3, (4, )?1\), got \(3, (4, )?2\)"):
        fitted.step(x, np.repeat(y, 2, axis=-1), LENGTHS)
    with pytest.raises(ValueError, match="y must have shape"):
        fitted.step(x, np.zeros((T, N) if output == "all" else (N, T)), LENGTHS)
