"""Update rules, against the formulas of the documentation applied one number at a time; state."""

import copy
import math
import pickle

import numpy as np
import pytest

import rnncore as rc
from rnncore import kernels, optimizers
from rnncore.rows import Variable

GRADS = np.random.default_rng(0).normal(size=(6, 5))
START = np.random.default_rng(1).normal(size=5)


def run(optimizer, dtype="float64", grads=GRADS):
    """The parameters after every step."""
    variable = Variable(START.astype(dtype), np.zeros(5, dtype))
    optimizer.bind([variable])
    history = []
    for grad in grads:
        variable.grad[...] = grad
        optimizer.step()
        history.append(variable.value.copy())
    return np.array(history)


def sgd(p, grads, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    b = None
    for grad in grads:
        g = grad + weight_decay * p
        b = g if b is None else momentum * b + (1 - dampening) * g
        p = p - lr * (g + momentum * b if nesterov else b if momentum else g)
        yield p


def adagrad(p, grads, lr=1e-2, eps=1e-10, weight_decay=0):
    s = 0
    for grad in grads:
        g = grad + weight_decay * p
        s += g**2
        p = p - lr * g / (math.sqrt(s) + eps)
        yield p


def rmsprop(p, grads, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0, weight_decay=0, centered=False):
    s = m = b = 0
    for grad in grads:
        g = grad + weight_decay * p
        s = alpha * s + (1 - alpha) * g**2
        m = alpha * m + (1 - alpha) * g if centered else 0
        b = momentum * b + g / (math.sqrt(s - m**2) + eps)
        p = p - lr * b
        yield p


def adam(p, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, decoupled=False):
    m = v = 0
    for t, grad in enumerate(grads, 1):
        g = grad if decoupled else grad + weight_decay * p
        p = p * (1 - lr * weight_decay) if decoupled else p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        p = p - lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
        yield p


def adamw(p, grads, weight_decay=1e-2, **options):
    return adam(p, grads, weight_decay=weight_decay, decoupled=True, **options)


LEVELS = [name for name in kernels.available() if name != "numpy"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_roots_of_all_sizes(level, dtype):
    limits = np.finfo(dtype)
    x = 10 ** np.random.default_rng(0).uniform(np.log10(limits.tiny), np.log10(limits.max), 5000)
    squares = np.concatenate([[limits.tiny, limits.max], x]).astype(dtype)
    lr, grad = 2.0 ** (100, 1000)[dtype == np.float64], 2.0 ** -(100, 1000)[dtype == np.float64]
    changed = adagrad_from(level, squares, lr, grad, eps=0)  # the gradient's own square vanishes
    np.testing.assert_allclose(changed * np.sqrt(squares.astype(np.longdouble)), -1, rtol=4 * limits.eps)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_roots_of_extremes(level, dtype):
    tiny = np.finfo(dtype).tiny
    changed = adagrad_from(level, np.array([0, tiny / 8, np.inf, np.nan], dtype), 1.0, 1e-30, eps=1e-10)
    np.testing.assert_allclose(changed, [-1e-20, -1e-20, 0, np.nan], rtol=1e-6)


def adagrad_from(level, squares, lr, grad, eps) -> np.ndarray:
    """What Adagrad makes of parameters 0 after such a sum of squares."""
    variable = Variable(np.zeros_like(squares), np.full_like(squares, grad))
    settings = np.array([lr, 1, eps, 0], np.float64)
    kernels.load(level).Adagrad(variable, squares.copy(), settings).update()
    return variable.value


CASES = [
    (rc.SGD, sgd, {}),
    (rc.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (rc.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    (rc.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (rc.SGD, sgd, {"lr": 0.1, "weight_decay": 0.1}),
    (rc.Adagrad, adagrad, {}),
    (rc.Adagrad, adagrad, {"lr": 0.1, "eps": 1e-2, "weight_decay": 0.1}),
    (rc.RMSprop, rmsprop, {}),
    (rc.RMSprop, rmsprop, {"lr": 0.1, "alpha": 0.9, "eps": 1e-2, "momentum": 0.5, "weight_decay": 0.1}),
    (rc.RMSprop, rmsprop, {"centered": True}),
    (rc.RMSprop, rmsprop, {"centered": True, "momentum": 0.5}),
    (rc.Adam, adam, {}),
    (rc.Adam, adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-2, "weight_decay": 0.1}),
    (rc.AdamW, adamw, {}),
    (rc.AdamW, adamw, {"lr": 0.1, "weight_decay": 0.5}),
]
IDS = [f"{optimizer.__name__}-{'-'.join(options)}" for optimizer, _, options in CASES]


@pytest.mark.parametrize(("optimizer", "rule", "options"), CASES, ids=IDS)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 1e-5)])
def test_update_rules(optimizer, rule, options, dtype, rtol):
    expected = np.array([list(rule(p, GRADS[:, i], **options)) for i, p in enumerate(START.tolist())]).T
    np.testing.assert_allclose(run(optimizer(**options), dtype), expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("optimizer", "rule", "options"), CASES, ids=IDS)
def test_a_restored_optimizer_goes_on_as_if_never_stopped(optimizer, rule, options):
    whole = run(optimizer(**options))
    first = optimizer(**options)
    half = run(first, grads=GRADS[:3])
    second = optimizer(**options)
    variable = Variable(half[-1].copy(), np.zeros(5))
    second.bind([variable])
    second.load_state_dict(first.state_dict())
    for grad, expected in zip(GRADS[3:], whole[3:], strict=True):
        variable.grad[...] = grad
        second.step()
        np.testing.assert_array_equal(variable.value, expected)


def test_state_dict():
    optimizer = rc.Adam()
    run(optimizer)
    state = optimizer.state_dict()
    assert {name: value.shape for name, value in state.items()} == {
        "steps": (),
        "0.exp_avg": (5,),
        "0.exp_avg_sq": (5,),
    }
    assert state["steps"] == 6
    state["0.exp_avg"][...] = 0  # a copy
    assert optimizer.state_dict()["0.exp_avg"].all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("steps"), "steps is missing"),
        (lambda s: s.pop("0.exp_avg"), "0.exp_avg is missing"),
        (lambda s: s.update({"1.exp_avg": np.zeros(5)}), "1.exp_avg is unknown"),
        (lambda s: s.update({"0.exp_avg": np.zeros(4)}), r"0.exp_avg must have shape \(5,\), got \(4,\)"),
        (lambda s: s.update({"steps": np.array(-1)}), "steps must be at least 0, got -1"),
    ],
)
def test_load_state_dict_changes_all_or_nothing(change, message):
    optimizer = rc.Adam()
    run(optimizer)
    before = optimizer.state_dict()
    state = {name: value + 1 for name, value in before.items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    for name, value in optimizer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_the_learning_rate_may_change():
    optimizer = rc.SGD(lr=1.0)
    variable = Variable(np.zeros(1), np.ones(1))
    optimizer.bind([variable])
    optimizer.step()
    optimizer.lr = 0.25
    optimizer.step()
    assert variable.value == -1.25
    with pytest.raises(ValueError, match=r"lr must lie in \[0, inf\), got -1"):
        optimizer.lr = -1
    assert optimizer.lr == 0.25


def test_one_optimizer_for_one_trainer():
    optimizer = rc.Adam()
    rc.Trainer(rc.SequenceModel(3, 2, 1), "mse", optimizer)
    with pytest.raises(ValueError, match="this Adam is in use: give every trainer an optimizer of its own"):
        rc.Trainer(rc.SequenceModel(3, 2, 1), "mse", optimizer)


def test_an_optimizer_without_parameters_says_so():
    for name in optimizers.NAMED:
        with pytest.raises(RuntimeError, match="has no parameters to update: give it to a Trainer"):
            optimizers.get(name).step()


@pytest.mark.parametrize(("optimizer", "rule", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_of_an_optimizer_in_use_goes_on_elsewhere(optimizer, rule, options, copied):
    whole = run(optimizer(**options))
    first = optimizer(**options)
    half = run(first, grads=GRADS[:3])
    second = copied(first)
    state = first.state_dict()
    with pytest.raises(RuntimeError, match="has no parameters"):
        second.step()
    variable = Variable(half[-1].copy(), np.zeros(5))
    second.bind([variable])
    for grad, expected in zip(GRADS[3:], whole[3:], strict=True):
        variable.grad[...] = grad
        second.step()
        np.testing.assert_array_equal(variable.value, expected)
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value, state[name])


def test_a_copy_keeps_to_parameters_of_the_same_sizes():
    first = rc.Adam()
    run(first)
    for variables in ([Variable(np.ones(4), np.ones(4))], [Variable(np.ones(5), np.ones(5))] * 2):
        with pytest.raises(ValueError, match="a copy of one in use, whose parameters were others"):
            copy.deepcopy(first).bind(variables)


def test_repr():
    assert repr(rc.Adam(lr=0.01)) == "Adam(lr=0.01, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)"
    for name in optimizers.NAMED:
        again = eval(repr(optimizers.get(name)), vars(rc))
        np.testing.assert_array_equal(again.settings, optimizers.get(name).settings)


def test_a_swapped_state_is_swapped():
    """Also where the arrays given are those that are written into."""
    optimizer = rc.Adam()
    run(optimizer)
    m, v = optimizer._bound[0].values()
    before = m.copy(), v.copy()
    optimizer.load_state_dict({"steps": np.array(6), "0.exp_avg": v, "0.exp_avg_sq": m})
    np.testing.assert_array_equal(m, before[1])
    np.testing.assert_array_equal(v, before[0])


def test_names():
    assert isinstance(optimizers.get("adamw"), rc.AdamW)
    with pytest.raises(ValueError, match=r"optimizer must be one of 'sgd', 'adagrad', .*, got 'adamm'"):
        optimizers.get("adamm")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: rc.SGD(lr=-1), ValueError, r"lr must lie in \[0, inf\), got -1"),
        (lambda: rc.SGD(lr=math.nan), ValueError, r"lr must lie in \[0, inf\), got nan"),
        (lambda: rc.SGD(lr="fast"), TypeError, "lr must be a number, got 'fast'"),
        (lambda: rc.SGD(nesterov=True), ValueError, "nesterov needs momentum > 0 and dampening = 0"),
        (lambda: rc.SGD(momentum=0.9, nesterov=1), TypeError, "nesterov must be True or False, got 1"),
        (lambda: rc.Adam(betas=(0.9, 1)), ValueError, r"betas\[1\] must lie in \[0, 1\), got 1"),
        (lambda: rc.Adam(betas=0.9), ValueError, "betas must be a pair of numbers, got 0.9"),
        (lambda: rc.RMSprop(alpha=1), ValueError, r"alpha must lie in \[0, 1\), got 1"),
        (lambda: rc.Adagrad(weight_decay=-1), ValueError, r"weight_decay must lie in \[0, inf\)"),
    ],
)
def test_hyperparameters_that_make_no_sense(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("optimizer", [rc.SGD, rc.RMSprop])
def test_momentum_is_there_from_the_first_update_or_not_at_all(optimizer):
    without, with_ = optimizer(lr=0.1), optimizer(lr=0.1, momentum=0.5)
    for one in (without, with_):
        one.bind([Variable(np.ones(2), np.ones(2))])
    with pytest.raises(ValueError, match="momentum cannot be switched on in use"):
        without.momentum = 0.9
    assert without.momentum == 0
    with_.momentum = 0.9
    assert with_.momentum == 0.9
