"""Obtain the files of a comparison: exported here, or given and marked where they hold no taps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from alignkit.arguments import named_arguments
from alignkit.errors import CompareError, ExportError
from alignkit.export import ExportResult, export_model
from alignkit.extract import read_marked
from alignkit.given import mark_given
from alignkit.graph import load_without_weights
from alignkit.instrument import Selection
from alignkit.isolation import run_isolated
from alignkit.progress import Progress
from alignkit.records import Capture, Tap
from alignkit.settings import Files, Sample, Settings


def obtain_files(
    model: nn.Module,
    example: Sample,
    sample: Sample,
    settings: Settings,
    first: Capture,
    folder: Path,
    deployed: Path | None,
    progress: Progress,
) -> Files:
    """The marked file and the plain one; a given file is the one or, with its values mapped, both.

    ``example`` is what is exported with, ``first`` the capture of ``sample``, the first that is compared
    on. New files are written to ``folder``. Raises :class:`ExportError`, and :class:`CompareError`
    for a given file in which no tap has a counterpart.
    """

    def map_taps(plain: Path) -> Files:
        with progress.stage("map taps"):
            return replace(mark_given(model, sample, first, plain, folder, settings), example=example)

    if deployed is None:
        return _export_files(model, example, settings, first.taps, folder, map_taps, progress)
    return Files(deployed, None, example=example) if holds_taps(deployed) else map_taps(deployed)


def _export_files(
    model: nn.Module,
    example: Sample,
    settings: Settings,
    known: Mapping[str, Tap],
    folder: Path,
    map_taps: Callable[[Path], Files],
    progress: Progress,
) -> Files:
    """The marked file and the plain one, which is mapped where no marked one can be had."""
    options = _named(model, example, settings)

    def prepare(
        path: Path, selection: Selection | None, known: Mapping[str, Tap] = known
    ) -> Callable[[], ExportResult]:
        call = partial(export_model, model, example.args, example.kwargs, path)
        return partial(call, exporter=settings.exporter, options=options, selection=selection, known=known)

    def export(path: Path, selection: Selection | None) -> ExportResult:
        call = prepare(path, selection)
        return run_isolated(call) if settings.isolate_export else call()

    def again(path: Path, selection: Selection, known: Mapping[str, Tap]) -> Path:
        # In this process: the same export went well before, and the runtime's threads, which by now
        # exist, do not survive a fork.
        return prepare(path, selection, known)().path

    # Each in a folder of its own: files of weights beside them may have the same names.
    marked_at, plain_at = folder / "with-taps" / "marked.onnx", folder / "as-deployed" / "plain.onnx"
    for path in (marked_at, plain_at):
        path.parent.mkdir()
    failure: ExportError | None = None
    with progress.stage("export with taps"):
        try:
            marked, selection, notes = _export_marked(export, marked_at, settings)
        except ExportError as error:
            failure = error
    with progress.stage("export as deployed"):
        plain = export(plain_at, None)
    if failure is not None:
        files = map_taps(plain.path)
        note = f"Exported without taps, which were mapped to the file's values, since {failure}"
        return replace(files, notes=(note, *files.notes, *_told(plain, settings)), plain_given=False)
    notes = (*notes, *_told(plain, settings))
    return Files(marked.path, plain.path, notes, example=example, again=again, selection=selection)


def export_plain(
    model: nn.Module, example: Sample, settings: Settings, path: Path, progress: Progress
) -> Path:
    """Export the model as it is deployed, without taps, to ``path``. Raises :class:`ExportError`."""
    call = partial(export_model, model, example.args, example.kwargs, path)
    call = partial(call, exporter=settings.exporter, options=_named(model, example, settings))
    with progress.stage("export as deployed"):
        return (run_isolated(call) if settings.isolate_export else call()).path


def _export_marked(
    export: Callable[[Path, Selection | None], ExportResult], path: Path, settings: Settings
) -> tuple[ExportResult, Selection, tuple[str, ...]]:
    """The marked file, the taps that it holds, and a note where those are coarser than asked for."""
    selection = settings.selection
    try:
        return _require_taps(export(path, selection), settings), selection, ()
    except ExportError as error:
        if selection.granularity != "op":
            raise
        coarser = replace(selection, granularity="module")
        note = f"Operations could not be tapped, modules were: {error}"
        return _require_taps(export(path, coarser), settings), coarser, (note,)


def _told(result: ExportResult, settings: Settings) -> list[str]:
    """What the exporter warned of, and what it silently did otherwise than asked."""
    notes = [f"The exporter warned: {warning}" for warning in result.warnings]
    asked = settings.export_options.get("opset_version")
    imports = load_without_weights(result.path).opset_import
    written = next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), asked)
    if asked not in (None, written):
        notes.append(f"Opset {asked} was asked for; the {settings.exporter} exporter wrote opset {written}.")
    return notes


def _require_taps(result: ExportResult, settings: Settings) -> ExportResult:
    if not holds_taps(result.path):
        raise ExportError(
            f"the {settings.exporter} exporter dropped every tap: it fell back to another way of "
            "tracing, most often since the forward uses a dynamic size as a constant. Compare with "
            "fixed shapes or with the other exporter."
        )
    return result


def holds_taps(path: Path) -> bool:
    """Whether the file at ``path`` was exported with taps. Raises :class:`OnnxFileError`."""
    try:
        read_marked(path)
    except CompareError:
        return False
    return True


def _named(model: nn.Module, example: Sample, settings: Settings) -> Mapping[str, Any]:
    """The export options, with input names for the exporter that would invent them."""
    options = settings.export_options
    if settings.exporter != "torchscript" or "input_names" in options:
        return options
    return {
        **options,
        "input_names": [name for name, _ in named_arguments(model, example.args, example.kwargs)],
    }
