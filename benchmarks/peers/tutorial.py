"""NumPy as tutorials write it: a loop over the steps, forward and back, and a line for each gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from works import Work

installed = True


def training(work: Work) -> Callable[[], float]:
    """Return one update of one of the three networks that the tutorials have."""
    if work.cell == "lstm":
        return _last_step_lstm(work)
    return _characters(work) if work.tokens else _addition(work)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-x))


def _addition(work: Work) -> Callable[[], float]:
    """Elman network without biases, a sigmoid at every step, half the squared error summed."""
    weights = work.model().state_dict()
    W_xh, W_hh, W_hy = (
        weights[name].T.copy() for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight")
    )
    inputs, targets = work.batch()

    def step() -> float:
        hs, deltas, loss = [np.zeros((1, work.H), np.float32)], [], 0.0
        for t in range(work.T):
            h = np.tanh(np.dot(inputs[:, t], W_xh) + np.dot(hs[-1], W_hh))
            y = sigmoid(np.dot(h, W_hy))
            error = y - targets[:, t]
            loss += 0.5 * float((error**2).sum())
            deltas.append(error * y * (1 - y))
            hs.append(h)
        dW_xh, dW_hh, dW_hy = np.zeros_like(W_xh), np.zeros_like(W_hh), np.zeros_like(W_hy)
        dz = np.zeros((1, work.H), np.float32)
        for t in reversed(range(work.T)):
            h = hs[t + 1]
            dz = (np.dot(dz, W_hh.T) + np.dot(deltas[t], W_hy.T)) * (1 - h * h)
            dW_hy += np.dot(h.T, deltas[t])
            dW_hh += np.dot(hs[t].T, dz)
            dW_xh += np.dot(inputs[:, t].T, dz)
        for param, grad in zip((W_xh, W_hh, W_hy), (dW_xh, dW_hh, dW_hy), strict=True):
            param -= work.lr * grad
        return loss

    return step


def _characters(work: Work) -> Callable[[], float]:
    """Elman network on characters as one-hot columns, clipping by value, Adagrad."""
    weights = work.model().state_dict()
    W_xh, W_hh, W_hy = (weights[name] for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"))
    b_h, b_y = (weights[name][:, None] for name in ("rnn.bias_ih_l0", "head.bias"))
    params = [W_xh, W_hh, W_hy, b_h, b_y]
    memories = [np.zeros_like(param) for param in params]
    (inputs,), (targets,) = work.batch()

    def step() -> float:
        xs, hs, ps = {}, {-1: np.zeros((work.H, 1), np.float32)}, {}
        loss = 0.0
        for t in range(work.T):
            xs[t] = np.zeros((work.D, 1), np.float32)
            xs[t][inputs[t]] = 1
            hs[t] = np.tanh(np.dot(W_xh, xs[t]) + np.dot(W_hh, hs[t - 1]) + b_h)
            y = np.dot(W_hy, hs[t]) + b_y
            ps[t] = np.exp(y) / np.sum(np.exp(y))
            loss += -float(np.log(ps[t][targets[t], 0]))
        grads = [np.zeros_like(param) for param in params]
        dW_xh, dW_hh, dW_hy, db_h, db_y = grads
        dh_next = np.zeros_like(hs[0])
        for t in reversed(range(work.T)):
            dy = ps[t].copy()
            dy[targets[t]] -= 1
            dW_hy += np.dot(dy, hs[t].T)
            db_y += dy
            dz = (1 - hs[t] * hs[t]) * (np.dot(W_hy.T, dy) + dh_next)
            db_h += dz
            dW_xh += np.dot(dz, xs[t].T)
            dW_hh += np.dot(dz, hs[t - 1].T)
            dh_next = np.dot(W_hh.T, dz)
        for grad in grads:
            np.clip(grad, -work.clip_value, work.clip_value, out=grad)
        for param, grad, memory in zip(params, grads, memories, strict=True):
            memory += grad * grad
            param += -work.lr * grad / (np.sqrt(memory) + 1e-10)
        return loss

    return step


def _last_step_lstm(work: Work) -> Callable[[], float]:
    """LSTM with one matrix for all gates, an affine layer on the last step, half the squared error."""
    weights = work.model().state_dict()
    W_x, W_h, W_y = (
        weights[name].T.copy() for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight")
    )
    b, b_y = weights["rnn.bias_ih_l0"], weights["head.bias"]
    params = [W_x, W_h, b, W_y, b_y]
    inputs, targets = work.batch()
    H = work.H

    def step() -> float:
        h = c = np.zeros((work.N, H), np.float32)
        kept = []
        for t in range(work.T):
            x = inputs[:, t]
            z = np.dot(x, W_x) + np.dot(h, W_h) + b
            i, f = sigmoid(z[:, :H]), sigmoid(z[:, H : 2 * H])
            g, o = np.tanh(z[:, 2 * H : 3 * H]), sigmoid(z[:, 3 * H :])
            c_next = f * c + g * i
            h_next = o * np.tanh(c_next)
            kept.append((x, h, c, i, f, g, o, c_next))
            h, c = h_next, c_next
        error = np.dot(h, W_y) + b_y - targets
        loss = 0.5 * float(np.sum(error**2)) / work.N
        dy = error / work.N
        grads = [np.zeros_like(param) for param in params]
        dW_x, dW_h, db, dW_y, db_y = grads
        dW_y += np.dot(h.T, dy)
        db_y += dy.sum(axis=0)
        dh, dc = np.dot(dy, W_y.T), np.zeros_like(c)
        for x, h_before, c_before, i, f, g, o, c_next in reversed(kept):
            tanh_c = np.tanh(c_next)
            ds = dc + dh * o * (1 - tanh_c**2)
            dc = ds * f
            di, df = ds * g * i * (1 - i), ds * c_before * f * (1 - f)
            dg, do = ds * i * (1 - g**2), dh * tanh_c * o * (1 - o)
            dz = np.hstack((di, df, dg, do))
            dW_h += np.dot(h_before.T, dz)
            dW_x += np.dot(x.T, dz)
            db += dz.sum(axis=0)
            dh = np.dot(dz, W_h.T)
        for param, grad in zip(params, grads, strict=True):
            param -= work.lr * grad
        return loss

    return step
