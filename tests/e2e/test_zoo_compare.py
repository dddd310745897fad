"""Real architectures through both exporters: healthy ones aligned, a spoilt node named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import alignkit
from alignkit.debugger import ObservedExport
from alignkit.records import Verdict
from tests import zoo
from tests.shared import copy_file
from tests.zoo.files import plain_file
from tests.zoo.plain import quiet_exporter
from tests.zoo.tamper import tamper_node


def export_marked(built: zoo.Built, exporter: str, path: Path) -> alignkit.Debugger:
    """The user's own export call inside the context."""
    options = dict(built.export_options.get(exporter, {}))
    with quiet_exporter(), alignkit.Debugger(built.model) as debugger:
        torch.onnx.export(
            built.model,
            built.args,
            str(path),
            kwargs=dict(built.kwargs) or None,
            dynamo=exporter == "dynamo",
            verbose=False,
            **options,
        )
    return debugger


CASES = [
    pytest.param(case, exporter, id=f"{case.name}-{exporter}", marks=[pytest.mark.slow] if case.slow else [])
    for case, exporter in zoo.exportable()
]


@pytest.mark.parametrize(("case", "exporter"), CASES)
def test_healthy_model_is_aligned_and_a_spoilt_node_is_named(
    case: zoo.Case, exporter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right export has no culprit, at other inputs too; a node with a wrong weight is the culprit.

    The same call without taps gives the zoo's own file, so that it need not be made once more.
    """
    monkeypatch.setattr(ObservedExport, "repeat", lambda _, path: copy_file(plain_file(case, exporter), path))
    built = case.build()
    path = tmp_path / "marked.onnx"
    debugger = export_marked(built, exporter, path)
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
