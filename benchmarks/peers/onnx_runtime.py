"""ONNX Runtime: an LSTM node and a linear head, one layer and direction. It infers and does not train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from works import Work

try:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError:
    installed = False
else:
    installed = True


def _reordered(array: np.ndarray) -> np.ndarray:
    """Return gates i, f, g, o as ONNX has them: i, o, f, c."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])[None]


def _session(work: Work) -> Any:
    """Return a session with inputs x (T, N, D), h and c (1, N, H), outputs y (T, N, O), h' and c'."""
    weights = work.model().state_dict()
    biases = [_reordered(weights[f"rnn.bias_{name}_l0"]) for name in ("ih", "hh")]
    constants = {
        "W": _reordered(weights["rnn.weight_ih_l0"]),
        "R": _reordered(weights["rnn.weight_hh_l0"]),
        "B": np.concatenate(biases, axis=1),
        "head": np.ascontiguousarray(weights["head.weight"].T),
        "bias": weights["head.bias"],
        "direction": np.array([1]),
    }
    nodes = [
        helper.make_node(
            "LSTM", ["x", "W", "R", "B", "", "h", "c"], ["all", "h_out", "c_out"], hidden_size=work.H
        ),
        helper.make_node("Squeeze", ["all", "direction"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "head"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["y"]),
    ]

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    state = (1, work.N, work.H)
    graph = helper.make_graph(
        nodes,
        "lstm",
        [value("x", work.T, work.N, work.D), value("h", *state), value("c", *state)],
        [value("y", work.T, work.N, work.O), value("h_out", *state), value("c_out", *state)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


def inference(work: Work) -> Callable[[], np.ndarray]:
    """Return one forward pass."""
    session = _session(work)
    zeros = np.zeros((1, work.N, work.H), np.float32)
    inputs = {"x": np.ascontiguousarray(work.batch()[0].swapaxes(0, 1)), "h": zeros, "c": zeros}
    return lambda: session.run(["y"], inputs)[0].swapaxes(0, 1)


def stream(work: Work) -> Callable[[], np.ndarray]:
    """Return one step that carries the state on."""
    session = _session(work)
    zeros = np.zeros((1, work.N, work.H), np.float32)
    inputs = {"x": np.ascontiguousarray(work.batch()[0].swapaxes(0, 1)[:1]), "h": zeros, "c": zeros}

    def step() -> np.ndarray:
        y, inputs["h"], inputs["c"] = session.run(None, inputs)
        return y[0]

    return step
