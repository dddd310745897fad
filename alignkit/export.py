"""Export: call an exporter, on the tapped model or the plain one.

The exporters' own options pass through untouched. Their failures become :class:`ExportError`,
their tracer warnings become notes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from alignkit.errors import AlignkitError, ExportError
from alignkit.instrument import Instrument, Selection
from alignkit.marker import can_mark, is_marking, mark_value
from alignkit.records import Tap
from alignkit.standin import StandIn
from alignkit.untouched import model_untouched

Exporter = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any], Path, Mapping[str, Any]], None]


def _export_dynamo(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    path: Path,
    options: Mapping[str, Any],
) -> None:
    torch.onnx.export(model, args, path, kwargs=dict(kwargs), **{"dynamo": True, "verbose": False, **options})


def _export_torchscript(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    path: Path,
    options: Mapping[str, Any],
) -> None:
    torch.onnx.export(
        # This exporter turns even an empty dict into a positional argument.
        model,
        args,
        str(path),
        kwargs=dict(kwargs) or None,
        **{"dynamo": False, "verbose": False, **options},
    )


EXPORTERS: dict[str, Exporter] = {"dynamo": _export_dynamo, "torchscript": _export_torchscript}


def resolve_exporter(name: str) -> Exporter:
    """The exporter of that name; :class:`ExportError` lists what is known."""
    try:
        return EXPORTERS[name]
    except KeyError:
        raise ExportError(f"no exporter {name!r}; known: {', '.join(EXPORTERS)}.") from None


@dataclass(frozen=True, slots=True)
class ExportResult:
    """Where the file is, and what the exporter warned about (unique, in order)."""

    path: Path
    warnings: tuple[str, ...]


class Marker:
    """Visitor that puts ``my::Debug`` behind every tap while an exporter traces the model."""

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        return mark_value(value, str(tap.id)) if is_marking() and can_mark(value) else value


def export_model(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    path: Path,
    *,
    exporter: str,
    options: Mapping[str, Any],
    selection: Selection | None = None,
    known: Mapping[str, Tap] | None = None,
) -> ExportResult:
    """Write ``model`` to ``path``; with a ``selection`` its taps are marked.

    ``known`` are the taps of an eager capture: operations get the names that they have there, even
    where the export runs other branches, and those that are not there stay unmarked.

    The model's training flags and buffers and the RNG are afterwards as before. Raises
    :class:`ExportError` with the exporter's own reason.
    """
    call = resolve_exporter(exporter)
    with contextlib.ExitStack() as stack:
        stack.enter_context(model_untouched(model))
        caught = stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter("always")
        # The exporters print progress, and on failure a report, to both streams.
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(_quiet_loggers())
        if selection is not None:
            stack.enter_context(Instrument(model, selection, Marker(), known=known))
        try:
            target: Any = model
            if isinstance(model, StandIn):
                target, args, kwargs = model.to_export(args, kwargs, selection)
            call(target, args, kwargs, path, options)
        except AlignkitError:
            raise
        except Exception as error:
            raise ExportError(
                f"the {exporter} exporter failed: {explain(error)}. Try the other exporter, or another opset."
            ) from error
    return ExportResult(path, _tracer_warnings(caught))


@contextlib.contextmanager
def _quiet_loggers() -> Iterator[None]:
    """The exporters' own progress notes, which bypass redirected streams."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_MOST_LINES = 4


def explain(error: BaseException) -> str:
    """One line that holds an exporter's reason: the innermost cause and its first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else "(no message)"
    for line in lines[1:_MOST_LINES]:
        if not text.endswith(":"):
            break
        text = f"{text} {line}"  # what it announces is the reason
    return f"{type(error).__name__}: {text}"


def _tracer_warnings(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    tracer = [w for w in caught if issubclass(w.category, TracerWarning)]
    lines = [f"{Path(w.filename).name}:{w.lineno}: {str(w.message).splitlines()[0]}" for w in tracer]
    return tuple(dict.fromkeys(lines))
