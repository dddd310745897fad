"""Scores as text."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.score import CAUSE_RATE, MODULE_RATE, Score, Totals

_WIDTH = 76
_HEADINGS = ("case", "exporter", "kind", "expected module / cause", "named module / cause", "right?")


def render_table(scores: Sequence[Score]) -> str:
    """One line per score, in columns."""
    rows = [_HEADINGS, *(_cells(score) for score in scores)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cells(score: Score) -> tuple[str, ...]:
    expected = f"{score.expected_module} / {score.expected_cause}" if score.expected_module else "(nothing)"
    named = f"{score.named_module} / {score.named_cause}" if score.blamed else "(nothing)"
    found = score.failure or named
    return (score.case, score.exporter, score.kind, _short(expected), _short(found), _verdict(score))


def _short(text: str) -> str:
    """So that a line of the table stays one line of a wide screen."""
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 2]} …"


def _verdict(score: Score) -> str:
    if score.right:
        return "yes"
    if score.module_right:
        return "cause wrong"
    return "blamed" if score.is_control and not score.failure else "no"


def progress_line(score: Score) -> str:
    """One finished case, for those who wait."""
    return f"{score.case} [{score.exporter}] {_verdict(score)} {score.seconds:.1f} s"


def render_totals(totals: Totals) -> str:
    """The three figures, each with what it must be."""
    modules, causes = _share(totals.modules, totals.faults), _share(totals.causes, totals.faults)
    return "\n".join(
        [
            "",
            f"culprit module named exactly: {modules}, needed {MODULE_RATE:.0%}",
            f"cause right: {causes}, needed {CAUSE_RATE:.0%}",
            f"controls blamed: {totals.blamed} of {totals.controls}, allowed 0",
        ]
    )


def _share(right: int, of: int) -> str:
    return f"{right} of {of} ({right / of:.1%})" if of else "no faulty case ran"
