"""From a wrong picture to the operation, its line and a folder that shows the fault on its own.

    python examples/find_the_operation.py

A small U-Net enlarges its features bicubically, but bilinearly while it is exported: the target had no
bicubic kernel once, and the shortcut was forgotten. Between two modules lie three operations; the
report names the one that is wrong, and the repro bundle fails without PyTorch and alignkit.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import alignkit


class Up(nn.Module):
    """Enlarge, scale, join with the encoder's features of that size, and mix."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.mix = nn.Conv2d(channels, features, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        mode = "bilinear" if torch.onnx.is_in_onnx_export() else "bicubic"
        x = F.interpolate(x, scale_factor=2, mode=mode)
        x = torch.cat([x * self.gain, skip], dim=1)
        return F.relu(self.mix(x))


class UNet(nn.Module):
    """``(n, 3, height, width)`` images in, scores of two classes per pixel out; sides are multiples of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down1 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.up1 = Up(32 + 16, 16)
        self.up2 = Up(16 + 8, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        full = F.relu(self.stem(x))
        half = F.relu(self.down1(full))
        x = F.relu(self.down2(half))
        return self.head(self.up2(self.up1(x, half), full))


def run_repro(script: Path) -> int:
    """Run the bundle as somebody would who was sent it; its exit code is 1 while the error is there."""
    done = subprocess.run([sys.executable, script.name], cwd=script.parent, capture_output=True, text=True)
    print(f"\n$ python {script.name}\n{done.stdout}{done.stderr}exit code {done.returncode}")
    return done.returncode


def main() -> int:
    torch.manual_seed(0)
    report = alignkit.compare(UNet().eval(), torch.randn(1, 3, 32, 32), exporter="torchscript")
    print(report)

    with tempfile.TemporaryDirectory() as folder:
        saved = report.save(Path(folder) / "report")
        codes = [run_repro(saved / (c.repro or "no-bundle") / "repro.py") for c in report.culprits]

    print("\nFound:")
    for culprit in report.culprits:
        print(f"{culprit.module} / {culprit.operation} ({culprit.source}) -> {culprit.op}: {culprit.cause}")
    found = [(culprit.module, culprit.operation, culprit.cause) for culprit in report.culprits]
    expected = [(module, "interpolate", "export-branch") for module in ("up1", "up2")]
    return 0 if found == expected and codes == [1, 1] else 1


if __name__ == "__main__":
    sys.exit(main())
