"""Spread: the figures of every tap over the samples of a data set, kept while the samples go by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from alignkit.records import LayerRow, OutputRow, Range, SampleRow, Spread


@dataclass(slots=True)
class _Running:
    """One figure: the sum, the largest value so far, and where that was."""

    count: int = 0
    total: float = 0.0
    worst: float = -1.0
    worst_sample: str = ""

    def add(self, value: float | None, sample: str) -> None:
        if value is None:
            return
        self.count += 1
        self.total += value
        if value > self.worst:
            self.worst, self.worst_sample = value, sample

    def close(self) -> Range | None:
        return Range(self.total / self.count, self.worst, self.worst_sample) if self.count else None


@dataclass(slots=True)
class _RunningTap:
    """One tap: in how many samples it was compared, differed and was to blame, and its figures."""

    compared: int = 0
    differs: int = 0
    introduces: int = 0
    propagated: _Running = field(default_factory=_Running)
    introduced: _Running = field(default_factory=_Running)
    noise_ratio: _Running = field(default_factory=_Running)

    def add(self, row: LayerRow, sample: str) -> None:
        self.compared += 1
        self.differs += not row.verdict.is_ok
        self.introduces += row.verdict.introduces
        self.propagated.add(row.propagated.max_abs if row.propagated else None, sample)
        self.introduced.add(row.introduced.max_abs if row.introduced else None, sample)
        self.noise_ratio.add(row.noise_ratio, sample)

    def close(self, tap: str) -> Spread:
        figures = (self.propagated.close(), self.introduced.close(), self.noise_ratio.close())
        return Spread(tap, self.compared, self.differs, self.introduces, *figures)


@dataclass(slots=True)
class Tally:
    """Takes the rows of one sample after the other and holds nothing of them but the figures."""

    _taps: dict[str, _RunningTap] = field(default_factory=dict)

    def add(self, rows: Iterable[LayerRow], sample: str) -> None:
        """The rows of one more sample; those that were not compared do not count."""
        for row in rows:
            if row.verdict.was_compared:
                self._taps.setdefault(row.tap, _RunningTap()).add(row, sample)

    def close(self) -> tuple[Spread, ...]:
        """One spread per tap, in the order in which the taps were first met."""
        return tuple(running.close(tap) for tap, running in self._taps.items())


def describe_sample(
    name: str,
    rows: Sequence[LayerRow],
    outputs: Sequence[OutputRow],
    shapes: dict[str, tuple[int, ...]],
    aligned: bool,
    reason: str = "",
) -> SampleRow:
    """A compared sample in brief."""
    tap, worst = _first_suspicious(rows), max(rows, key=lambda row: row.noise_ratio or 0.0, default=None)
    if any(row.tap == tap and row.noise_ratio is None for row in rows):
        worst = None  # of another shape, or not finite: no ratio says how bad that is
    errors = [e.max_abs for row in outputs if (e := row.plain or row.probed) and e.max_abs is not None]
    return SampleRow(
        name,
        aligned,
        tap=tap,
        worst_tap=worst.tap if worst and worst.noise_ratio else None,
        worst_ratio=worst.noise_ratio if worst else None,
        output_error=max(errors, default=None),
        reason=reason or next((row.reason for row in outputs if row.reason and not row.verdict.is_ok), ""),
        shapes=shapes,
    )


def _first_suspicious(rows: Sequence[LayerRow]) -> str | None:
    accused = (row.tap for row in rows if row.verdict.introduces)
    differing = (row.tap for row in rows if row.verdict.was_compared and not row.verdict.is_ok)
    return next(accused, None) or next(differing, None)
