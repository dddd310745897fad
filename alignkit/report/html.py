"""The interactive report: one HTML file that works offline and can ask the network for nothing.

``template.html``, ``report.css`` and the scripts of ``SCRIPTS`` lie beside this module and are
inlined. The content security policy in the file allows exactly these texts, by their hashes, and
forbids every request, so that no name in a report can run as code or load anything.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from alignkit.records import Culprit, LayerRow, ReportData
from alignkit.report.samples import sample_summary
from alignkit.report.schema import report_to_dict
from alignkit.report.sensitivity import sensitivity_advice
from alignkit.report.words import (
    cause_meaning,
    first_rows,
    how_to_address,
    module_type_of,
    operation_words,
    repro_command,
    share_words,
    symptom_of,
    verdict_line,
)

SCRIPTS = (
    "page_basics.js",  # the data, the page's state, elements and numbers
    "page_samples.js",  # of a data set: its samples, and a layer's figures over them
    "page_culprits.js",  # the verdict and a card per culprit
    "page_columns.js",  # the columns of the table of layers, and which of them fit
    "page_table.js",  # its head and the rows in view
    "page_filters.js",  # which rows, in which order, and which one is selected
    "page_detail.js",  # everything about the selected row
    "page_tree.js",  # the modules
    "page_chart.js",  # error by layer: axes and marks
    "page_series.js",  # error by layer: the three lines, pointer and zoom
    "page_candidates.js",  # several candidates, and the layers in which they differ
    "page_sensitivity.js",  # what each layer at lower precision costs
    "page_sections.js",  # outputs, coverage, timings, notes
    "page_router.js",  # deep links
    "page_keys.js",  # keys, theme, start
)
"""The page's script in parts by purpose, in this order; all see each other's names."""

_LARGEST_EXACT_IN_JS = 2**53
_WORST_VALUES = (
    "worst_reference",
    "worst_candidate",
    "introduced_worst_reference",
    "introduced_worst_candidate",
)


def render_html(report: ReportData) -> str:
    """The report as one HTML document; write it as UTF-8.

    The data is the document of ``report.json``, except that ``layers`` is a mapping from field name
    to a list with one value per row (a third of the size), that integers which JavaScript cannot
    hold exactly are strings among the worst values, and that ``verdict_line``, ``culprit_words``,
    ``sample_words`` and ``sensitivity_advice`` say what the other formats say in the same words.
    """
    style, script = _asset("report.css"), _script()
    rows = first_rows(report)
    words = [
        _culprit_words(culprit, rows.get(culprit.tap), module_type_of(report, culprit))
        for culprit in report.culprits
    ]
    data = {
        **_compact(report_to_dict(report)),
        "culprit_words": words,
        "sample_words": sample_summary(report) if report.samples else [],
        "sensitivity_advice": sensitivity_advice(report),
        "verdict_line": (line := verdict_line(report)),
    }
    return Template(_asset("template.html")).substitute(
        policy=_content_security_policy(style, script),
        verdict=_verdict_word(report, line),
        style=style,
        script=script,
        data=_script_safe_json(data),
    )


def _verdict_word(report: ReportData, line: str) -> str:
    """Of several candidates with the names of those it is about, which stay text."""
    if report.candidates:
        return html.escape(line.partition(": ")[0])
    return "ALIGNED" if report.aligned else "DIVERGED"


def _compact(document: Mapping[str, Any]) -> dict[str, Any]:
    layers = _columns(document["layers"])
    for name in _WORST_VALUES:
        layers[name] = [_exact(value) for value in layers.get(name, [])]
    return {**document, "layers": layers}


def _culprit_words(culprit: Culprit, row: LayerRow | None, module_type: str) -> dict[str, str]:
    symptom = symptom_of(culprit, row.verdict if row else None)
    return {
        "module_type": module_type,
        "operation": operation_words(culprit).replace("->", "→"),
        "meaning": cause_meaning(culprit.cause),
        "share": share_words(culprit.output_share),
        "symptom": symptom,
        "how_to": how_to_address(symptom) if symptom else "",
        "command": repro_command(culprit),
    }


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = rows[0].keys() if rows else ()
    return {name: [row[name] for row in rows] for name in names}


def _exact(value: Any) -> Any:
    """An int64 beyond 2**53 would lose its last digits in a browser, which may be all that differs."""
    too_large = isinstance(value, int) and abs(value) > _LARGEST_EXACT_IN_JS
    return str(value) if too_large else value


def _script_safe_json(document: Mapping[str, Any]) -> str:
    """JSON without a character that could end the ``<script>`` element it stands in.

    ``<``, ``>`` and ``&`` occur in strings only, where JSON allows their escaped form. All outside
    ASCII is escaped as well: the line separators U+2028 and U+2029, and lone surrogates in a name,
    which UTF-8 could not encode.
    """
    text = json.dumps(document, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _content_security_policy(style: str, script: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash_source(script)}'",
            f"style-src '{_hash_source(style)}'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash_source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


@cache
def _script() -> str:
    """The parts as one script whose names stay its own."""
    return "\n".join(['"use strict";', "(() => {", *map(_asset, SCRIPTS), "})();"])


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
