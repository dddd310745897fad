"""The zoo's models as exported files."""

from __future__ import annotations

from pathlib import Path

import alignkit
from alignkit.export import export_model
from alignkit.selection import Selection
from tests.shared import shared_file
from tests.zoo.case import Built, Case
from tests.zoo.plain import export_plain


def export_built(built: Built, exporter: str, path: Path, selection: Selection | None = None) -> Path:
    """Export the model, with the taps of ``selection`` where there is one."""
    options = built.export_options.get(exporter, {})
    export_model(
        built.model, built.args, built.kwargs, path, exporter=exporter, options=options, selection=selection
    )
    return path


def plain_file(case: Case, exporter: str) -> Path:
    """The file as its user would export it, made without alignkit; to be read only."""
    return shared_file(
        f"{case.name}.{exporter}.plain", lambda path: export_plain(case.build(), exporter, path)
    )


def marked_file(case: Case, exporter: str) -> Path:
    """The same call in a debugger's context: the file with a tap at every module; to be read only."""
    return shared_file(f"{case.name}.{exporter}.marked", lambda path: _export_marked(case, exporter, path))


def _export_marked(case: Case, exporter: str, path: Path) -> None:
    built = case.build()
    with alignkit.Debugger(built.model):
        export_plain(built, exporter, path)
