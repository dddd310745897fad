"""A report as a folder: ``index.html``, ``layers.csv``, ``report.json`` and plots."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from alignkit.errors import ReportError
from alignkit.records import ReportData
from alignkit.report.html import render_html
from alignkit.report.plots import PLOT_NAMES, render_plots
from alignkit.report.schema import SCHEMA, report_from_json, report_to_json
from alignkit.report.table import render_csv

REPORT_FILE = "report.json"


def save_report(report: ReportData, folder: str | PathLike[str], *, force: bool = False) -> Path:
    """Write the report into ``folder``, which is created, and return that folder.

    All is rendered before anything is written, and every file gets its name only when it is
    complete. Without ``force`` only a new or an empty folder is written to. With it, an older
    report is replaced, plots that the new one lacks included; no other file is touched.

    Raises :class:`~alignkit.errors.ReportError` when ``folder`` is a file, is not empty or cannot
    be written to.
    """
    target = Path(folder)
    check_target(target, force)
    contents = _render_all(report)
    replaces = _is_ours(target)
    try:
        target.mkdir(parents=True, exist_ok=True)
        _write_all(target, contents)
        if replaces:
            for name in PLOT_NAMES - contents.keys():
                (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"cannot write the report to {target}: {_reason(error)}.") from error
    return target


def load_report(path: str | PathLike[str]) -> ReportData:
    """Read the ``report.json`` at ``path``, or in the folder ``path``.

    Raises :class:`~alignkit.errors.ReportError` when it is not there, cannot be read, or is not a
    report of a schema known here.
    """
    given = Path(path)
    try:
        file = given / REPORT_FILE if given.is_dir() else given
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = f"the folder holds no {REPORT_FILE}" if given.is_dir() else "there is no such file or folder"
        raise ReportError(f"no report at {given}: {hint}.") from error
    except OSError as error:
        raise ReportError(f"cannot read the report at {given}: {_reason(error)}.") from error
    except ValueError as error:
        raise ReportError(f"{given} is not a report: it is not UTF-8 text.") from error
    try:
        return report_from_json(text)
    except ReportError as error:
        raise ReportError(f"{given}: {error}") from error
    except RecursionError as error:
        raise ReportError(f"{given} is not a report: its JSON is nested too deeply.") from error


def check_target(target: Path, force: bool) -> None:
    """Whether :func:`save_report` may write to ``target``: asked before long work as well.

    Raises :class:`~alignkit.errors.ReportError` when it may not. Nothing is written.
    """
    try:
        if not target.exists():
            _check_parent(target)
            return
        if not target.is_dir():
            raise ReportError(f"cannot save the report to {target}: it is a file. Name a folder.")
        if not os.access(target, os.W_OK | os.X_OK):
            raise ReportError(
                f"cannot save the report to {target}: the folder is not writable. Name another."
            )
        if force or not any(target.iterdir()):
            return
    except OSError as error:
        raise ReportError(f"cannot save the report to {target}: {_reason(error)}.") from error
    if _is_ours(target):
        raise ReportError(
            f"{target} already holds a report. Name another folder, or replace it with --force (force=True)."
        )
    raise ReportError(
        f"{target} is not empty and holds no report. Name another folder, or add to it with --force "
        "(force=True)."
    )


def _check_parent(target: Path) -> None:
    """The folder that ``target`` would be made in, with folders of its own between where they lack."""
    parent = next(folder for folder in target.absolute().parents if os.path.lexists(folder))
    if not parent.is_dir():
        raise ReportError(f"cannot save the report to {target}: {parent} is a file. Name another folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ReportError(
            f"cannot save the report to {target}: {parent} is not writable. Name another folder."
        )


def _is_ours(folder: Path) -> bool:
    """Whether ``folder`` holds a report of our schema, damaged or not."""
    try:
        document = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("schema") == SCHEMA


def _render_all(report: ReportData) -> Mapping[str, bytes]:
    """File name -> content; ``report.json`` comes last, so that it stands for a complete folder."""
    return {
        "index.html": _encode(render_html(report)),
        "layers.csv": _encode(render_csv(report)),
        **render_plots(report),
        REPORT_FILE: _encode(report_to_json(report)),
    }


def _encode(text: str) -> bytes:
    # an unpaired surrogate in a name has no UTF-8 form; as "\\udc80" it is also what JSON calls it
    return text.encode("utf-8", errors="backslashreplace")


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    run = uuid.uuid4().hex
    temporary = {name: folder / f".{name}.{run}.tmp" for name in contents}
    try:
        for name, content in contents.items():
            with temporary[name].open("xb") as file:  # not mkstemp: its files are private to the user
                file.write(content)
        for name in contents:
            os.replace(temporary[name], folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
