"""A context around your own export call, whichever exporter it uses.

    python examples/context_manager.py

Inside ``with alignkit.Debugger(model)`` every module of the model is tapped: ``torch.onnx.export``
writes the taps into the file. The call itself is yours, and the model is afterwards as before.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from resnet import resnet18
from torch import Tensor, nn

import alignkit

EXPORT_OPTIONS = {
    "default": {"input_names": ["images"], "output_names": ["logits"], "verbose": False},
    "TorchScript": {"dynamo": False, "input_names": ["images"], "dynamic_axes": {"images": {0: "batch"}}},
}
COLUMNS = ["tap", "module_type", "verdict", "introduced_max_abs", "noise_floor"]


def compare_after_export(model: nn.Module, image: Tensor, file: Path, options: dict) -> alignkit.Report:
    """Export inside the context, compare after it."""
    with alignkit.Debugger(model) as debugger:
        torch.onnx.export(model, (image,), file, **options)
    return debugger.compare(file)  # on what the export was given; debugger.compare(file, inputs) on others


def count_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def main() -> int:
    warnings.simplefilter("ignore", DeprecationWarning)  # the TorchScript exporter announces its end
    model, image = resnet18()
    aligned = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (exporter, options) in enumerate(EXPORT_OPTIONS.items()):
            report = compare_after_export(model, image, Path(folder) / f"model{number}.onnx", options)
            aligned.append(report.aligned)
            print(f"{exporter} exporter: {report!r}")
            print(report.to_pandas()[COLUMNS].head(8).to_string(index=False), end="\n\n")
    print(f"hooks left on the model: {count_hooks(model)}")
    return 0 if all(aligned) and count_hooks(model) == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
