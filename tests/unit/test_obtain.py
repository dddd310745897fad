"""Obtain: what the user is told when an exporter does otherwise than asked."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from onnx.external_data_helper import set_external_data
from torch import nn

import alignkit
import alignkit.obtain
from alignkit.backends.onnxruntime import OnnxRuntime, Session
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


def test_weights_beside_two_exports_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond 2 GB the TorchScript exporter writes a file for each weight, named by a count that differs with
    and without taps: one export's weights must not take the place of the other's."""

    def spread(*args: Any, **kwargs: Any) -> ExportResult:
        result = export_model(*args, **kwargs)
        model = onnx.load(result.path)
        weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
        for count, tensor in enumerate(weights if kwargs["selection"] else reversed(weights)):
            (result.path.parent / f"onnx__MatMul_{count}").write_bytes(tensor.raw_data)
            set_external_data(tensor, f"onnx__MatMul_{count}")
            tensor.ClearField("raw_data")
        onnx.save(model, result.path)
        return result

    monkeypatch.setattr(alignkit.obtain, "export_model", spread)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)).eval()
    report = alignkit.compare(model, torch.randn(2, 64), exporter="torchscript")
    assert report.aligned
    assert report.coverage.compared >= 4


def test_a_kernel_that_errs_with_packed_weights_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taps are run without packing weights; where the file as deployed differs they are run with it."""
    packed = []
    opened = OnnxRuntime.open

    def open_and_spoil(self: OnnxRuntime, model: Any, folder: Any = None) -> Session:
        if self.prepack:
            packed.append(model)
            session = opened(self, model if isinstance(model, bytes) else model.read_bytes(), folder)
            return Spoilt(session)  # type: ignore[return-value]
        return opened(self, model, folder)

    class Spoilt:
        """A session whose every result of a certain shape is off."""

        def __init__(self, session: Session) -> None:
            self._session = session

        def run(self, *args: Any) -> dict[str, Any]:
            return {n: v + (v.shape == (2, 32)) for n, v in self._session.run(*args).items()}

        def run_into(self, buffers: Any, feeds: Any, shapes: Any) -> dict[str, Any]:
            return self.run(feeds)

    monkeypatch.setattr(OnnxRuntime, "open", open_and_spoil)
    model = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 32)).eval()
    report = alignkit.compare(model, torch.randn(2, 64), exporter="torchscript")
    assert len(packed) > 1
    assert report.culprit is not None
    assert report.culprit.module == "2"


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
