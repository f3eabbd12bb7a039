"""Where infinity or NaN first appears in a training step that failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore import kernels
from rnncore.models import CELLS, Sequential
from rnncore.plan import Plan
from rnncore.reference._sequence import Recurrent
from rnncore.reference._stage import Stage
from rnncore.reference.linear import Dropout, Linear
from rnncore.reference.losses import Activation, Loss
from rnncore.reference.lstm import LSTM

__all__ = ["locate"]

GATES = {cell.kernel: cell.gates for cell in CELLS.values()}


def locate(model: Sequential, failed: Plan, reduction: str) -> str:
    """Return in a sentence where infinity or NaN first appears.

    The step is made once more by the NumPy kernels, whose stages keep all that can be looked at.

    Parameters
    ----------
    model : Sequential
    failed : Plan
        Of the step, still holding its batch.
    reduction : {"mean", "sum"}
        Of the loss.
    """
    given = [(f"Parameter {name}", value) for name, value in model.params.items()]
    given += [("The initial state", variable.value) for layer in failed.initial for variable in layer]
    for name, value in given:
        for wrong in value[~np.isfinite(value)][:1]:
            return f"{name} holds {wrong}."
    plan = _again(model, failed, reduction)
    with np.errstate(all="ignore"):
        found = _forward(model, plan)
        if found or math.isfinite(failed.step.loss):
            return found or _backward(model, plan)
    return f"With the NumPy kernels all is finite: only the kernels {kernels.active.name} overflow."


def _again(model: Sequential, failed: Plan, reduction: str) -> Plan:
    """Return a plan of NumPy kernels that holds the batch of another."""
    plan = Plan(
        model.chain,
        failed.rows.N,
        failed.rows.T,
        tokens=failed.x.value.ndim == 1,
        output=model.output,
        output_activation=model.output_activation,
        training=True,
        loss=failed.loss,
        reduction=reduction,
        implementation=kernels.load("numpy"),
    )
    plan.take_over(failed)
    return plan


def _forward(model: Sequential, plan: Plan) -> str:
    """Run the stages forward until one puts out what is not finite, and return where."""
    stage: Any  # of the NumPy kernels
    for stage in plan.stages:
        stage.forward()
        if isinstance(stage, Recurrent):
            seen = _gates(stage, stage.gates)
            if isinstance(stage, LSTM):
                seen["cell state c"] = stage.c
            seen["output h"] = stage.y.value
            found = _first(plan, seen, latest=stage.reverse)
        elif isinstance(stage, Loss):
            found = "" if np.isfinite(stage.value[0]) else "the sum of its terms"
        else:
            found = _first(plan, {"output": stage.y.value})
        if found:
            return f"Forward, it begins in {_label(model, stage)}, {found}."
    return ""


def _backward(model: Sequential, plan: Plan) -> str:
    """Run the stages backward until one puts out what is not finite, and return where."""
    k, _, per_sequence = plan.rows.horizon.tolist()
    model.zero_grad()
    for phase in range(1 if per_sequence else max(1, k)):
        plan.rows.horizon[1] = phase
        plan.zero_grad()
        for stage in reversed(plan.stages):
            stage.backward()
            if isinstance(stage, Recurrent):
                found = _first(plan, _gates(stage, stage.dz), latest=not stage.reverse)
                found = found or _first(plan, {"input": stage.x.grad}, latest=not stage.reverse)
            elif isinstance(stage, Loss):
                found = _first(plan, {"prediction": stage.prediction.grad}, latest=True)
            elif isinstance(stage, Linear | Dropout | Activation):
                found = _first(plan, {"input": stage.x.grad}, latest=True)
            else:  # Embedding and Join pass on what they get
                continue
            if found:
                return f"Backward, it begins in {_label(model, stage)}, gradient of {found}."
        for stage in plan.stages:
            stage.accumulate()
    for name, grad in model.grads.items():
        if not np.isfinite(grad).all():
            return f"Backward, it begins in the gradient of {name}."
    return "Every gradient is finite, but the sum of their squares is not."


def _gates(stage: Recurrent, array: np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns of each gate of a stage, by name."""
    names = GATES[type(stage).__name__]
    return dict(zip((f"gate {name}" for name in names), np.split(array, len(names), axis=1), strict=True))


def _first(plan: Plan, seen: Mapping[str, np.ndarray | None], latest: bool = False) -> str:
    """Return the place of the element not finite at the earliest (latest) time step, or nothing.

    Parameters
    ----------
    plan : Plan
    seen : mapping of str to ndarray (M, any) or (N, any), or None
        Packed arrays by name, in the order in which one comes from the other.
    latest : bool
    """
    rows = plan.rows
    sequences, steps = rows.origins()
    places = []
    for rank, (name, array) in enumerate(seen.items()):
        if array is None:
            continue
        whole = array[: rows.M] if len(array) == rows.capacity else array
        for row in np.flatnonzero(~np.isfinite(whole).all(axis=1)):
            value = whole[row][~np.isfinite(whole[row])][0]
            if len(array) != rows.capacity:
                places.append((0, rank, f"{name} of sequence {rows.order[row]} is {value}"))
                continue
            t, place = steps[row], f"time step {steps[row]} of sequence {sequences[row]}"
            places.append((-t if latest else t, rank, f"{name} at {place} is {value}"))
    return min(places)[2] if places else ""


def _label(model: Sequential, stage: Stage) -> str:
    """Return the name of a stage: its layer's where it has weights."""
    if isinstance(stage, Recurrent | Linear):
        weight = (stage.weight_ih if isinstance(stage, Recurrent) else stage.weight).value
        name = next(name for name, value in model.params.items() if np.may_share_memory(value, weight))
        return f"layer {name.replace('weight_ih_', '').removesuffix('.weight')}"
    return {"Loss": "the loss", "Activation": "the output activation"}.get(type(stage).__name__, "a dropout")
