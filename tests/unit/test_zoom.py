"""Zoom: the operation inside a culprit's module at which its error starts, with the user's line."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignkit.errors import ExportError
from alignkit.workshop import Workshop
from tests.diagnosis import Forward, compared, data, only


def spoilt(x: Tensor) -> Tensor:
    return x + 1 if torch.onnx.is_in_onnx_export() else x + 2


class Block(nn.Module):
    """One operation in the middle of others is wrong; a submodule stands before it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear(x))
        x = torch.sigmoid(x) * 2
        x = x - 1 if torch.onnx.is_in_onnx_export() else x - 2
        return torch.tanh(x) / 3


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_the_first_wrong_operation_of_the_culprit_is_named_with_its_line(exporter: str) -> None:
    """Not the module's last, nor what merely follows; its node and no other."""
    model = Forward(lambda m, x: m.b(m.a(x)), a=nn.Linear(4, 4), b=Block())
    culprit = only(compared(model, data(2, 4), exporter=exporter))
    assert (culprit.tap, culprit.module, culprit.operation) == ("b#0[0]", "b", "sub")
    assert culprit.source_line == "x = x - 1 if torch.onnx.is_in_onnx_export() else x - 2"
    assert culprit.source is not None
    assert culprit.source.split(":")[0].endswith("test_zoom.py")
    assert culprit.op == "Sub"
    assert len(culprit.onnx_nodes) == 1
    # Behind the tanh and the division less is left of it than the experiments, which are about it, show.
    assert any("inside it, sub is off by at most 1 " in line for line in culprit.evidence)


def test_two_wrong_operations_name_the_first() -> None:
    """It is the first that has to be mended first."""
    culprit = only(compared(Forward(lambda m, x: spoilt(torch.exp(spoilt(x)))), data(2, 4)))
    assert culprit.operation == "add"
    later = only(compared(Forward(lambda m, x: torch.exp(torch.neg(spoilt(x)))), data(2, 4)))
    assert later.operation == "add"


def test_each_culprit_has_an_operation_of_its_own() -> None:
    """One second export serves all of them."""
    model = Forward(
        lambda m, x: m.two(m.a(m.one(x))),
        one=Block(),
        a=nn.Linear(4, 4),
        two=Forward(lambda m, x: torch.cos(spoilt(x))),
    )
    report = compared(model, data(2, 4))
    assert [(c.module, c.operation) for c in report.culprits] == [("one", "sub"), ("two", "add")]


def test_a_culprit_without_operations_of_its_own_stays_a_module() -> None:
    """A leaf module's arithmetic is torch's, not the user's: the line that calls it is."""
    model = Forward(lambda m, x: m.bn(m.a(x)), a=nn.Linear(4, 4), bn=nn.BatchNorm1d(4))
    model.bn.train()
    culprit = only(compared(model, data(6, 4)))
    assert (culprit.module, culprit.operation, culprit.cause) == ("bn", "", "train-mode")
    assert (
        culprit.source_line
        == "model = Forward(lambda m, x: m.bn(m.a(x)), a=nn.Linear(4, 4), bn=nn.BatchNorm1d(4))"
    )


def test_where_the_second_export_fails_the_module_is_named_and_a_note_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The culprit, its cause and everything else are as without it."""

    def fail(*args: Any) -> Any:
        raise ExportError("no taps on these operations.")

    monkeypatch.setattr(Workshop, "_zoom", fail)
    report = compared(Forward(lambda m, x: m.b(m.a(x)), a=nn.Linear(4, 4), b=Block()), data(2, 4))
    culprit = only(report)
    assert (culprit.module, culprit.operation, culprit.cause) == ("b", "", "export-branch")
    assert "No closer look at the operations: no taps on these operations." in report.data.notes
