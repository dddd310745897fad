"""Models for the command line: ``MODEL`` may be a factory in a file, as the two in this one.

    alignkit compare examples/model_for_cli.py:build -o report            (aligned, exit code 0)
    alignkit compare examples/model_for_cli.py:build_broken -o report     (diverged, exit code 1)

A factory takes no arguments and returns a model, ``(model, args)`` or ``(model, args, kwargs)``.
Run as a script, this file makes both comparisons, by the faster of the two exporters, and checks
the exit codes.
"""

from __future__ import annotations

import os
import sys

import torch
from resnet import BasicBlock, resnet18
from torch import Tensor, nn

Built = tuple[nn.Module, tuple[Tensor]]


class SaturatingBlock(BasicBlock):
    """A block that was once prepared for an int8 target: it saturates when exported, and only then."""

    def forward(self, x: Tensor) -> Tensor:
        limit = 6.0 if torch.onnx.is_in_onnx_export() else float("inf")
        return super().forward(x).clamp(max=limit)


def build() -> Built:
    """A healthy ResNet-18 and a 64 x 64 image for it."""
    model, image = resnet18()
    return model, (image,)


def build_broken() -> Built:
    """The same model, but the second block of its third stage is a :class:`SaturatingBlock`."""
    model, args = build()
    block = SaturatingBlock(256, 256)
    block.load_state_dict(model.layer3[1].state_dict())
    model.layer3[1] = block.eval()
    return model, args


def main() -> int:
    from alignkit.cli import main as alignkit

    here = os.path.relpath(__file__)
    healthy, broken = (
        alignkit(["compare", f"{here}:{factory}", "--exporter", "torchscript"])
        for factory in ("build", "build_broken")
    )
    return 0 if (healthy, broken) == (0, 1) else 1


if __name__ == "__main__":
    sys.exit(main())
