"""The report as GitHub-flavoured Markdown, short enough for an issue or a review comment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from alignkit.records import ROOT, Culprit, ReportData
from alignkit.report.words import (
    LAYER_HEADER,
    OUTPUT_HEADER,
    coverage_reasons,
    format_plain,
    layer_cells,
    one_line,
    output_cells,
    verdict_line,
    worst_layers,
)

_TAME = re.compile(r"[\w .:;,/#()\[\]{}+*=~^%!?'\"$@-]+")
_HTML = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
_CODE = {**_HTML, **{ord(c): f"&#{ord(c)};" for c in "|`\\"}}


def render_markdown(report: ReportData, *, limit: int = 5) -> str:
    """Verdict, culprits, the ``limit`` worst layers, outputs and coverage.

    Names are code, all other text is escaped: nothing in the report becomes markup, a mention or
    a link to an issue.
    """
    word, _, rest = verdict_line(report).partition(": ")
    blocks = [
        f"### alignkit: {word}\n\n{escape(rest[:1].upper() + rest[1:])}",
        *(_culprit(culprit) for culprit in report.culprits[:1]),
        *_further(report.culprits[1:]),
        *_layers(report, limit),
        *_outputs(report),
        *_coverage(report),
        *_run(report),
    ]
    return "\n\n".join(blocks) + "\n"


def escape(text: str) -> str:
    """``text`` as one line of prose in which nothing is markup, also inside a table."""
    escaped = re.sub(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))", r"\\\1", one_line(text).strip())
    escaped = re.sub(r"^(\d*)([-+#=.)])", r"\1\\\2", escaped)  # no list, heading or rule at its start
    escaped = escaped.translate(_HTML)
    return re.sub(r"([@#])(?=\w)", r"\1<!-- -->", escaped)  # neither "@name" nor "#12" becomes a link


def code(text: str) -> str:
    """``text`` as code; with HTML's ``<code>`` where backticks could not hold it in a table."""
    line = one_line(text)
    if _TAME.fullmatch(line) and line.strip() == line:
        return f"`{line}`"
    return f"<code>{line.translate(_CODE)}</code>" if line else "-"


def _culprit(culprit: Culprit) -> str:
    facts = [
        ("module", code(culprit.module or ROOT)),
        ("tap", code(culprit.tap)),
        ("op", code(culprit.op)),
        ("cause", f"{escape(culprit.cause)} ({escape(culprit.confidence)} confidence)"),
        ("source", code(culprit.source or "")),
        ("ONNX nodes", ", ".join(map(code, culprit.onnx_nodes)) or "-"),
    ]
    lines = [f"- **{label}**: {value}" for label, value in facts if value != "-"]
    if culprit.evidence:
        lines += ["- **evidence**:", *(f"  - {escape(item)}" for item in culprit.evidence)]
    if culprit.advice:
        lines.append(f"- **advice**: {escape(culprit.advice)}")
    return "\n".join(lines)


def _further(culprits: Sequence[Culprit]) -> Iterator[str]:
    if culprits:
        rows = [
            (code(c.tap), code(c.op), escape(c.cause), escape(c.confidence), code(c.source or ""))
            for c in culprits
        ]
        yield "**Further culprits**\n\n" + _table(("tap", "op", "cause", "confidence", "source"), rows)


def _layers(report: ReportData, limit: int) -> Iterator[str]:
    cells = [layer_cells(row) for row in worst_layers(report, limit)]
    if cells:
        rows = [(code(tap), escape(module_type), *rest) for tap, module_type, *rest in cells]
        yield "**Worst layers**\n\n" + _table(LAYER_HEADER, rows)


def _outputs(report: ReportData) -> Iterator[str]:
    cells = [output_cells(row) for row in report.outputs]
    if cells:
        yield "**Outputs**\n\n" + _table(OUTPUT_HEADER, [(code(name), *rest) for name, *rest in cells])


def _coverage(report: ReportData) -> Iterator[str]:
    coverage = report.coverage
    yield f"**Coverage**: {coverage.compared} of {coverage.compared + coverage.not_compared} taps compared"
    reasons = [f"- {count} not compared: {escape(reason)}" for count, reason in coverage_reasons(report)]
    if reasons:
        yield "\n".join(reasons)
    if report.notes:
        yield "**Notes**\n\n" + "\n".join(f"- {escape(note)}" for note in report.notes)


def _run(report: ReportData) -> Iterator[str]:
    pairs = [*report.environment.items(), *report.settings.items()]
    items = [f"{escape(str(key))} {code(format_plain(value))}" for key, value in pairs if value is not None]
    if items:
        yield "<details><summary>Versions and settings</summary>\n\n" + ", ".join(items) + "\n\n</details>"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
