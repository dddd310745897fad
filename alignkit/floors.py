"""Floors: how much of the noise has to be measured before a sample is judged.

One sample alone gets the noise floors of every tap. Of many samples each is first held against the
least floors that a measurement could give; float64 runs are made only where something is beyond these.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignkit.comparison import NoiseFloors
from alignkit.instrument import Selection
from alignkit.noise import least_floors, measure_floors, with_accumulated, with_condition, with_own
from alignkit.records import Capture, LayerRow, OutputRow, Verdict
from alignkit.settings import Sample

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The rows of one sample as ``noise`` judges them; ``measured``: float64 runs were made for it."""

    noise: NoiseFloors
    rows: list[LayerRow]
    outputs: list[OutputRow]
    measured: bool = False

    @property
    def accuse(self) -> bool:
        """A segment is wrong although its inputs are right."""
        return any(row.verdict is Verdict.INTRODUCED for row in self.rows)

    @property
    def agree(self) -> bool:
        """No value differs that both sides have."""
        rows = (row.verdict for row in self.rows if row.verdict.was_compared)
        outputs = (row.verdict for row in self.outputs)
        observed = any(row.observer_effect for row in self.outputs)
        return not observed and all(verdict is Verdict.OK for verdict in (*rows, *outputs))


Judge = Callable[[NoiseFloors], Verdicts]
Where = tuple["nn.Module", Sample, Selection, Capture]
Stage = Callable[[str], AbstractContextManager[None]]


def judge_unmeasured(judge: Judge) -> Verdicts:
    """Without noise floors: the user's tolerances, or those of torch.testing."""
    return judge(NoiseFloors({}, {}, "the noise floor was switched off"))


def judge_measured(judge: Judge, where: Where, stage: Stage) -> Verdicts:
    """With the measured floors of every tap."""
    with stage("noise floor"):
        noise = measure_floors(*where)
    return _conditioned(judge, judge(noise), where, stage)


def judge_by_need(judge: Judge, where: Where, stage: Stage) -> Verdicts:
    """With the least floors, and with measured ones only where these do not suffice.

    A measured floor is never smaller than the least, so that what agrees needs no measurement; the
    noise ratio is then an upper bound.
    """
    found = judge(least_floors(where[-1]))
    if found.agree:
        return found
    noise = found.noise
    if found.accuse:
        with stage("noise floor"):
            noise = with_own(noise, *where)
        found = _conditioned(judge, judge(noise), where, stage)
        noise = found.noise
    if not found.agree and not noise.missing:
        with stage("noise floor"):
            noise = with_accumulated(noise, *where)
        found = judge(noise)
    return Verdicts(noise, found.rows, found.outputs, measured=not noise.missing)


def _conditioned(judge: Judge, found: Verdicts, where: Where, stage: Stage) -> Verdicts:
    """Before a segment is accused, what rounding of its inputs makes of it counts as noise."""
    if not found.accuse or found.noise.missing:
        return found
    with stage("noise floor"):
        noise = with_condition(found.noise, *where)
    return judge(noise)
