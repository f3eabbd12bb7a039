"""What is measured: a network and a batch, the same for rnncore and every peer.

Dimension letters as in rnncore: N sequences, T steps, M valid steps of the whole batch, D input size (or V,
the size of the vocabulary), H hidden size, O output size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import rnncore as rc

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


@dataclass(frozen=True)
class Work:
    """A network, a batch for it and how it is trained.

    Attributes
    ----------
    fill : float
        Share of the N·T steps that are valid; below 1 the sequences differ in length.
    last : bool
        The output is that of the last step only.
    bias : bool or "single"
        True: two in each recurrent layer, as PyTorch; "single": one, as the tutorials; False: none.
    loss : {"half_mse", "cross_entropy"}
    sigmoid : bool
        Before the loss.
    """

    cell: str
    N: int
    T: int
    D: int
    H: int
    O: int  # noqa: E741
    tokens: bool = False
    layers: int = 1
    bidirectional: bool = False
    fill: float = 1.0
    last: bool = False
    bias: bool | str = True
    loss: str = "half_mse"
    sigmoid: bool = False
    reduction: str = "mean"
    optimizer: str = "sgd"
    lr: float = 0.01
    clip_value: float | None = None
    clip_norm: float | None = None
    dtype: str = "float32"

    def model(self) -> rc.SequenceModel:
        """Return the network in rnncore; peers start from its weights."""
        return rc.SequenceModel(
            self.D,
            self.H,
            self.O,
            self.cell,
            self.layers,
            input="tokens" if self.tokens else "dense",
            output="last" if self.last else "all",
            output_activation="sigmoid" if self.sigmoid else None,
            bias=self.bias,
            bidirectional=self.bidirectional,
            dtype=self.dtype,
        )

    def lengths(self) -> np.ndarray | None:
        """Return lengths spread evenly over [2·fill - 1, 1]·T, shuffled; None for a full batch."""
        if self.fill == 1:
            return None
        lengths = np.linspace((2 * self.fill - 1) * self.T, self.T, self.N).round().astype(np.intp)
        return np.random.default_rng(1).permutation(lengths)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Return input and target."""
        rng = np.random.default_rng(0)
        if self.tokens:
            x = rng.integers(self.D, size=(self.N, self.T))
        else:
            x = rng.normal(size=(self.N, self.T, self.D)).astype(self.dtype)
        rows = (self.N,) if self.last else (self.N, self.T)
        if self.loss == "cross_entropy":
            return x, rng.integers(self.O, size=rows)
        return x, rng.random((*rows, self.O)).astype(self.dtype)

    @property
    def arithmetic(self) -> float:
        """Floating-point operations of the forward pass: its products, where token ids cost nothing."""
        lengths = self.lengths()
        M = self.N * self.T if lengths is None else int(lengths.sum())
        directions = 1 + self.bidirectional
        total = 2.0 * (self.N if self.last else M) * self.H * directions * self.O
        for layer in range(self.layers):
            width = self.H * directions if layer else (0 if self.tokens else self.D)
            total += 2.0 * M * directions * GATES[self.cell] * self.H * (width + self.H)
        return total

    def describe(self) -> str:
        """Return the network and the sizes in one line."""
        name = {"rnn": "Elman", "lstm": "LSTM", "gru": "GRU"}[self.cell]
        extras = [
            "two layers" if self.layers == 2 else "",
            "bidirectional" if self.bidirectional else "",
            f"{self.fill:.0%} full" if self.fill < 1 else "",
            self.dtype if self.dtype != "float32" else "",
        ]
        sizes = f"N={self.N} T={self.T} {'V' if self.tokens else 'D'}={self.D} H={self.H} O={self.O}"
        return ", ".join([f"{name} {sizes}", *filter(None, extras)])
