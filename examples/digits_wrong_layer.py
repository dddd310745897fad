"""Find the one wrong layer of a deployed file.

    python examples/digits_wrong_layer.py

A small network learns scikit-learn's handwritten digits and is exported. Then one attribute of one
ONNX node is changed, as a faulty converter might: the epsilon of the second BatchNorm. Which digit
is recognised hardly changes, so a test on labels would pass; alignkit names the layer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import onnx
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import alignkit

SPOILT_LAYER = "features.4"  # the second BatchNorm


class DigitNet(nn.Module):
    """``(n, 1, 8, 8)`` images in, ``(n, 10)`` logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classify = nn.Linear(32 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x).flatten(1))


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8 x 8 pixels between 0 and 1, and their labels."""
    data = load_digits()
    return torch.from_numpy(data.images).float().unsqueeze(1) / 16, torch.from_numpy(data.target)


def train(images: Tensor, labels: Tensor, epochs: int = 5) -> DigitNet:
    torch.manual_seed(0)
    torch.set_num_threads(1)  # on images this small a second thread costs more than it saves
    model = DigitNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def spoil_second_batch_norm(source: Path, target: Path) -> None:
    """Write ``source`` to ``target`` with another epsilon in its second BatchNormalization node."""
    file = onnx.load(source)
    norms = [node for node in file.graph.node if node.op_type == "BatchNormalization"]
    epsilon = next(attribute for attribute in norms[1].attribute if attribute.name == "epsilon")
    epsilon.f = 1e-3
    onnx.save(file, target)


def main() -> int:
    images, labels = digits()
    model = train(images[:1500], labels[:1500])
    correct = model(images[1500:]).argmax(1) == labels[1500:]
    print(f"The network recognises {correct.float().mean():.1%} of the digits it has not seen.")

    with tempfile.TemporaryDirectory() as folder:
        healthy, spoilt = Path(folder, "healthy.onnx"), Path(folder, "spoilt.onnx")
        samples = images[1500:1516]
        with alignkit.Debugger(model):
            torch.onnx.export(model, (samples,), healthy, verbose=False)
        spoil_second_batch_norm(healthy, spoilt)
        good = alignkit.compare(model, samples, onnx=healthy)
        bad = alignkit.compare(model, samples, onnx=spoilt)

    print(f"The file as exported: {good!r}")
    print(f"The spoilt file: {bad!r}\n")
    print(bad)
    return 0 if good.aligned and [c.module for c in bad.culprits] == [SPOILT_LAYER] else 1


if __name__ == "__main__":
    sys.exit(main())
