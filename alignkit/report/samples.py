"""What the renderers say of a data set: how many samples fail, which, at what shapes, and in which layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from alignkit.records import Range, ReportData, SampleRow, Spread
from alignkit.report.listing import VERDICT, Kind, Listing
from alignkit.report.words import aligned_word, format_error, format_ratio, format_share, one_line

_SAMPLE_COLUMNS = {
    "sample": Kind.NAME,
    VERDICT: Kind.WORD,
    "error starts at": Kind.NAME,
    "ratio": Kind.FIGURE,
    "output error": Kind.FIGURE,
}
_SPREAD_COLUMNS = {
    "tap": Kind.NAME,
    "differs in": Kind.WORD,
    "blamed in": Kind.WORD,
    **dict.fromkeys(("mean", "introduced", "propagated", "ratio"), Kind.FIGURE),
    "worst sample": Kind.NAME,
}

WORST_SAMPLE = "worst_sample.npz"
"""The file beside a saved report that holds the inputs of the sample that it shows."""

_LISTED = 10

_Axis = tuple[str, int]


def sample_summary(report: ReportData) -> list[str]:
    """A data set in one to three sentences: the count, the sample that is shown, the shapes that fail."""
    rows = report.samples
    failing = sum(row.aligned is False for row in rows)
    refused = sum(row.aligned is None for row in rows)
    shown = one_line(str(report.settings.get("shown", "")))
    which = "the worst" if failing else "the one with the largest noise ratio"
    parts = [f"{failing:,} of {len(rows):,} samples {'diverges' if failing == 1 else 'diverge'}"]
    if refused:
        parts.append(f"{refused:,} could not be compared")
    found = [f"{', '.join(parts)}; all below is of {which}, {shown}."]
    if shapes := failing_shapes(rows):
        found.append(f"{shapes}.")
    if WORST_SAMPLE in report.settings.get("kept_inputs", ()):
        found.append(f"The saved report holds its inputs: {WORST_SAMPLE}.")
    return found


def listed_samples(report: ReportData, limit: int = _LISTED) -> list[SampleRow]:
    """Those that diverge, the worst first, then those that could not be compared."""
    failing = [row for row in report.samples if row.aligned is False]
    failing.sort(key=lambda row: -(row.worst_ratio or 0.0))
    return [*failing, *(row for row in report.samples if row.aligned is None)][:limit]


def sample_listing(rows: Sequence[SampleRow]) -> Listing:
    """One line per sample."""
    return Listing(_SAMPLE_COLUMNS, [_sample_cells(row) for row in rows], elastic=(2, 0))


def _sample_cells(row: SampleRow) -> tuple[str, ...]:
    return (
        one_line(row.name),
        aligned_word(row.aligned),
        one_line(row.tap or "-"),
        format_ratio(row.worst_ratio),
        format_error(row.output_error),
    )


def listed_spreads(report: ReportData, limit: int = _LISTED) -> list[Spread]:
    """The taps that are to blame in most samples, then those that differ in most, then by noise ratio."""

    def badness(spread: Spread) -> tuple[float, ...]:
        return spread.introduces, spread.differs, _worst(spread.noise_ratio), _worst(spread.introduced)

    return sorted((one for one in report.spreads if any(badness(one))), key=badness, reverse=True)[:limit]


def spread_listing(spreads: Sequence[Spread]) -> Listing:
    """One line per tap; errors are max |candidate - reference|."""
    return Listing(_SPREAD_COLUMNS, [_spread_cells(spread) for spread in spreads], elastic=(7, 0))


def _spread_cells(spread: Spread) -> tuple[str, ...]:
    worst = spread.noise_ratio or spread.introduced or spread.propagated
    return (
        one_line(spread.tap),
        _share(spread.differs, spread.compared),
        _share(spread.introduces, spread.compared),
        format_error(spread.introduced.mean if spread.introduced else None),
        format_error(spread.introduced.worst if spread.introduced else None),
        format_error(spread.propagated.worst if spread.propagated else None),
        format_ratio(spread.noise_ratio.worst if spread.noise_ratio else None),
        one_line(worst.worst_sample) if worst and worst.worst else "-",
    )


def failing_shapes(rows: Sequence[SampleRow]) -> str:
    """``fails at 4 of 8 shapes: all with x axis 0 = 4``; empty where the samples are of one shape."""
    compared = [(_sizes(row.shapes), row.aligned) for row in rows if row.aligned is not None]
    shapes = {tuple(sizes.items()) for sizes, _ in compared}
    bad = {tuple(sizes.items()) for sizes, aligned in compared if not aligned}
    if len(shapes) < 2 or not bad:
        return ""
    counted = f"Fails at {len(bad)} of {len(shapes)} shapes"
    good = [dict(shape) for shape in shapes - bad]
    return f"{counted}: {words}" if (words := _told_apart([dict(shape) for shape in bad], good)) else counted


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> dict[_Axis, int]:
    """(input, axis) -> size; the number of axes counts as axis -1."""
    sizes = {(name, axis): size for name, shape in shapes.items() for axis, size in enumerate(shape)}
    return {**{(name, -1): len(shape) for name, shape in shapes.items()}, **sizes}


def _told_apart(bad: Sequence[Mapping[_Axis, int]], good: Sequence[Mapping[_Axis, int]]) -> str:
    """The sizes that all of ``bad`` have and none of ``good``; empty where no one or two axes tell."""
    if not good:
        return ""
    axes = list(dict.fromkeys(axis for sizes in (*bad, *good) for axis in sizes))
    for axis in axes:
        ours, theirs = {sizes.get(axis) for sizes in bad}, {sizes.get(axis) for sizes in good}
        if ours.isdisjoint(theirs):
            if len(ours) > 2 and len(theirs) == 1:
                return f"all but those with {_axis_words(axis, theirs)}"
            return f"all with {_axis_words(axis, ours)}"
    for one, other in combinations(axes, 2):
        both = {(sizes.get(one), sizes.get(other)) for sizes in bad}
        if len(both) == 1 and both.isdisjoint((sizes.get(one), sizes.get(other)) for sizes in good):
            ((first, second),) = both
            return f"all with {_axis_words(one, {first})} and {_axis_words(other, {second})}"
    return ""


def _axis_words(axis: _Axis, sizes: set[int | None]) -> str:
    name, number = axis
    listed = " or ".join(str(size) for size in sorted(size for size in sizes if size is not None))
    return f"{listed} axes of {name}" if number < 0 else f"{name} axis {number} = {listed}"


def _worst(found: Range | None) -> float:
    return found.worst if found else 0.0


def _share(count: int, total: int) -> str:
    return f"{count:,} ({format_share(count / total)})" if count else "0"


def sample_reasons(rows: Sequence[SampleRow], limit: int = 3) -> Iterator[str]:
    """Why samples could not be compared, once each, with the names of those that share the reason."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.aligned is None:
            reasons.setdefault(row.reason, []).append(one_line(row.name))
    for reason, names in reasons.items():
        more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
        yield f"{', '.join(names[:limit])}{more}: {reason}"
