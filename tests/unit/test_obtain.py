"""Obtain: what the user is told when an exporter does otherwise than asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import alignkit
import alignkit.obtain
from alignkit.errors import ExportError
from alignkit.export import ExportResult, export_model


class Doubled(nn.Linear):
    """One operation beside the layer's own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


def test_operations_that_cannot_be_tapped_fall_back_to_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison goes on with coarser taps, and a note says why."""

    def refuse(*args: Any, **kwargs: Any) -> ExportResult:
        selection = kwargs["selection"]
        if selection is not None and selection.granularity == "op":
            raise ExportError("no operations today.")
        return export_model(*args, **kwargs)

    monkeypatch.setattr(alignkit.obtain, "export_model", refuse)
    model = nn.Sequential(Doubled(4, 4), nn.ReLU()).eval()
    report = alignkit.compare(model, torch.randn(2, 4), exporter="torchscript", granularity="op")
    assert report.aligned
    assert not [row for row in report.layers if row.kind.value == "op"]
    assert any("Operations could not be tapped" in note and "today" in note for note in report.notes)


def test_an_export_that_taps_break_is_compared_by_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain file is mapped, a note says why, and a culprit is named all the same."""

    def refuse(*args: Any, **kwargs: Any) -> ExportResult:
        if kwargs["selection"] is not None:
            raise ExportError("no taps today.")
        return export_model(*args, **kwargs)

    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sin() if torch.onnx.is_in_onnx_export() else x.tanh()

    monkeypatch.setattr(alignkit.obtain, "export_model", refuse)
    model = nn.Sequential(nn.Linear(4, 4), Branching(), nn.Linear(4, 4)).eval()
    report = alignkit.compare(model, torch.randn(2, 4), exporter="torchscript")
    assert report.culprit is not None
    assert (report.culprit.module, report.culprit.cause) == ("1", "export-branch")
    assert "no taps today" in report.notes[0]


def test_operations_are_rows_of_their_own() -> None:
    """With the source line of each."""
    model = nn.Sequential(Doubled(4, 4), nn.ReLU()).eval()
    report = alignkit.compare(model, torch.randn(2, 4), exporter="torchscript", granularity="op")
    (row,) = (row for row in report.layers if row.tap == "0#0/mul#0[0]")
    assert row.verdict.is_ok
    assert row.source is not None
    assert "test_obtain.py:" in row.source


def test_an_opset_that_the_exporter_did_not_write_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for one, the file holds another."""

    def stubborn(*args: Any, **kwargs: Any) -> ExportResult:
        options = {**kwargs.pop("options"), "opset_version": 17}
        return export_model(*args, options=options, **kwargs)

    monkeypatch.setattr(alignkit.obtain, "export_model", stubborn)
    report = alignkit.compare(
        nn.ReLU().eval(), torch.randn(2), exporter="torchscript", export_options={"opset_version": 16}
    )
    assert any("Opset 16 was asked for" in note and "opset 17" in note for note in report.notes)
