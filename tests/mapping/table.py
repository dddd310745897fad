"""Rows as one Markdown table, and in one line what holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.mapping.kinds import COARSE
from tests.mapping.score import Row

_HEAD = ("model", "exporter", "file", "unfused", "mapped", "right", "wrong", "healthy", "spoilt", "time")


def render(rows: Sequence[Row]) -> str:
    """The table, each failure below it, and the line that says what holds."""
    lines = [_line(_HEAD), _line("---" for _ in _HEAD), *(_line(_cells(row)) for row in rows)]
    for row in rows:
        lines += [f"{row.model} {row.exporter} {row.kind}: {failure}" for failure in row.failures]
    return "\n".join([*lines, "", summarise(rows)])


def _line(cells: Iterator[str] | Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cells(row: Row) -> Sequence[str]:
    name = (row.model, row.exporter, row.kind)
    if row.skipped:
        return (*name, "", "", "", "", f"no such file: {row.skipped}", "", "")
    counts = map(str, (row.unfused, row.mapped, row.right, len(row.wrong)))
    if row.kind in COARSE:
        counts = iter(("", str(row.mapped), "", ""))
    return (*name, *counts, row.control, row.fault, f"{row.seconds:.1f} s")


def summarise(rows: Sequence[Row]) -> str:
    """Every figure with what it must be; ``holds`` or not."""
    made = [row for row in rows if not row.skipped]
    exact = [row for row in made if row.kind not in COARSE]
    coarse = [row for row in made if row.kind in COARSE]
    spoilt = [row for row in exact if row.fault]
    named = sum(row.named for row in spoilt)
    wrong = sum(len(row.wrong) for row in exact)
    mapped, unfused = sum(row.mapped for row in exact), sum(row.unfused for row in exact)
    clean = sum(row.healthy for row in exact)
    precise = sum(row.healthy for row in coarse)
    verdict = "holds" if holds(rows) else "does not hold"
    return (
        f"Mapping {verdict}: {mapped} of {unfused} unfused module taps mapped, {wrong} wrong pairs; faults "
        f"named at the right layer {named} of {len(spoilt)}; healthy files aligned {clean} of "
        f"{len(exact)}; converted ones aligned or precision {precise} of {len(coarse)}."
    )


def holds(rows: Sequence[Row]) -> bool:
    """Whether every row does, and there is one."""
    return bool(rows) and not any(row.failures for row in rows)
