"""The model is right, the deployed program feeds it wrongly: alignkit blames the input, no layer.

    python examples/wrong_preprocessing.py

``candidate_inputs=`` is what the deployed side is fed where its own preprocessing differs from the
one in Python. Here it goes wrong in three well-known ways.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import alignkit

MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


def preprocess(photo: Tensor) -> Tensor:
    """A photo of bytes, ``(height, width, 3)`` in RGB -> the model's ``(1, 3, height, width)`` floats."""
    return ((photo / 255 - MEAN) / STD).permute(2, 0, 1).unsqueeze(0)


def without_normalisation(photo: Tensor) -> Tensor:
    return (photo / 255).permute(2, 0, 1).unsqueeze(0)


def in_bgr_order(photo: Tensor) -> Tensor:
    return preprocess(photo.flip(2))


def reshaped_not_transposed(photo: Tensor) -> Tensor:
    """The bytes of an NHWC image read as NCHW: the shape is right and everything else is not."""
    height, width, channels = photo.shape
    return ((photo / 255 - MEAN) / STD).reshape(1, channels, height, width)


def classifier() -> nn.Module:
    """Any model will do: none of its layers is at fault."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    ).eval()


def main() -> int:
    model = classifier()
    photo = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    right = preprocess(photo)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        with alignkit.Debugger(model):
            torch.onnx.export(model, (right,), file, verbose=False)
        good = alignkit.compare(model, right, onnx=file)
        print(f"fed the same: {good!r}")
        found = [blame(model, file, right, wrong(photo), wrong.__name__) for wrong in MISTAKES]
    return 0 if good.aligned and found == [["input"]] * len(MISTAKES) else 1


def blame(model: nn.Module, file: Path, right: Tensor, wrong: Tensor, mistake: str) -> list[str]:
    """The cause of every culprit when the deployed side is fed ``wrong``."""
    report = alignkit.compare(model, right, onnx=file, candidate_inputs=wrong)
    for culprit in report.culprits:
        print(f"\nfed {mistake.replace('_', ' ')}: the cause is {culprit.cause!r}, at {culprit.tap}")
        print("  " + "\n  ".join(culprit.evidence))
    return [culprit.cause for culprit in report.culprits]


MISTAKES = (without_normalisation, in_bgr_order, reshaped_not_transposed)

if __name__ == "__main__":
    sys.exit(main())
