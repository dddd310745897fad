"""The fault suite in CI: all of it through the quick exporter, every fourth case through the slow one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.faults.case import FaultCase
from tests.faults.cases import CASES
from tests.faults.score import count, run_case
from tests.faults.table import render_table, render_totals

EVERY = {"torchscript": 1, "dynamo": 4}
"""Of how many cases one is run. ``python -m tests.faults`` runs them all."""


def _chosen(exporter: str) -> list[FaultCase]:
    """Every so-manieth case of each kind, the first of it included."""
    kinds: dict[str, list[FaultCase]] = {}
    for case in CASES.values():
        if exporter in case.exporters:
            kinds.setdefault(case.kind, []).append(case)
    return [case for cases in kinds.values() for case in cases[:: EVERY[exporter]]]


@pytest.mark.slow
@pytest.mark.parametrize("exporter", list(EVERY))
def test_the_culprits_and_causes_are_right_and_no_control_is_blamed(exporter: str, tmp_path: Path) -> None:
    """Module in 95 %, cause in 90 % of the faulty cases, and not one healthy model accused."""
    torch.set_num_threads(1)

    scores = [run_case(case, exporter, tmp_path) for case in _chosen(exporter)]

    wrong = [score for score in scores if not score.right]
    assert count(scores).reached, f"{render_totals(count(scores))}\n{render_table(wrong)}"
