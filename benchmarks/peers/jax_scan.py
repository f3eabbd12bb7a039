"""JAX: one jitted function, the recurrence a scan. One layer and direction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from works import Work

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    installed = False
else:
    installed = True


def _elman(z: Any, h: Any, weights: Any, bias: Any) -> Any:
    return jnp.tanh(z + h @ weights + bias)


def _lstm(z: Any, state: Any, weights: Any, bias: Any) -> Any:
    h, c = state
    i, f, g, o = jnp.split(z + h @ weights + bias, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _gru(z: Any, h: Any, weights: Any, bias: Any) -> Any:
    z_r, z_z, z_n = jnp.split(z, 3, axis=1)
    a_r, a_z, a_n = jnp.split(h @ weights + bias, 3, axis=1)
    r, u = jax.nn.sigmoid(z_r + a_r), jax.nn.sigmoid(z_z + a_z)
    return u * h + (1 - u) * jnp.tanh(z_n + r * a_n)


def _forward(work: Work, params: Any, x: Any, state: Any) -> tuple[Any, Any]:
    """Return the outputs, time by batch, and the final state; x is batch by time."""
    cell = {"rnn": _elman, "lstm": _lstm, "gru": _gru}[work.cell]
    bias_ih, bias_hh = (params.get(f"rnn.{name}_l0", 0) for name in ("bias_ih", "bias_hh"))
    weight_ih, weight_hh = params["rnn.weight_ih_l0"].T, params["rnn.weight_hh_l0"].T
    x = jnp.swapaxes(x, 0, 1)
    z = (weight_ih[x] if work.tokens else x @ weight_ih) + bias_ih

    def advance(state: Any, z_t: Any) -> tuple[Any, Any]:
        state = cell(z_t, state, weight_hh, bias_hh)
        return state, state[0] if work.cell == "lstm" else state

    state, hidden = jax.lax.scan(advance, state, z)
    if work.last:
        hidden = hidden[-1]
    return hidden @ params["head.weight"].T + params.get("head.bias", 0), state


def _zeros(work: Work) -> Any:
    zeros = jnp.zeros((work.N, work.H), work.dtype)
    return (zeros, zeros) if work.cell == "lstm" else zeros


def _params(work: Work) -> dict[str, Any]:
    return {name: jnp.array(value) for name, value in work.model().state_dict().items()}


def training(work: Work) -> Callable[[], float]:
    """Return one update."""
    x, y = work.batch()
    y = jnp.array(y if work.last else np.swapaxes(y, 0, 1))
    x = jnp.array(x)
    reduce = {"mean": jnp.mean, "sum": jnp.sum}[work.reduction]
    params = _params(work)
    sums = {name: jnp.zeros_like(value) for name, value in params.items()}

    def loss_of(params: Any) -> Any:
        prediction, _ = _forward(work, params, x, _zeros(work))
        if work.loss == "cross_entropy":
            log_p = jax.nn.log_softmax(prediction)
            return -reduce(jnp.take_along_axis(log_p, y[..., None], axis=-1))
        if work.sigmoid:
            prediction = jax.nn.sigmoid(prediction)
        return 0.5 * reduce((prediction - y) ** 2)

    def update(params: Any, sums: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params)
        if work.clip_value is not None:
            grads = jax.tree.map(lambda g: jnp.clip(g, -work.clip_value, work.clip_value), grads)
        if work.optimizer == "sgd":
            return loss, jax.tree.map(lambda p, g: p - work.lr * g, params, grads), sums
        sums = jax.tree.map(lambda s, g: s + g * g, sums, grads)
        params = jax.tree.map(lambda p, g, s: p - work.lr * g / (jnp.sqrt(s) + 1e-10), params, grads, sums)
        return loss, params, sums

    update = jax.jit(update, donate_argnums=(0, 1))

    def step() -> float:
        nonlocal params, sums
        loss, params, sums = update(params, sums)
        jax.block_until_ready(params)
        return float(loss)

    return step


def inference(work: Work) -> Callable[[], Any]:
    """Return one forward pass."""
    params, x = _params(work), jnp.array(work.batch()[0])
    forward = jax.jit(lambda params, x: _forward(work, params, x, _zeros(work))[0].swapaxes(0, 1))
    return lambda: forward(params, x).block_until_ready()


def stream(work: Work) -> Callable[[], Any]:
    """Return one step that carries the state on."""
    params, x, state = _params(work), jnp.array(work.batch()[0][:, :1]), _zeros(work)
    forward = jax.jit(lambda params, x, state: _forward(work, params, x, state))

    def step() -> Any:
        nonlocal state
        y, state = forward(params, x, state)
        return y[0].block_until_ready()

    return step
