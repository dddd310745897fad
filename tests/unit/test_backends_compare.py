"""Comparisons on other backends: the blame is right on each, and several stand in one report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import alignkit
from alignkit import obtain
from alignkit.backends import FunctionBackend, KernelError
from alignkit.errors import BackendError, CompareError
from alignkit.records import Array, CandidateRow

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the older exporter, on every call
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

OTHERS = ("openvino", "reference")
IMAGE = torch.linspace(-1, 1, 3 * 12 * 12).reshape(1, 3, 12, 12)


class Pooled(nn.Module):
    """Its pooling is exported wrongly by the older exporter: every runtime computes the same wrong result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(self.conv(x).relu(), 2, divisor_override=3).tanh()


class Determinant(nn.Module):
    """OpenVINO has no such operator."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.linalg.det(self.first(x)).reshape(-1, 1))


class Halves(nn.Module):
    """The batch of its export is baked in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(int(x.shape[0]), 2, 4).sum(2)


def healthy() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


def compare(model: nn.Module, args: Any, backend: Any, **options: Any) -> alignkit.Report:
    torch.manual_seed(0)
    return alignkit.compare(model.eval(), args, exporter="torchscript", backend=backend, **options)


def rows(report: alignkit.Report) -> dict[str, CandidateRow]:
    return {row.name: row for row in report.data.candidates}


Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def leaky(given: bytes | Path) -> Run:
    """A runtime with a wrong kernel: its Relu leaks."""
    model = onnx.load_from_string(given) if isinstance(given, bytes) else onnx.load(given)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "LeakyRelu"
    session = ort.InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))


def lacking(given: bytes | Path) -> Run:
    """A runtime without Conv, which says so by the exception of the other backends."""
    model = onnx.load_from_string(given) if isinstance(given, bytes) else onnx.load(given)
    if any(node.op_type == "Conv" for node in model.graph.node):
        raise KernelError("no Conv here", "Conv", "", while_running=False)
    return leaky(given)


def broken(given: bytes | Path) -> Run:
    raise ValueError("no licence")


@pytest.fixture(scope="module")
def report() -> alignkit.Report:
    """A healthy model on a right runtime, a wrong one, and one that does not start."""
    return compare(healthy(), IMAGE, ["ort:cpu", leaky, broken, "openvino"])


def test_each_candidate_has_its_own_verdict(report: alignkit.Report) -> None:
    """In the order in which they were named; the one that did not run has a reason instead."""
    found = rows(report)
    assert {name: row.aligned for name, row in found.items()} == {
        "ort:cpu": True,
        "leaky": False,
        "broken": None,
        "openvino": True,
    }
    assert found["broken"].reason == "broken could not load the model: ValueError: no licence"
    assert (found["leaky"].culprit, found["leaky"].cause) == ("2#0[0]", "runtime")
    assert found["leaky"].worst_tap == "2#0[0]"
    assert found["ort:cpu"].compared == found["openvino"].compared == found["openvino"].taps > 3
    assert found["openvino"].worst_ratio is not None
    assert found["openvino"].worst_ratio < 30
    assert (found["leaky"].output_error or 0) > 1e-4 > (found["openvino"].output_error or 0)
    assert found["leaky"].layers["2#0[0]"].verdict.value == "introduced"
    assert found["openvino"].layers["2#0[0]"].verdict.value == "ok"


def test_the_report_shows_the_one_that_diverges(report: alignkit.Report) -> None:
    """Its culprits and layers; the whole is not aligned, and the verdict says on which it is not."""
    assert not report.aligned
    assert report.data.settings["candidate"] == report.data.settings["backend"] == "leaky"
    assert str(report).startswith("DIVERGED on leaky: error starts at 2 (Relu)")
    assert [culprit.tap for culprit in report.culprits] == ["2#0[0]"]


def test_a_wrong_kernel_is_the_runtimes_and_it_is_named(report: alignkit.Report) -> None:
    """ONNX Runtime reads the same graph as PyTorch does; no experiment of its optimiser is made."""
    culprit = report.culprit
    assert culprit is not None
    assert (culprit.cause, culprit.confidence) == ("runtime", "high")
    tried = {one.name: one.reading for one in culprit.experiments}
    assert tried["ONNX Runtime on CPU, unoptimised"] == "agrees with PyTorch"
    assert not [name for name in tried if "optimisation" in name]
    assert any("leaky does not" in line for line in culprit.evidence)
    assert any("no repro bundle: its script would run ONNX Runtime" in line for line in culprit.evidence)
    assert culprit.repro is None


