"""Keras on JAX, trained by `train_on_batch`. LSTM of one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from works import Work

try:
    import keras
except ImportError:
    installed = False
else:
    installed = True


def _network(work: Work) -> Any:
    """Return the network with rnncore's weights: Keras has gates in the same order, and one bias."""
    weights = work.model().state_dict()
    bias = sum(weights[name] for name in ("rnn.bias_ih_l0", "rnn.bias_hh_l0") if name in weights)
    if work.tokens:  # a layer of its own, as one-hot vectors would cost a product
        gather = keras.layers.Embedding(work.D, work.D, weights=[np.eye(work.D)], trainable=False)
    lstm = keras.layers.LSTM(work.H, return_sequences=not work.last)
    network = keras.Sequential([*([gather] if work.tokens else []), lstm, keras.layers.Dense(work.O)])
    network.build((work.N, work.T) if work.tokens else (work.N, work.T, work.D))
    lstm.set_weights([weights["rnn.weight_ih_l0"].T, weights["rnn.weight_hh_l0"].T, bias])
    network.layers[-1].set_weights([weights["head.weight"].T, weights["head.bias"]])
    return network


def training(work: Work) -> Callable[[], float]:
    """Return one update."""
    network = _network(work)
    if work.loss == "cross_entropy":
        loss, factor = keras.losses.SparseCategoricalCrossentropy(from_logits=True), 1.0
    else:
        loss, factor = "mse", 0.5
    network.compile(optimizer=keras.optimizers.SGD(factor * work.lr), loss=loss)
    x, y = work.batch()
    return lambda: factor * float(network.train_on_batch(x, y))
