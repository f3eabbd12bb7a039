"""Layers and models in PyTorch, with the parameters of ours under the same names."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnncore as rc
from rnncore.layers import Layer, Recurrent

LOSSES = {
    "mse": functional.mse_loss,
    "half_mse": lambda p, t, reduction: functional.mse_loss(p, t, reduction=reduction) / 2,
    "bce": functional.binary_cross_entropy_with_logits,
    "cross_entropy": functional.cross_entropy,
}
OUTPUT_ACTIVATIONS = {
    None: lambda z: z,
    "sigmoid": torch.sigmoid,
    "softmax": lambda z: z.softmax(dim=-1),
}


def tensor(array: np.ndarray | None, grad: bool = False) -> Tensor | None:
    """Return a copy of an array as a tensor."""
    return None if array is None else torch.tensor(array, requires_grad=grad)


def twin(layer: Layer) -> nn.Module:
    """Return the layer in PyTorch: the one of torch.nn where there is such."""
    options = layer.config()
    if options.get("activation") in Unrolled.ACTIVATIONS or options.get("reset_after") is False:
        return Unrolled(layer)
    options.pop("reset_after", None)
    options["dtype"] = getattr(torch, options["dtype"])
    if isinstance(layer, Recurrent):
        options["batch_first"] = True
    if "activation" in options:
        options["nonlinearity"] = options.pop("activation")
    params = {name: tensor(value) for name, value in layer.params.items()}
    single = options.get("bias") == "single"
    if single:
        options["bias"] = True
    module = getattr(nn, type(layer).__name__)(**options)
    if single:  # torch.nn has two biases or none: the other one stays zero
        for name, value in module.named_parameters():
            if name.startswith("bias_hh"):
                params[name] = torch.zeros_like(value)
                value.requires_grad_(False)
    module.load_state_dict(params)
    return module


class Unrolled(nn.Module):
    """A recurrent layer that torch.nn has not, step by step: autograd finds its gradients."""

    ACTIVATIONS = ("sigmoid", "prelu", "identity")

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.num_layers, self.directions = layer.num_layers, layer.directions
        self.activation = getattr(layer, "activation", None)  # None: a GRU
        for name, value in layer.params.items():
            self.register_parameter(name, nn.Parameter(tensor(value)))

    def forward(self, x: Tensor, h_0: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        final: list[Tensor] = []
        for k in range(self.num_layers):
            outputs = []
            for reverse in self.directions:
                suffix = f"_l{k}_reverse" if reverse else f"_l{k}"
                y, h = self.walk(suffix, x, h_0[len(final)], lengths, reverse)
                outputs.append(y)
                final.append(h)
            x = torch.cat(outputs, dim=2)
        return x, torch.stack(final)

    def walk(
        self, suffix: str, x: Tensor, h: Tensor, lengths: Tensor, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        steps = range(x.shape[1])
        outputs = {}
        for t in reversed(steps) if reverse else steps:
            going = (t < lengths)[:, None]
            h = torch.where(going, self.cell(suffix, x[:, t], h), h)
            outputs[t] = torch.where(going, h, 0)
        return torch.stack([outputs[t] for t in steps], dim=1), h

    def cell(self, suffix: str, x: Tensor, h: Tensor) -> Tensor:
        roles = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "slope")
        w, u, b, d, slope = (getattr(self, role + suffix, None) for role in roles)
        a = functional.linear(x, w, b)
        if self.activation:
            z = a + functional.linear(h, u, d)
            if self.activation == "prelu":
                return functional.prelu(z, slope)
            return z if self.activation == "identity" else torch.sigmoid(z)
        H = h.shape[1]
        d = torch.zeros(3 * H, dtype=h.dtype) if d is None else d
        r, z = torch.sigmoid(a[:, : 2 * H] + functional.linear(h, u[: 2 * H], d[: 2 * H])).chunk(2, dim=1)
        n = torch.tanh(a[:, 2 * H :] + functional.linear(r * h, u[2 * H :], d[2 * H :]))
        return (1 - z) * n + z * h


def run(module: nn.Module, x: Tensor, state: list[Tensor], lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Run a recurrent layer over a padded batch, from a state given as a list and returned as one."""
    if isinstance(module, Unrolled):
        y, h = module(x, *state, lengths)
        return y, [h]
    in_order = bool((lengths.diff() <= 0).all())
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=in_order)
    y, final = module(packed, tuple(state) if len(state) > 1 else state[0])
    y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    return y, list(final) if len(state) > 1 else [final]


class Twin(nn.Module):
    """A `SequenceModel` in PyTorch."""

    def __init__(self, model: rc.SequenceModel) -> None:
        super().__init__()
        for name, layer in model.layers.items():
            self.add_module(name, twin(layer))
        self.last = model.output == "last"
        self.output_activation = OUTPUT_ACTIVATIONS[model.output_activation]
        self.rnn_layer = model.layers["rnn"]

    def forward(
        self, x: Tensor, lengths: Tensor, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return logits (N, T, O) or (N, O), and the final state as a list."""
        layer = self.rnn_layer
        if "embedding" in self._modules:
            x = self.embedding(x)
        elif x.ndim == 2:
            x = functional.one_hot(x, layer.in_features).to(self.head.weight)
        if state is None:
            depth = layer.num_layers * len(layer.directions)
            state = [torch.zeros(depth, len(x), layer.hidden_size).to(x)] * layer.states
        y, final = run(self.rnn, x, state, lengths)
        if self.last:
            y = torch.cat(list(final[0][-len(layer.directions) :]), dim=1)
        return self.head(y), final

    def loss(
        self,
        kind: str,
        reduction: str,
        x: Tensor,
        y: Tensor,
        lengths: Tensor,
        state: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the loss over the valid elements, and the final state."""
        p, final = self(x, lengths, state)
        if kind in ("mse", "half_mse"):
            p = self.output_activation(p)
        if not self.last:
            valid = torch.arange(x.shape[1]) < lengths[:, None]
            p, y = p[valid], y[valid]
        return LOSSES[kind](p, y, reduction=reduction), final
