"""First values of the parameters: their distributions, and the order in which they are drawn."""

import functools
import math

import numpy as np
import pytest

import rnncore as rc
from rnncore import initializers

D, H = 40, 30
UNIFORM, NORMAL = 1.8, 3.0  # kurtosis


def assert_spread(value, deviation, kurtosis):
    """Mean zero and this standard deviation, to four standard errors of so many draws."""
    n = value.size
    assert abs(value.mean()) < 4 * deviation / math.sqrt(n)
    assert value.std() == pytest.approx(deviation, rel=4 * math.sqrt((kurtosis - 1) / (4 * n)))


@pytest.mark.parametrize("cell", [rc.RNN, rc.LSTM, rc.GRU])
def test_default(cell):
    layer = cell(D, H, 2, bidirectional=True, dtype="float64", seed=0)
    gates = len(layer.params["bias_ih_l0"]) // H
    for name, value in layer.params.items():
        for gate, block in enumerate(np.split(value, gates)):
            if name.startswith("weight_hh"):
                np.testing.assert_allclose(block @ block.T, np.eye(H), atol=1e-12)
            elif name.startswith("weight_ih"):
                bound = math.sqrt(6 / (block.shape[1] + H))
                assert np.abs(block).max() <= bound
                assert_spread(block, bound / math.sqrt(3), UNIFORM)
            else:
                forget = cell is rc.LSTM and gate == 1 and name.startswith("bias_ih")
                np.testing.assert_array_equal(block, float(forget))


def test_orthogonal_weights_are_uniform_among_all():
    """The trace of a uniformly random orthogonal matrix has mean 0 and variance 1."""
    traces = [
        np.trace(rc.RNN(1, 8, dtype="float64", seed=seed).params["weight_hh_l0"]) for seed in range(400)
    ]
    assert abs(np.mean(traces)) < 4 / math.sqrt(400)
    assert np.var(traces) == pytest.approx(1, rel=4 * math.sqrt(2 / 400))


def test_default_of_linear_and_embedding():
    linear = rc.Linear(D, H, dtype="float64", seed=0)
    assert np.abs(linear.params["weight"]).max() <= math.sqrt(6 / (D + H))
    assert_spread(linear.params["weight"], math.sqrt(2 / (D + H)), UNIFORM)
    assert not linear.params["bias"].any()
    embedding = rc.Embedding(D, H, seed=0)
    assert_spread(embedding.params["weight"], 1, NORMAL)


@pytest.mark.parametrize(
    "layer", [rc.GRU(D, H, init="pytorch", seed=0), rc.Linear(H, D, init="pytorch", seed=0)]
)
def test_pytorch(layer):
    bound = 1 / math.sqrt(H)
    for value in layer.params.values():
        assert np.abs(value).max() <= bound
        assert_spread(value, bound / math.sqrt(3), UNIFORM)
    assert_spread(rc.Embedding(D, H, init="pytorch", seed=0).params["weight"], 1, NORMAL)


def test_tutorial_draws_what_the_addition_tutorial_draws():
    legacy = np.random.RandomState(0)
    w_xh, w_hy, w_hh = (2 * legacy.random_sample(shape) - 1 for shape in ((2, 16), (16, 1), (16, 16)))
    bits = np.random.MT19937()
    bits.state = np.random.RandomState(0).get_state(legacy=False)
    model = rc.SequenceModel(
        2,
        16,
        1,
        "rnn",
        input="dense",
        bias=False,
        init="tutorial",
        dtype="float64",
        seed=np.random.Generator(bits),
    )
    np.testing.assert_array_equal(model.params["rnn.weight_ih_l0"], w_xh.T)
    np.testing.assert_array_equal(model.params["head.weight"], w_hy.T)
    np.testing.assert_array_equal(model.params["rnn.weight_hh_l0"], w_hh.T)


@pytest.mark.parametrize(
    ("init", "deviation"),
    [
        ("tutorial", lambda fan_in: 1 / math.sqrt(3)),
        ("normal", lambda fan_in: 0.01),
        ("lecun", lambda fan_in: 1 / math.sqrt(fan_in)),
        (functools.partial(initializers.normal, std=0.5), lambda fan_in: 0.5),
    ],
)
def test_weights_random_and_biases_zero(init, deviation):
    model = rc.SequenceModel(D, H, 50, input="dense", init=init)
    for name, value in model.params.items():
        if "weight" in name:
            assert_spread(value, deviation(value.shape[1]), UNIFORM if init == "tutorial" else NORMAL)
        else:
            assert not value.any()


@pytest.mark.parametrize("init", [name for name in initializers.NAMED if name != "zeros"])
def test_slope(init):
    assert rc.RNN(2, 3, activation="prelu", init=init).params["slope_l0"] == np.float32(0.25)


def test_zeros():
    assert not any(value.any() for value in rc.SequenceModel(3, 2, 1, init="zeros").params.values())


@pytest.mark.parametrize("init", [*initializers.NAMED])
def test_the_seed_decides_and_the_dtype_does_not(init):
    options = {"embedding_size": 4, "num_layers": 2, "bidirectional": True, "init": init}
    single, double, other = (
        rc.SequenceModel(5, 3, 2, dtype=dtype, seed=seed, **options).params
        for dtype, seed in (("float32", 0), ("float64", 0), ("float32", 1))
    )
    for name in single:
        np.testing.assert_array_equal(single[name], double[name].astype(np.float32))
        if "weight" in name and init != "zeros":
            assert not np.array_equal(single[name], other[name])


def test_an_initializer_of_ones_own():
    def constant(layers, rng):
        for layer in layers:
            for name, value in layer.params.items():
                value[...] = len(name)

    model = rc.Sequential([rc.RNN(2, 3, init=constant), rc.Linear(3, 1, init=constant)])
    for name, value in model.params.items():
        np.testing.assert_array_equal(value, len(name) - 2)


def test_a_model_takes_its_parameters():
    params = {name: value + 1 for name, value in rc.SequenceModel(3, 2, 1).state_dict().items()}
    model = rc.SequenceModel(3, 2, 1, init=params)
    for name, value in model.params.items():
        np.testing.assert_array_equal(value, params[name])
    with pytest.raises(ValueError, match=r"head.weight must have shape \(4, 2\), got \(1, 2\)"):
        rc.SequenceModel(3, 2, 4, init=params)


def test_unknown():
    with pytest.raises(ValueError, match=r"init must be one of 'default', 'pytorch', .*, got 'xavier'"):
        rc.LSTM(2, 3, init="xavier")
    with pytest.raises(ValueError, match="init must be one of"):
        rc.SequenceModel(2, 3, 1, init=3)
