"""Floors: float64 runs are made only where the least floors do not settle a sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import alignkit.floors as floors
from alignkit.comparison import NoiseFloors
from alignkit.floors import Learned, Verdicts, judge_by_need
from alignkit.instrument import Selection
from alignkit.noise import EagerRun
from alignkit.records import Capture, LayerRow, Noise, TapKind, Verdict
from alignkit.settings import Sample
from alignkit.tolerance import FACTOR

TAP, SCALE, ROUNDING = "a#0[0]", 2.0, 1e-6
ULP = 2.0**-22  # of SCALE, in float32
RUN = EagerRun(torch.nn.Identity(), Sample(()), Selection(), Capture({}, {}, {}, ()))


@contextmanager
def stage(_: str) -> Iterator[None]:
    yield


class Bench:
    """One tap whose own error and whose error in the run are given, and a count of the float64 runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, missing: str = "") -> None:
        self.runs: list[str] = []
        self.learned = Learned()
        measured = {TAP: Noise(ROUNDING, 0.0)}
        for name in ("own", "accumulated", "condition"):
            changed = {} if name == "condition" else {name: {} if missing else measured}

            def measure(
                noise: NoiseFloors, *where: object, name: str = name, changed: dict[str, object] = changed
            ) -> NoiseFloors:
                self.runs.append(name)
                parts = {"own": noise.own, "accumulated": noise.accumulated, **changed}
                return NoiseFloors(parts["own"], parts["accumulated"], missing)  # type: ignore[arg-type]

            monkeypatch.setattr(floors, f"with_{name}", measure)

    def judge(self, own: float, passed: float) -> Verdicts:
        """One more sample."""

        def judge(noise: NoiseFloors) -> Verdicts:
            verdict = Verdict.OK
            if own > FACTOR * max(ULP, noise.own[TAP].max_abs if noise.own else 1e-5):
                verdict = Verdict.INTRODUCED
            elif passed > FACTOR * max(ULP, noise.accumulated[TAP].max_abs if noise.accumulated else 1e-5):
                verdict = Verdict.PROPAGATED
            row = LayerRow(TAP, "a", TapKind.MODULE, "Linear", (1,), "float32", None, verdict)
            return Verdicts(noise, [row], [])

        self.runs.clear()
        return judge_by_need(judge, RUN, stage, {TAP: SCALE}, self.learned)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_what_is_within_the_least_floor_needs_no_float64_run(bench: Bench) -> None:
    """Exact values, and any error up to 30 units in the last place."""
    for error in (0.0, 29 * ULP):
        found = bench.judge(error, error)
        assert found.agree
        assert not found.measured
        assert bench.runs == []


def test_only_the_floor_that_is_needed_is_measured(bench: Bench) -> None:
    """The segment's own where that is beyond, the run's where only that is."""
    assert bench.judge(0.0, 31 * ULP).agree
    assert bench.runs == ["accumulated"]
    found = bench.judge(31 * ULP, 0.0)
    assert bench.runs == ["own"]
    assert found.agree
    assert found.measured


def test_a_segment_is_accused_only_after_its_condition_was_asked(bench: Bench) -> None:
    """As for a single sample."""
    found = bench.judge(1.0, 1.0)
    assert found.accuse
    assert bench.runs == ["own", "condition", "accumulated"]


def test_what_was_measured_in_three_samples_speaks_for_others(bench: Bench) -> None:
    """Up to 8 of the least floors need no run of their own; beyond that the sample is measured again."""
    error = 7 * ROUNDING
    assert error > FACTOR * ULP * 0.9
    for _ in range(3):
        bench.judge(0.0, 31 * ULP)
        assert bench.runs == ["accumulated"]
    assert bench.judge(0.0, 31 * ULP).agree
    assert bench.runs == []
    assert bench.judge(0.0, 8.1 * ROUNDING).agree
    assert bench.runs == ["accumulated"]


def test_what_differs_in_the_end_is_diagnosed_with_its_own_rounding_known(bench: Bench) -> None:
    """Else every small element would look lost: the least floors say nothing of those."""
    found = bench.judge(0.0, 31 * ROUNDING)
    assert not found.agree
    assert not found.accuse
    assert bench.runs == ["accumulated", "own"]
    assert found.noise.own[TAP].max_abs == ROUNDING


def test_the_least_of_the_measured_floors_counts(bench: Bench) -> None:
    """One sample that rounds much does not make the others pass."""
    for relative in (1e-3, 1e-3, 1e-7):
        bench.learned.own.add({TAP: Noise(relative * SCALE, 0.0)}, {TAP: SCALE})
    assert bench.learned.floors({TAP: 5.0}).own[TAP].max_abs == pytest.approx(8 / 30 * 1e-7 * 5.0)
    assert bench.learned.floors({"b#0[0]": 5.0}).own["b#0[0]"].max_abs == 0.0


def test_without_float64_the_documented_tolerances_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what could not be measured is not tried a second time for one sample."""
    bench = Bench(monkeypatch, missing="no float64 run")
    found = bench.judge(31 * ULP, 0.0)
    assert bench.runs == ["own"]
    assert not found.measured
    assert found.noise.missing
