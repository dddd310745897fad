"""What the renderers share: the verdict, a culprit in words, numbers and names."""

from __future__ import annotations

import json
import math
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from alignkit.records import ROOT, Culprit, ErrorMetrics, LayerRow, ReportData, Verdict

README = "README.md"
"""Where the how-tos stand: one heading per symptom."""


class Cause(NamedTuple):
    """A cause in plain words, and the symptom under which the README says what to do about it."""

    meaning: str
    symptom: str


CAUSES: Mapping[str, Cause] = MappingProxyType(
    {
        "exporter": Cause("the exported graph computes something else", "One layer differs on every input"),
        "export-branch": Cause(
            "the model takes another branch while it is exported", "One layer differs on every input"
        ),
        "trace-constant": Cause("a value was frozen while tracing", "Only some inputs differ"),
        "train-mode": Cause("exported or run in training mode", "Two runs differ"),
        "nondeterministic": Cause("the same run gives different answers", "Two runs differ"),
        "runtime": Cause(
            "the graph is right, a kernel computes it wrongly", "Differs with optimisation off as well"
        ),
        "optimizer": Cause("a graph optimisation changes the result", "Differs only with optimisation on"),
        "precision": Cause("computed at a lower precision", "All layers differ slightly"),
        "input": Cause("the two sides were fed different inputs", "Differs from the first layer on"),
        "weights": Cause("the file holds other weights", "Differs since the weights changed"),
        "unknown": Cause("the cause could not be narrowed down", "No cause was found"),
    }
)
"""Every cause that a culprit may have. A symptom is the README's heading, word for word."""

NONFINITE_SYMPTOM = "NaN from layer k on"

_NAME_WIDTH = 40  # of a sample's name in the verdict


def verdict_line(report: ReportData) -> str:
    """The answer in one line: ``ALIGNED``, ``DIVERGED`` or, when nothing was compared, ``INCONCLUSIVE``.

    Of several candidates it says on which: ``DIVERGED on openvino: error starts at fc (Gemm)``; of the
    steps of a chain of passes, after which.
    """
    if report.settings.get("passes"):
        return _line_of_steps(report)
    diverged = [row.name for row in report.candidates if row.aligned is False]
    unknown = [row.name for row in report.candidates if row.aligned is None]
    if unknown and not diverged:
        aligned = [row.name for row in report.candidates if row.aligned]
        rest = f"; {_listed(aligned)}: aligned" if aligned else ""
        return f"INCONCLUSIVE: {_listed(unknown)} could not be compared{rest}"
    line = _line_of_one(report)
    if not report.candidates:
        return line
    word, _, said = line.partition(": ")
    if diverged:
        return f"{word} on {_listed(diverged)}: {said}"
    names = ", ".join(one_line(row.name) for row in report.candidates)
    return f"{word} on {names if len(names) <= 18 else f'all {len(report.candidates)} candidates'}: {said}"


def _line_of_steps(report: ReportData) -> str:
    word, _, said = _line_of_one(report).partition(": ")
    failed = next((row.name for row in report.candidates if row.aligned is None), None)
    if failed is not None and all(row.aligned is not False for row in report.candidates):
        return f"INCONCLUSIVE: step {_numbered(failed)} failed; what could be compared is aligned"
    if report.aligned:
        return f"ALIGNED after each of {len(report.candidates)} steps: {said}"
    return f"{word} after step {_numbered(str(report.settings.get('candidate')))}: {said}"


def _numbered(title: str) -> str:
    """``2 (fp16)`` for the step called ``2 fp16``."""
    number, _, name = title.partition(" ")
    return f"{number} ({one_line(name)})"


def _listed(names: Sequence[str]) -> str:
    """``a, b``, or ``a and 4 others`` of many."""
    line = ", ".join(map(one_line, names))
    others = f"{len(names) - 1} other{'s' if len(names) > 2 else ''}"
    return line if len(names) == 1 or len(line) <= 30 else f"{one_line(names[0])} and {others}"


def _line_of_one(report: ReportData) -> str:
    total = len(report.samples)
    failing = sum(row.aligned is False for row in report.samples)
    refused = [row for row in report.samples if row.aligned is None]
    if failing and not report.aligned:
        word, _, rest = _shown_line(report).partition(": ")
        shown = shorten_middle(one_line(str(report.settings.get("shown", ""))), _NAME_WIDTH)
        which = f"s: {shown}" if failing == 1 else f"; the worst is {shown}"
        return (
            f"DIVERGED: {failing:,} of {total:,} samples fail{which}, {rest if word == 'DIVERGED' else word}"
        )
    if refused:
        first = shorten_middle(one_line(refused[0].name), _NAME_WIDTH)
        told = f"{len(refused):,} of {total:,} samples could not be compared ({first})"
        return f"INCONCLUSIVE: {told}, all others agree"
    if total and report.aligned:
        return _shown_line(report).replace("ALIGNED: ", f"ALIGNED: {total:,} of {total:,} samples, ")
    return _shown_line(report)


