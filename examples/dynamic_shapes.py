"""Exported at one shape, compared at others: how a constant that was baked in shows.

    python examples/dynamic_shapes.py

``args`` are what a model is exported with, ``inputs=`` what both sides are compared on: here a data
set of sentences of several lengths.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import alignkit


class MeanPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


class BakedMeanPool(nn.Module):
    """The same mean, but ``int()`` makes the length of the traced sentence a constant of the file."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=1) / int(x.shape[1])


class Tagger(nn.Module):
    """Token ids ``(n, length)`` in, scores of five topics ``(n, 5)`` out."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.mix = nn.Conv1d(32, 32, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(32)
        self.pool = pool
        self.score = nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = self.norm(x + self.mix(x.transpose(1, 2)).transpose(1, 2))
        return self.score(self.pool(x))


def sentence(length: int) -> Tensor:
    return torch.randint(0, 100, (2, length))


def main() -> int:
    torch.manual_seed(0)
    healthy, baked = Tagger(MeanPool()).eval(), Tagger(BakedMeanPool()).eval()
    exported_with = sentence(12)
    others = [sentence(length) for length in (5, 12, 40)]
    axes = {0: "batch", 1: "length"}
    default = {"dynamic_shapes": {"tokens": axes}}
    torchscript = {"input_names": ["tokens"], "dynamic_axes": {"tokens": axes}}

    good = alignkit.compare(healthy, exported_with, inputs=others, export_options=default)
    print(f"healthy, at lengths 5, 12 and 40: {good!r}")

    options = {"exporter": "torchscript", "export_options": torchscript}
    same = alignkit.compare(baked, exported_with, **options)
    print(f"baked, at the length it was exported with: {same!r}")
    bad = alignkit.compare(baked, exported_with, inputs=others, **options)
    print(f"baked, at lengths 5, 12 and 40: {bad!r}\n")
    print("\n".join(bad.notes))
    return 0 if good.aligned and same.aligned and [c.module for c in bad.culprits] == ["pool"] else 1


if __name__ == "__main__":
    sys.exit(main())
