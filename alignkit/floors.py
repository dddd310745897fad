"""Floors: how much of the noise has to be measured before a sample is judged.

One sample alone gets the noise floors of every tap. Of many samples each is first held against the
least floors that a measurement could give, and against what the same taps rounded in earlier samples of
the same shape; float64 runs are made only where something is beyond these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from alignkit.comparison import NoiseFloors
from alignkit.noise import EagerRun, measure_floors, with_accumulated, with_condition, with_own
from alignkit.records import LayerRow, Noise, OutputRow, Verdict
from alignkit.tolerance import FACTOR


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


_ENOUGH = 3
"""Samples in which a tap's rounding must have been measured before others are held against it."""

_CLEAR = 8.0
"""How many of the least floors ever measured at a tap need no measurement. Well below the 30 that count
as rounding: another sample may round less, relative to its scale."""


@dataclass(slots=True)
class _Rounding:
    """Per tap in how many samples its rounding was measured, and the least, relative to the scale."""

    known: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, noise: Mapping[str, Noise], scales: Mapping[str, float]) -> None:
        for tap, one in noise.items():
            if scale := scales.get(tap):
                count, least = self.known.get(tap, (0, math.inf))
                self.known[tap] = count + 1, min(least, one.max_abs / scale)

    def floors(self, scales: Mapping[str, float]) -> dict[str, Noise]:
        """What is within these is clear; elsewhere zero, so that one unit in the last place counts."""
        enough = {tap: least for tap, (count, least) in self.known.items() if count >= _ENOUGH}
        part = _CLEAR / FACTOR
        return {tap: Noise(part * enough.get(tap, 0.0) * scale, 0.0) for tap, scale in scales.items()}


@dataclass(slots=True)
class Learned:
    """What the taps rounded in the samples of one shape that were measured."""

    own: _Rounding = field(default_factory=_Rounding)
    accumulated: _Rounding = field(default_factory=_Rounding)

    def floors(self, scales: Mapping[str, float]) -> NoiseFloors:
        """The floors that a sample is held against first; ``scales``: tap -> largest |value|."""
        return NoiseFloors(self.own.floors(scales), self.accumulated.floors(scales))


Judge = Callable[[NoiseFloors], Verdicts]
Stage = Callable[[str], AbstractContextManager[None]]


def judge_unmeasured(judge: Judge) -> Verdicts:
    """Without noise floors: the user's tolerances, or those of torch.testing."""
    return judge(NoiseFloors({}, {}, "the noise floor was switched off"))


def judge_measured(judge: Judge, run: EagerRun, stage: Stage) -> Verdicts:
    """With the measured floors of every tap."""
    with stage("noise floor"):
        noise = measure_floors(run)
    return _conditioned(judge, judge(noise), run, stage)


def judge_by_need(
    judge: Judge, run: EagerRun, stage: Stage, scales: Mapping[str, float], learned: Learned
) -> Verdicts:
    """With what was ``learned``, and with measured floors only where these do not suffice.

    ``scales``: tap -> largest |value|. A measured floor is never below one unit in the last place of the
    scale, so that what agrees within that needs no measurement; the noise ratio is then an upper bound.
    """
    found = judge(learned.floors(scales))
    if found.agree:
        return found

    def judge_own(noise: NoiseFloors) -> Verdicts:
        with stage("noise floor"):
            noise = with_own(noise, run)
        learned.own.add(noise.own, scales)
        return _conditioned(judge, judge(noise), run, stage)

    accused = found.accuse
    if accused:
        found = judge_own(found.noise)
    if not found.agree and not found.noise.missing:
        with stage("noise floor"):
            noise = with_accumulated(found.noise, run)
        learned.accumulated.add(noise.accumulated, scales)
        found = judge(noise)
    if not accused and not found.agree and not found.noise.missing:
        found = judge_own(found.noise)  # a diagnosis asks how exact the small elements are
    return replace(found, measured=not found.noise.missing)


def _conditioned(judge: Judge, found: Verdicts, run: EagerRun, stage: Stage) -> Verdicts:
    """Before a segment is accused, what rounding of its inputs makes of it counts as noise."""
    if not found.accuse or found.noise.missing:
        return found
    with stage("noise floor"):
        noise = with_condition(found.noise, run)
    return judge(noise)