def _shown_line(report: ReportData) -> str:
    """The answer for the sample that the report shows."""
    compared, total = report.coverage.compared, report.coverage.compared + report.coverage.not_compared
    if report.candidates and report.aligned:  # what holds for each of them
        compared, total = min((row.compared, row.taps) for row in report.candidates)
    if report.aligned and compared:
        blind = report.outputs and all(row.verdict is Verdict.SKIPPED for row in report.outputs)
        said = f"ALIGNED: {compared} of {total} taps compared, no layer introduces more than float rounding"
        return f"{said}; no output could be compared" if blind else said
    if report.culprits:
        culprit = report.culprits[0]
        op = f" ({one_line(culprit.op)})" if culprit.op else ""
        return f"DIVERGED: error starts at {one_line(culprit.module or culprit.tap)}{op}"
    bad_output = next((row for row in report.outputs if not row.verdict.is_ok), None)
    if bad_output is not None:
        blame = "no layer could be blamed" if compared else "no tap was compared"
        return f"DIVERGED: output {one_line(bad_output.name)} is wrong, {blame}"
    if not compared:
        return f"INCONCLUSIVE: none of {total} taps was compared, so nothing is known"
    wrong = sum(row.verdict.was_compared and not row.verdict.is_ok for row in report.layers)
    if wrong:
        return f"DIVERGED: {wrong} of {compared} compared taps differ, no layer could be blamed"
    return f"DIVERGED: {compared} of {total} taps compared and right, the rest is not known"


def cause_meaning(cause: str) -> str:
    """The cause in plain words; empty for one that this version does not know."""
    return CAUSES[cause].meaning if cause in CAUSES else ""


def symptom_of(culprit: Culprit, verdict: Verdict | None = None) -> str:
    """The README's heading that fits the culprit, whose tap has that verdict; empty if there is none."""
    if verdict is Verdict.NONFINITE:
        return NONFINITE_SYMPTOM
    return CAUSES[culprit.cause].symptom if culprit.cause in CAUSES else ""


def how_to_address(symptom: str) -> str:
    """The place in the README: the anchor that a heading gets there."""
    return f"{README}#{symptom.lower().replace(' ', '-')}"


def source_words(culprit: Culprit) -> str:
    """The user's line: ``unet.py:57: x = F.interpolate(x)``, as much of it as is known."""
    return ": ".join(part for part in (culprit.source, culprit.source_line) if part)


def operation_words(culprit: Culprit) -> str:
    """From the torch function to the ONNX operator: ``interpolate -> Resize``, as far as known."""
    return " -> ".join(part for part in (culprit.operation, culprit.op) if part)


def share_words(share: float | None) -> str:
    """What a culprit costs at the model's outputs; empty where that was not measured."""
    if share is None or not math.isfinite(share):
        return ""
    return f"{format_share(share)} of the outputs' error disappears when this layer is right"


def format_share(share: float) -> str:
    """A share of one as a percentage: ``100 %``, ``42.4 %``, ``less than 0.1 %``."""
    return "less than 0.1 %" if 0 < share < 1e-3 else f"{100 * share:.3g} %"


def repro_command(culprit: Culprit) -> str:
    """What to type in the report's folder to see the fault again; empty without a bundle."""
    return f"python {shlex.quote(f'{culprit.repro}/repro.py')}" if culprit.repro else ""


def module_type_of(report: ReportData, culprit: Culprit) -> str:
    """The class of the culprit's module; empty where no row is of that module.

    The culprit's own row may be another's: an error in a parent's code shows at the input of a child.
    """
    return next((row.module_type for row in report.layers if row.module == (culprit.module or ROOT)), "")


def first_rows(report: ReportData) -> dict[str, LayerRow]:
    """Tap -> its row; of rows with one name, the first."""
    return {row.tap: row for row in reversed(report.layers)}


def coverage_reasons(report: ReportData) -> list[tuple[int, str]]:
    """Number of taps and reason for all that was not compared, the most frequent first."""
    coverage = report.coverage
    ordered = sorted(coverage.reasons.items(), key=lambda item: (-item[1], item[0]))
    found = [(count, reason) for reason, count in ordered]
    unexplained = coverage.not_compared - sum(coverage.reasons.values())
    return [*found, (unexplained, "no reason was recorded")] if unexplained > 0 else found


def max_abs(metrics: ErrorMetrics | None) -> float | None:
    """The largest absolute error, where one was measured."""
    return metrics.max_abs if metrics else None


def aligned_word(aligned: bool | None) -> str:
    """What became of one candidate or one sample: ``aligned``, ``diverged`` or ``not compared``."""
    if aligned is None:
        return "not compared"
    return "aligned" if aligned else "diverged"


def format_error(value: float | None) -> str:
    """An absolute error: three digits, an exact zero as ``0``, ``-`` when there is none."""
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.2e}"


def format_ratio(value: float | None) -> str:
    """A ratio or a level in dB, in at most seven characters."""
    if value is None:
        return "-"
    size = abs(value)
    if size >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.0f}" if size == 0 or size >= 1000 else f"{value:.1f}"


def format_plain(value: Any) -> str:
    """A setting or a version: text as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def one_line(text: str) -> str:
    """``text`` with control characters, line ends and unpaired surrogates as escapes.

    A name may hold anything; an escape sequence in it must not reach the terminal.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten_middle(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns: of a dotted path the end says most, then the start."""
    if display_width(text) <= width:
        return text
    if width <= 3:
        return "." * width
    head = (width - 3) // 3
    return f"{_fit(text, head)}...{_fit(text[::-1], width - 3 - head)[::-1]}"


def display_width(text: str) -> int:
    """Columns that a terminal gives to ``text``: two for wide characters, none for combining ones."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fit(text: str, width: int) -> str:
    used = 0
    for index, character in enumerate(text):
        used += _columns(character)
        if used > width:
            return text[:index]
    return text
