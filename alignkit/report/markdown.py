"""The report as GitHub-flavoured Markdown, short enough for an issue or a review comment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from alignkit.records import ROOT, Culprit, Experiment, LayerRow, ReportData
from alignkit.report.candidates import candidate_listing, shown_candidate
from alignkit.report.layers import layer_listing, output_listing, worst_layers
from alignkit.report.listing import Kind, Listing
from alignkit.report.samples import (
    listed_samples,
    listed_spreads,
    sample_listing,
    sample_reasons,
    sample_summary,
    spread_listing,
)
from alignkit.report.sensitivity import sensitivity_advice, sensitivity_listing, sensitivity_title
from alignkit.report.words import (
    cause_meaning,
    coverage_reasons,
    first_rows,
    format_error,
    format_plain,
    how_to_address,
    module_type_of,
    one_line,
    repro_command,
    share_words,
    symptom_of,
    verdict_line,
)

_OPEN_CULPRITS = 3

_EXPERIMENT_COLUMNS = {"experiment": Kind.PROSE, "error": Kind.FIGURE, "reading": Kind.PROSE}

_TAME = re.compile(r"[\w .:;,/#()\[\]{}+*=~^%!?'\"$@-]+")
_HTML = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
_CODE = {**_HTML, **{ord(c): f"&#{ord(c)};" for c in "|`\\"}}


def render_markdown(report: ReportData, *, limit: int = 5) -> str:
    """Verdict, every culprit, the ``limit`` worst layers, outputs and coverage.

    Names are code, all other text is escaped: nothing in the report becomes markup, a mention or
    a link to an issue.
    """
    word, _, rest = verdict_line(report).partition(": ")
    blocks = [
        f"### alignkit: {escape(word)}\n\n{escape(rest[:1].upper() + rest[1:])}",
        *_candidates(report),
        *_samples(report, limit),
        *_culprits(report),
        *_sensitivity(report),
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


def html_text(text: str) -> str:
    """``text`` as one line inside an HTML element, in which nothing is markup."""
    return one_line(text).translate(_CODE)


def code(text: str) -> str:
    """``text`` as code; with HTML's ``<code>`` where backticks could not hold it in a table."""
    line = one_line(text)
    if _TAME.fullmatch(line) and line.strip() == line:
        return f"`{line}`"
    return f"<code>{html_text(text)}</code>" if line else "-"


def _candidates(report: ReportData) -> Iterator[str]:
    if not report.candidates:
        return
    yield "**Candidates side by side**\n\n" + _table(candidate_listing(report))
    reasons = [f"- {code(row.name)}: {escape(row.reason)}" for row in report.candidates if row.reason]
    if reasons:
        yield "\n".join(reasons)
    yield f"The rest is of {code(shown_candidate(report))}."


def _samples(report: ReportData, limit: int) -> Iterator[str]:
    """Of a data set: what became of its samples, and where they differ."""
    if not report.samples:
        return
    told = [*sample_summary(report), *sample_reasons(report.samples)]
    yield "**Samples**\n\n" + "\n".join(f"- {escape(sentence)}" for sentence in told)
    if rows := listed_samples(report, limit):
        yield _table(sample_listing(rows))
    if spreads := listed_spreads(report, limit):
        yield "**Layers over all samples**\n\n" + _table(spread_listing(spreads))


def _culprits(report: ReportData) -> Iterator[str]:
    """Each culprit in full, but folded up behind the first few."""
    rows, total = first_rows(report), len(report.culprits)
    for index, culprit in enumerate(report.culprits, 1):
        title = f"Culprit {index} of {total}" if total > 1 else "Culprit"
        body = "\n\n".join(_culprit(culprit, rows.get(culprit.tap), module_type_of(report, culprit)))
        if index <= _OPEN_CULPRITS:
            yield f"**{title}**\n\n{body}"
        else:
            module = html_text(culprit.module or ROOT)
            yield f"<details><summary>{title}: <code>{module}</code></summary>\n\n{body}\n\n</details>"


def _culprit(culprit: Culprit, row: LayerRow | None, module_type: str) -> Iterator[str]:
    yield "\n".join(_facts(culprit, module_type))
    if culprit.experiments:
        yield _table(Listing(_EXPERIMENT_COLUMNS, [_experiment_cells(e) for e in culprit.experiments]))
    symptom = symptom_of(culprit, row.verdict if row else None)
    how_to = f"See [{symptom}]({how_to_address(symptom)})." if symptom else ""
    advice = [part for part in (escape(culprit.advice), how_to) if part]
    command = repro_command(culprit)
    then = [
        ("cost", escape(share_words(culprit.output_share))),
        ("advice", " ".join(advice)),
        ("repro", f"{code(command)} in the report's folder" if command else ""),
    ]
    lines = [f"- **{label}**: {value}" for label, value in then if value]
    if lines:
        yield "\n".join(lines)


def _facts(culprit: Culprit, module_type: str) -> Iterator[str]:
    meaning = cause_meaning(culprit.cause)
    cause = f"{escape(culprit.cause)} ({escape(culprit.confidence)} confidence)"
    facts = [
        ("module", f"{code(culprit.module or ROOT)} {escape(module_type)}".rstrip()),
        ("tap", code(culprit.tap)),
        ("source", _codes(": ", culprit.source, culprit.source_line)),
        ("operation", _codes(" → ", culprit.operation, culprit.op)),
        ("ONNX nodes", _codes(", ", *culprit.onnx_nodes)),
        ("cause", f"{cause}: {meaning}" if meaning else cause),
    ]
    yield from (f"- **{label}**: {value}" for label, value in facts if value)
    if culprit.evidence:
        yield "- **evidence**:"
        yield from (f"  - {escape(item)}" for item in culprit.evidence)


def _codes(glue: str, *texts: str | None) -> str:
    return glue.join(code(text) for text in texts if text)


def _experiment_cells(experiment: Experiment) -> tuple[str, ...]:
    return experiment.name, format_error(experiment.error), experiment.reading


def _layers(report: ReportData, limit: int) -> Iterator[str]:
    if rows := worst_layers(report, limit):
        yield "**Worst layers**\n\n" + _table(layer_listing(rows))


def _sensitivity(report: ReportData) -> Iterator[str]:
    if report.sensitivity:
        yield f"**{escape(sensitivity_title(report))}**\n\n" + _table(sensitivity_listing(report))
    if advice := sensitivity_advice(report):
        yield escape(advice)


def _outputs(report: ReportData) -> Iterator[str]:
    if report.outputs:
        yield "**Outputs**\n\n" + _table(output_listing(report.outputs))


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


def _table(listing: Listing) -> str:
    kinds = list(listing.columns.values())
    rows = [[_cell(text, kinds[column]) for column, text in enumerate(row)] for row in listing.rows]
    lines = [list(listing.columns), ["---"] * len(kinds), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str, kind: Kind) -> str:
    if text == "-":
        return text
    return code(text) if kind is Kind.NAME else escape(text) if kind is Kind.PROSE else text