def test_everything_is_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With taps and without, however many backends there are."""
    calls = []
    export = obtain.export_model

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return export(*args, **kwargs)

    monkeypatch.setattr(obtain, "export_model", counted)
    assert compare(healthy(), IMAGE, ["ort", *OTHERS]).aligned
    assert len(calls) == 2


def test_a_wrong_graph_is_the_exporters_on_every_backend() -> None:
    """They all compute the same from it, and the bundle shows it in ONNX Runtime."""
    found = compare(Pooled(), IMAGE, list(OTHERS))
    assert [(row.culprit, row.cause) for row in rows(found).values()] == [("(model)#0[0]", "exporter")] * 2
    culprit = found.culprit
    assert culprit is not None
    assert (culprit.op, culprit.confidence) == ("AveragePool", "high")
    readings = [one.reading for one in culprit.experiments]
    assert "computes what OpenVINO does" in readings
    assert culprit.repro is not None
    assert set(found.data.bundles) == {culprit.repro}


def test_the_evaluator_is_not_asked_about_itself() -> None:
    """Where it is the candidate, another reader of the graph decides."""
    culprit = compare(Pooled(), IMAGE, "reference").culprit
    assert culprit is not None
    assert culprit.cause == "exporter"
    tried = [one.name for one in culprit.experiments]
    assert "ONNX Runtime on CPU, unoptimised" in tried
    assert "ONNX reference evaluator" not in tried


def test_an_operator_that_openvino_lacks_is_skipped_and_named() -> None:
    """Its segment alone; the candidate's row says that the file itself does not run there."""
    found = compare(Determinant(), torch.randn(4, 3, 3), ["ort", "openvino"])
    row = rows(found)["openvino"]
    assert (row.compared, row.taps) == (4, 5)
    assert "OpenVINO has no Det" in row.reason
    skipped = {tap: glance for tap, glance in row.layers.items() if glance.verdict.value == "skipped"}
    assert list(skipped) == ["last#0:in[0]"]
    assert rows(found)["ort"].reason == ""
    alone = compare(Determinant(), torch.randn(4, 3, 3), "openvino")
    assert any("Det" in reason for reason in alone.coverage.reasons)


def test_where_nothing_can_be_compared_it_is_no_pass() -> None:
    """Neither alone nor beside others."""

    class Bare(nn.Conv2d):
        """Its own output is all there is."""

    torch.manual_seed(0)
    model = Bare(3, 4, 3)
    with pytest.raises(CompareError, match="no tap could be compared"):
        compare(model, IMAGE, lacking, exclude="nothing")
    found = compare(model, IMAGE, ["ort", lacking])
    assert not found.aligned
    assert rows(found)["lacking"].aligned is None
    assert str(found).startswith("INCONCLUSIVE: lacking could not be compared; ort: aligned")
    with pytest.raises(CompareError, match="no candidate could be compared"):
        compare(model, IMAGE, [lacking, broken])


def test_a_baked_size_is_found_on_every_backend() -> None:
    """The evaluator's own failure accuses nobody, unless ONNX Runtime fails there as well."""
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    found = compare(
        Halves(),
        torch.randn(2, 8),
        ["ort", *OTHERS],
        inputs=[torch.randn(5, 8)],
        export_options=options,
    )
    assert {row.cause for row in rows(found).values()} == {"trace-constant"}
    assert "ONNX Runtime cannot run it, either" in rows(found)["reference"].reason


def test_a_given_file_is_mapped_once_and_compared_on_each(tmp_path: Path) -> None:
    """Its values are told apart in ONNX Runtime, whatever the candidates run on."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    x, path = torch.randn(2, 8), tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=False)
    model[2].weight.data *= 1.01
    opened: list[object] = []

    def load(given: bytes | Path) -> Any:
        opened.append(given)
        return leaky(given)

    found = compare(model, x, [FunctionBackend(load, "mine"), *OTHERS], onnx=path)
    assert {(row.culprit, row.cause) for row in rows(found).values()} == {("2#0[0]", "weights")}
    assert any("were mapped" in note for note in found.notes)
    assert path in opened
    assert len(opened) < 20


def test_dynamic_sizes_run_on_every_backend() -> None:
    """Another batch than the export's, two samples, one session each."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8))
    options = {"input_names": ["input"], "dynamic_axes": {"input": {0: "batch"}}}
    found = compare(
        model,
        torch.randn(2, 8),
        ["ort", *OTHERS],
        inputs=[torch.randn(3, 8), torch.randn(1, 8)],
        export_options=options,
    )
    assert [row.aligned for row in rows(found).values()] == [True, True, True]
    assert str(found).startswith("ALIGNED on all 3 candidates: ")


def test_half_precision_is_judged_as_such_on_every_backend() -> None:
    """A type that the probes show as float32."""
    for dtype in (torch.float16, torch.bfloat16):
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype)
        found = compare(model, torch.randn(2, 8).to(dtype), list(OTHERS))
        assert [row.aligned for row in rows(found).values()] == [True, True]
        assert all(row.compared == row.taps for row in rows(found).values())


def test_the_context_manager_takes_backends_too(tmp_path: Path) -> None:
    """Around the user's own export call."""
    model, path = healthy(), tmp_path / "model.onnx"
    with alignkit.Debugger(model) as debugger:
        torch.onnx.export(model, (IMAGE,), path, dynamo=False)
    found = debugger.compare(path, IMAGE, backend=["ort", "openvino"])
    assert list(rows(found)) == ["ort", "openvino"]
    assert found.aligned
    assert not debugger.compare(path, IMAGE, backend=leaky).aligned


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ([], "no backend"),
        (["ort", "ort"], "'ort' is named twice"),
        ("teapot", "no backend 'teapot'"),
        (3, "int is no backend"),
    ],
)
def test_backends_that_make_no_sense_are_refused_before_anything_runs(backend: Any, message: str) -> None:
    """In one line."""

    def never(*args: Any) -> Any:
        raise AssertionError("the model ran")

    model = nn.Identity()
    model.register_forward_pre_hook(never)
    with pytest.raises((BackendError, CompareError), match=message):
        alignkit.compare(model, np.ones(1), backend=backend)
