"""Culprits: what each costs at the outputs, how many are examined, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from alignkit.diagnose.culprits import MOST_EXAMINED
from tests.diagnosis import Forward, compared, data, only


class Branch(nn.Module):
    """Adds ``error`` in an export."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.5 + (self.error if torch.onnx.is_in_onnx_export() else 0.0)


def shares(report: Any) -> dict[str, float | None]:
    return {culprit.module: culprit.output_share for culprit in report.culprits}


def test_a_single_root_costs_all_of_the_outputs_error() -> None:
    """With the reference in its place nothing is left but rounding."""
    model = Forward(lambda m, x: m.b(m.root(m.a(x))), a=nn.Linear(4, 4), root=Branch(1.0), b=nn.Linear(4, 4))
    assert shares(compared(model, data(3, 4))) == {"root": pytest.approx(1.0, abs=1e-5)}


def test_a_root_at_the_very_output_costs_all_of_its_error() -> None:
    """There the reference takes the place of the output itself, through a parent's tap or directly."""
    behind = Forward(lambda m, x: m.root(m.a(x)), a=nn.Linear(4, 4), root=Branch(1.0))
    assert shares(compared(behind, data(3, 4))) == {"root": 1.0}
    itself = Forward(lambda m, x: m.a(x) * x.abs().max().item(), a=nn.Linear(4, 4))
    assert only(compared(itself, data(3, 4), inputs=data(3, 4, seed=1))).output_share == 1.0


def test_two_roots_share_the_outputs_error() -> None:
    """Each share is what the output gains when that root alone is made right."""
    model = Forward(lambda m, x: m.one(x) + m.other(-x), one=Branch(3.0), other=Branch(1.0))
    found = shares(compared(model, data(3, 4)))
    assert found == {"one": pytest.approx(0.75, abs=1e-4), "other": pytest.approx(0.25, abs=1e-4)}


def test_a_root_behind_another_takes_the_reference_for_both() -> None:
    """What is substituted at the second is right whatever went wrong before."""
    model = Forward(lambda m, x: m.second(m.first(x)), first=Branch(1.0), second=Branch(0.5))
    found = shares(compared(model, data(3, 4)))
    assert found == {"first": pytest.approx(0.75, abs=1e-4), "second": 1.0}


def test_a_root_that_the_output_does_not_depend_on_most_has_no_share() -> None:
    """The worst output element is another root's."""
    model = Forward(lambda m, x: torch.cat([m.big(x), m.small(x)], 1), big=Branch(1.0), small=Branch(0.5))
    assert shares(compared(model, data(3, 4))) == {
        "big": pytest.approx(0.5, abs=1e-4),
        "small": pytest.approx(0.0, abs=1e-4),
    }


def test_where_no_output_is_wrong_there_is_no_share() -> None:
    """A later layer forgets the error."""
    model = Forward(lambda m, x: m.root(x).clamp(100.0, 100.0) + m.a(x), root=Branch(1.0), a=nn.Linear(4, 4))
    culprit = only(compared(model, data(3, 4)))
    assert (culprit.module, culprit.output_share) == ("root", None)


def test_further_culprits_are_listed_without_experiments_and_say_so() -> None:
    """Where everything is wrong, the first ones tell; the others are named with their figures."""
    blocks = {f"block{i}": Branch(1.0) for i in range(MOST_EXAMINED + 2)}

    def forward(m: Any, x: Tensor) -> Tensor:
        for name in blocks:
            x = getattr(m, name)(x) / 1.5
        return x

    report = compared(Forward(forward, **blocks), data(3, 4))
    assert [culprit.module for culprit in report.culprits] == list(blocks)
    examined, others = report.culprits[:MOST_EXAMINED], report.culprits[MOST_EXAMINED:]
    line = f"not examined: the first {MOST_EXAMINED} culprits were"
    assert {culprit.cause for culprit in examined} == {"export-branch"}
    assert not any(line in culprit.evidence for culprit in examined)
    for culprit in others:
        assert (culprit.cause, culprit.confidence, culprit.experiments) == ("unknown", "low", ())
        assert culprit.evidence[-1] == line
        assert "off by at most 1" in culprit.evidence[0]
        assert (culprit.repro, culprit.output_share) == (None, None)
        assert culprit.onnx_nodes
        assert culprit.source
