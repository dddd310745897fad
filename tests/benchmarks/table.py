"""The benchmark's table, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from tests.benchmarks.models import MODELS
from tests.benchmarks.records import FIRST_RUNS, NAMED, RUNS, SESSIONS, Measured

LEGEND = """\
*time* is a median, of one run where it took longer than {patience:.0f} s. *× floor* relates it to one eager
forward and two probe sessions created and run, with the same taps; *× first runs* to one forward and two
runs of a session made beforehand, *× runs* to the same with one that ran before and has kept its memory.
*peak RSS* is of the tool's own process, in brackets what the run added to it. *compared* counts distinct
values of the file. *found* is what the tool itself calls wrong; the spoilt file differs in one constant of
one node, and **named** means that its place was found and no other.
Seen with {versions}; {cores} cores, where ratios say more than seconds do."""

_COLUMNS = (
    "time",
    "× alignkit",
    "× floor",
    "× first runs",
    "× runs",
    "peak RSS",
    "compared",
    "found: as exported",
    "spoilt",
)
_AGAINST = "alignkit"
_NOTHING = "–"


def render(results: Sequence[Measured]) -> str:
    """One table, the models one below the other."""
    lines = [_line(["model", "tool", *_COLUMNS]), _line(["---", "---", *["---:"] * len(_COLUMNS)])]
    for name in dict.fromkeys(result.model for result in results):
        group = [result for result in results if result.model == name]
        for place, result in enumerate(group):
            title = "" if place else MODELS[name].title
            lines.append(_line([title, result.row.label, *_cells(result, group)]))
    return "\n".join(lines)


def render_legend(versions: Mapping[str, str], patience: float, cores: int) -> str:
    """What the columns mean, and what it was measured with."""
    known = ", ".join(f"{package} {version}" for package, version in versions.items())
    return LEGEND.format(versions=known, patience=patience, cores=cores)


def _cells(result: Measured, group: Sequence[Measured]) -> list[str]:
    if not result.seconds:
        cells = [_NOTHING] * len(_COLUMNS)
        return [(result.note or "not run").replace("|", "\\|"), *cells[1:]]
    row, taken = result.row, statistics.median(result.seconds)
    alike = [other for other in group if other.row.taps == row.taps]
    floors = (
        _median(group, lambda other: other.row.label == _AGAINST),
        _median(alike, lambda other: other.row.floor == SESSIONS),
        _median(alike, lambda other: other.row.floor == FIRST_RUNS),
        _median(alike, lambda other: other.row.floor == RUNS),
    )
    return [
        f"{taken:.3g} s",
        *(f"{taken / other:.2f}" if other else _NOTHING for other in floors),
        f"{_gib(result.peak)} (+{_gib(max(result.peak - result.before, 0))})",
        *_answers(result),
    ]


def _median(group: Sequence[Measured], choose: Callable[[Measured], bool]) -> float | None:
    """The time of the first row that ``choose`` takes; None where there is none with a time."""
    found = next((other.seconds for other in group if choose(other) and other.seconds), None)
    return statistics.median(found) if found else None


def _answers(result: Measured) -> list[str]:
    """How much was compared, what was found in the file as exported, and what in the spoilt one."""
    verdict = f"**{NAMED}**" if result.verdict == NAMED else result.verdict or _NOTHING
    healthy, answer = result.healthy, result.healthy or result.broken
    if answer is None:
        return [_NOTHING, _NOTHING, verdict]
    if not answer.compared:
        return ["nothing", _NOTHING, verdict]
    taps = f" ({answer.taps} taps)" if answer.taps is not None else ""
    found = _NOTHING if healthy is None else str(len(healthy.found) or "nothing")
    return [f"{answer.compared}{taps}", found, verdict]


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
