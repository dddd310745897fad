"""The formats of a report: a literal table from name to renderer."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from alignkit.errors import ReportError
from alignkit.records import ReportData
from alignkit.report.html import render_html
from alignkit.report.markdown import render_markdown
from alignkit.report.schema import report_to_json
from alignkit.report.table import render_csv
from alignkit.report.text import render_text


class Renderer(Protocol):
    """Turns a report into text; a pure function that writes no file."""

    def __call__(self, report: ReportData, /) -> str: ...


RENDERERS: Mapping[str, Renderer] = MappingProxyType(
    {
        "text": render_text,
        "csv": render_csv,
        "json": report_to_json,
        "html": render_html,
        "md": render_markdown,
    }
)


def resolve_renderer(name: str | Renderer) -> Renderer:
    """The renderer of that name; a renderer is returned as it is.

    Raises :class:`~alignkit.errors.ReportError` naming the known formats.
    """
    if not isinstance(name, str):
        return name
    if name not in RENDERERS:
        raise ReportError(f"no report format {name!r}; known: {', '.join(RENDERERS)}.")
    return RENDERERS[name]
