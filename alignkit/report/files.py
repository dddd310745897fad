"""A report as a folder: ``index.html``, ``layers.csv``, ``report.json``, plots and repro bundles, and
``map.json`` where the taps had to be found in the file."""

from __future__ import annotations

import io
import json
import os
import re
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from alignkit.errors import ReportError
from alignkit.records import Array, ReportData
from alignkit.report.html import render_html
from alignkit.report.map_file import render_map
from alignkit.report.plots import PLOT_NAMES, render_plots
from alignkit.report.schema import SCHEMA, report_from_json, report_to_json
from alignkit.report.table import render_csv

REPORT_FILE = "report.json"
MAP_FILE = "map.json"
BUNDLE_FILES = frozenset(
    {
        *("segment.onnx", "inputs.npz", "expected.npz"),
        *("repro.py", "test_repro.py", "versions.json", "issue.md"),
    }
)
"""What a repro bundle may hold: with ``force``, those of an older report go, and no others."""

INPUT_FILES = ("example.npz", "worst_sample.npz", "worst_sample_candidate.npz")
"""Inputs that a report may keep: what was exported with, and the sample that it shows."""

_BUNDLE_FOLDER = re.compile(r"repro/[A-Za-z0-9_-]{1,100}")


def save_report(report: ReportData, folder: str | PathLike[str], *, force: bool = False) -> Path:
    """Write the report into ``folder``, which is created, and return that folder.

    All is rendered before anything is written, and every file gets its name only when it is
    complete. Without ``force`` only a new or an empty folder is written to. With it, an older
    report is replaced, plots and bundles that the new one lacks included; no other file is touched.

    Raises :class:`~alignkit.errors.ReportError` when ``folder`` is a file, is not empty or cannot
    be written to, and when a bundle has a name that is not one of this package's.
    """
    target = Path(folder)
    check_target(target, force)
    contents = _render_all(report)
    _check_folders(target, contents)
    outdated = _outdated(target, report, contents)
    try:
        _write_all(target, contents)
        for path in outdated:
            _remove(path, target)
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


def _check_folders(target: Path, contents: Mapping[str, bytes]) -> None:
    """Folders of bundles are real ones: through a link, files elsewhere would be replaced."""
    for name in contents:
        for folder in list((target / name).relative_to(target).parents)[:-1]:
            path = target / folder
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise ReportError(f"cannot save the report to {target}: {path} is in the way. Remove it.")


def _outdated(target: Path, report: ReportData, contents: Mapping[str, bytes]) -> list[Path]:
    """Files of the report in ``target`` that the new one lacks.

    A report that was loaded has no bundles or inputs of its own, but may still point at those in ``target``.
    """
    if not _is_ours(target):
        return []
    still = {culprit.repro for culprit in report.culprits if culprit.repro not in report.bundles}
    bundles = [folder for folder in _bundles_in(target) if folder not in still]
    kept = () if report.kept_inputs else report.settings.get("kept_inputs", ())
    inputs = set(INPUT_FILES).difference(kept)
    of_bundles = (f"{folder}/{name}" for folder in bundles for name in BUNDLE_FILES)
    names = {MAP_FILE, *PLOT_NAMES, *inputs, *of_bundles}
    return [target / name for name in sorted(names - contents.keys())]


def _bundles_in(target: Path) -> list[str]:
    """The bundles that the report in ``target`` points at; no folder that is none of ours, or a link."""
    try:
        culprits = load_report(target).culprits
    except ReportError:
        return []  # damaged: what it wrote is not known
    named = {culprit.repro for culprit in culprits if culprit.repro}
    folders = [name for name in sorted(named) if _BUNDLE_FOLDER.fullmatch(name)]
    return [
        name for name in folders if not (target / name).is_symlink() and not (target / "repro").is_symlink()
    ]


def _remove(path: Path, target: Path) -> None:
    """Remove a file, and the folders below ``target`` that are empty then."""
    path.unlink(missing_ok=True)
    folder = path.parent
    while folder != target and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def _is_ours(folder: Path) -> bool:
    """Whether ``folder`` holds a report of our schema, damaged or not."""
    try:
        document = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and document.get("schema") == SCHEMA


def _render_all(report: ReportData) -> Mapping[str, bytes]:
    """Path in the folder -> content; ``report.json`` comes last, so that it stands for all of it."""
    mapping = render_map(report)
    return {
        **_bundle_files(report),
        **({MAP_FILE: _encode(mapping)} if mapping is not None else {}),
        "index.html": _encode(render_html(report)),
        "layers.csv": _encode(render_csv(report)),
        **render_plots(report),
        **_kept_inputs(report),
        REPORT_FILE: _encode(report_to_json(report)),
    }


def _kept_inputs(report: ReportData) -> Mapping[str, bytes]:
    unknown = sorted(report.kept_inputs.keys() - set(INPUT_FILES))
    if unknown:
        raise ReportError(f"no file of inputs: {unknown[0]!r}; known: {', '.join(INPUT_FILES)}.")
    return {name: _npz(arrays) for name, arrays in report.kept_inputs.items()}


def _npz(arrays: Mapping[str, Array]) -> bytes:
    """As ``numpy.savez``, which has a parameter that an input could be named after."""
    from numpy.lib import format as npy

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                npy.write_array(member, array, allow_pickle=False)
    return content.getvalue()


def _bundle_files(report: ReportData) -> Mapping[str, bytes]:
    contents = {}
    for folder, bundle in report.bundles.items():
        if not _BUNDLE_FOLDER.fullmatch(folder):
            raise ReportError(
                f"no name for a repro bundle: {folder!r}. It is repro/ and letters, digits, _ or -."
            )
        unknown = sorted(bundle.keys() - BUNDLE_FILES)
        if unknown:
            raise ReportError(
                f"no file of a repro bundle: {unknown[0]!r}; known: {', '.join(sorted(BUNDLE_FILES))}."
            )
        contents.update({f"{folder}/{name}": content for name, content in bundle.items()})
    return contents


def _encode(text: str) -> bytes:
    # an unpaired surrogate in a name has no UTF-8 form; as "\\udc80" it is also what JSON calls it
    return text.encode("utf-8", errors="backslashreplace")


def _write_all(target: Path, contents: Mapping[str, bytes]) -> None:
    run = uuid.uuid4().hex
    final = {name: target / name for name in contents}
    temporary = {name: path.with_name(f".{path.name}.{run}.tmp") for name, path in final.items()}
    with _made_folders(dict.fromkeys([target, *(path.parent for path in final.values())])):
        try:
            for name, content in contents.items():
                with temporary[name].open("xb") as file:  # not mkstemp: its files are private to the user
                    file.write(content)
            for name in contents:
                os.replace(temporary[name], final[name])
        finally:
            for path in temporary.values():
                path.unlink(missing_ok=True)


@contextmanager
def _made_folders(folders: Iterable[Path]) -> Iterator[None]:
    """Make what lacks of ``folders``, and take it back, where it is empty, when the block fails."""
    made = []
    try:
        for folder in folders:
            for path in (*reversed(folder.parents), folder):
                if not path.exists():
                    path.mkdir(exist_ok=True)
                    made.append(path)
        yield
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):  # something lies in it by now
                path.rmdir()
        raise


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
