"""What the tests of the diagnosis share: small models, comparisons of them, and wrong segments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import alignkit
from alignkit.backends import OnnxRuntime
from alignkit.capture import capture_reference
from alignkit.diagnose.bench import Bench
from alignkit.diagnose.segment import segment_model
from alignkit.export import export_model
from alignkit.instrument import Selection
from alignkit.records import Array, Culprit
from alignkit.settings import Sample, Settings
from alignkit.trial import Trial, open_trial
from tests.repro_bench import run_onnxruntime, text_bench

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)


class Forward(nn.Module):
    """A model in evaluation mode whose forward is a function; ``children`` become its submodules."""

    def __init__(self, function: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


class Summed(nn.Module):
    """A linear layer whose exported form sums the features in two halves: another order, other last digits.

    Whether the kernels of eager and of the runtime differ for one order depends on the processor.
    """

    def __init__(self, features: int, results: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, results)
        self.half = features // 2

    def forward(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            result: Tensor = self.linear(x)
            return result
        weight, bias = self.linear.weight, self.linear.bias
        return x[:, : self.half] @ weight[:, : self.half].T + (
            x[:, self.half :] @ weight[:, self.half :].T + bias
        )


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compared(model: nn.Module, *args: Any, exporter: str = "torchscript", **options: Any) -> Any:
    """The report, whatever torch, its exporters and alignkit warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return alignkit.compare(model, *args, exporter=exporter, **options)


def only(report: Any) -> Culprit:
    """The report's only culprit."""
    (culprit,) = report.culprits
    assert isinstance(culprit, Culprit)
    return culprit


def readings(culprit: Any) -> Mapping[str, str]:
    """Experiment -> reading, of a culprit or of a cause."""
    return {one.name: one.reading for one in culprit.experiments}


def wrong_bench(
    text: str,
    expected: Array,
    *,
    feeds: Mapping[str, Array] | None = None,
    candidate: Array | None = None,
    **facts: Any,
) -> Bench:
    """A culprit's bench: PyTorch computes ``expected``, the product ``candidate``, by default what
    ONNX Runtime makes of ``text``. ``facts`` are fields of the bench."""
    weights = facts.pop("weights", None)
    bench = text_bench(text, {"x": X} if feeds is None else feeds, expected, allowed=1e-5, weights=weights)
    if candidate is None:
        candidate = run_segment(bench)
    return replace(bench, **{"candidate": candidate, **facts})


def run_segment(bench: Bench) -> Array:
    model = segment_model(bench.marked, bench.segment).SerializeToString()
    return np.asarray(run_onnxruntime(model, bench.inputs(), "disable")[bench.segment.value])


def baked_trial(folder: Path) -> Trial:
    """Two layers, of which the second has the maximum of the export's input, ``data(2, 4)``, baked in; the
    trial's own input is another."""
    model = Forward(lambda m, x: m.b(m.a(x)) * x.abs().max().item(), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    path = folder / "marked.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = (data(2, 4),)
        export_model(model, args, {}, path, exporter="torchscript", options={}, selection=Selection())
    settings = Settings(exporter="torchscript", run=OnnxRuntime(threads=1))
    sample = Sample((data(2, 4, seed=1),))
    reference = capture_reference(model, sample.args, {}, Selection())
    return open_trial(model, sample, Selection(), reference, path, settings)
