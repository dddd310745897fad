"""Flips: a decision that rounding turns is a note, one that is turned on exact inputs a culprit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignkit.instrument import Instrument, Selection
from alignkit.records import Verdict
from tests.diagnosis import Forward, Summed, compared


class Decision(nn.Module):
    def __init__(self, decide: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decide = decide

    def forward(self, x: Tensor) -> Tensor:
        return self.decide(x)


def near_ties(decide: Callable[[Tensor, Tensor], Tensor]) -> tuple[nn.Module, Tensor]:
    """A model that decides between values which float rounding alone keeps apart.

    ``decide`` is given a sum and the very number that it comes to in eager PyTorch.
    """
    torch.manual_seed(0)
    summed, x = Summed(256, 256), torch.randn(64, 256)
    with torch.no_grad():
        exactly = summed(x).clone()
    decision = Decision(lambda value: decide(value, exactly))
    return Forward(lambda m, v: m.decision(m.summed(v)), summed=summed, decision=decision), x


DECISIONS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "threshold": (lambda value, exactly: (value > exactly).float(), "Greater"),
    "rounding": (lambda value, exactly: torch.round(value - exactly + 0.5), "Round"),
    "argmax": (lambda value, exactly: torch.stack([value, exactly]).argmax(0), "ArgMax"),
    "topk": (
        lambda value, exactly: torch.stack([value, exactly, exactly - 1e-7]).topk(2, 0).indices,
        "TopK",
    ),
}


@pytest.mark.parametrize(("decide", "operator"), DECISIONS.values(), ids=DECISIONS.keys())
def test_a_decision_turned_by_rounding_is_a_note(
    decide: Callable[[Tensor, Tensor], Tensor], operator: str
) -> None:
    """Nobody is accused: on the reference's own values it decides as PyTorch does."""
    model, x = near_ties(decide)
    report = compared(model, x)
    row = next(row for row in report.layers if row.tap == "decision#0[0]")
    assert (row.propagated.max_abs or 0) >= 1, "the case does not flip here"
    assert report.aligned
    (note,) = [note for note in report.data.notes if note.startswith("decision flip at ")]
    assert note.startswith("decision flip at decision#0[0] (")
    assert operator in note
    assert "by rounding alone" in note


def test_an_exact_tie_broken_in_another_order_is_a_culprit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same input, and another answer: that difference is introduced."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.last(m.a(x))

    class Last(nn.Module):
        """The last of equals in eager; the exported ArgMax gives the first."""

        def forward(self, x: Tensor) -> Tensor:
            if torch.onnx.is_in_onnx_export():
                return x.argmax(1)
            return x.shape[1] - 1 - x.flip(1).argmax(1)

    model = Forward(forward, a=nn.ReLU(), last=Last())
    report = compared(model, -torch.ones(3, 4))
    assert [culprit.module for culprit in report.culprits] == ["last"]
    assert not any("flip" in note for note in report.data.notes)


def test_steps_behind_a_fault_are_no_flips() -> None:
    """What they differ in came to them; also through input taps that repeat the fault's own value."""

    class Fault(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if torch.onnx.is_in_onnx_export() else x * 3

    model = Forward(
        lambda m, x: m.c(m.b(m.fault(x)).relu()),
        fault=Fault(),
        b=nn.Softmax(1),
        c=Decision(lambda value: value.argmax(1)),
    )
    report = compared(model, torch.tensor([[1.0, 2.0, 3.0], [3.0, -1.0, 0.5]]))
    assert [culprit.module for culprit in report.culprits] == ["fault"]
    assert [row.tap for row in report.layers if row.verdict is Verdict.PROPAGATED]
    assert not [note for note in report.data.notes if "decision flip" in note or "ill-conditioned" in note]


def test_a_division_near_a_singularity_is_a_note() -> None:
    """Rounding magnified by an operation that is right: named for what it is."""
    model, x = near_ties(lambda value, exactly: 1 / (value - exactly + 1e-6))
    report = compared(model, x)
    assert report.aligned
    assert any(note.startswith("ill-conditioned step at decision#0[0]") for note in report.data.notes)


def test_the_taps_of_these_models_see_the_same_sum() -> None:
    """The constant in the decision is what eager computes, bit for bit: no flip is eager's own."""
    model, x = near_ties(lambda value, exactly: value == exactly)
    seen: list[Tensor] = []

    def visit(tap: Any, value: Tensor) -> Tensor:
        if str(tap.id) == "decision#0[0]":
            seen.append(value)
        return value

    with Instrument(model, Selection(), visit), torch.no_grad():
        model(x)
    assert bool(seen[0].all())
