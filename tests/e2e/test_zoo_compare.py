"""Real architectures through both exporters: healthy ones aligned, a spoilt node named."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

import alignkit
from alignkit.instrument import is_instrumented
from alignkit.records import Verdict
from tests import zoo
from tests.shared import copy_file
from tests.zoo.files import marked_file, plain_file
from tests.zoo.plain import export_plain
from tests.zoo.tamper import tamper_node

CASES = [
    pytest.param(case, exporter, id=f"{case.name}-{exporter}", marks=[pytest.mark.slow] if case.slow else [])
    for case, exporter in zoo.exportable()
]


def replay_exports(case: zoo.Case, exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer the case's own export call with the file that it wrote when it was first made in this test run,
    in a debugger's context or outside of one."""
    marked, plain = marked_file(case, exporter), plain_file(case, exporter)

    @functools.wraps(torch.onnx.export)
    def export(model: torch.nn.Module, args: Any, path: Path, **options: Any) -> None:
        copy_file(marked if is_instrumented() else plain, Path(path))

    monkeypatch.setattr(torch.onnx, "export", export)


@pytest.mark.parametrize(("case", "exporter"), CASES)
def test_healthy_model_is_aligned_and_a_spoilt_node_is_named(
    case: zoo.Case, exporter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right export has no culprit, at other inputs too; a node with a wrong weight is the culprit."""
    built = case.build()
    path = tmp_path / "marked.onnx"
    replay_exports(case, exporter, monkeypatch)
    with alignkit.Debugger(built.model) as debugger:
        export_plain(built, exporter, path)
    inputs = [(built.args, built.kwargs)]
    if built.other_inputs is not None:
        inputs.append((built.other_inputs, {}))
    samples = [alignkit.Sample(args, kwargs) for args, kwargs in inputs]

    report = debugger.compare(path, samples)

    assert report.culprits == (), str(report)
    assert report.aligned
    assert report.coverage.compared > 0
    assert not any(row.verdict is Verdict.INTRODUCED for row in report.layers)
    if not case.has_kernels:
        assert any("deform_conv2d" in reason for reason in report.coverage.reasons)

    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    tampering = tamper_node(path, spoilt / "marked.onnx", how="weight", seed=len(case.name))
    report = alignkit.compare(built.model, built.args, built.kwargs, onnx=spoilt / "marked.onnx")

    assert not report.aligned
    assert report.culprit is not None
    assert any(f'"{tampering.node}"' in node for node in report.culprit.onnx_nodes), str(report)
    assert len(report.culprits) == 1, str(report)
