"""Sources: what the values to compare with come from, made into a module that the pipeline can call.

``kinds``      which kind a file is, by its content
``program``    an exported program, unflattened into modules that take hooks
``scripted``   TorchScript, whose copy is run with ``marks`` in its graph
``replayed``   an ONNX file in ONNX Runtime; a dump of a run elsewhere
``evaluated``  the float64 twin of an ONNX file
``fitting``    settings and samples as a source takes them

An ``nn.Module`` is its own source. Nothing is unpickled unless the caller says that the file is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.export import ExportedProgram

from alignkit.backends import OnnxRuntime
from alignkit.errors import ModelError, first_line
from alignkit.instrument import require_plain_module
from alignkit.sources.fitting import fit_samples
from alignkit.sources.kinds import Kind, kind_of
from alignkit.sources.program import example_inputs, open_program, open_program_file
from alignkit.sources.replayed import open_dump, open_onnx
from alignkit.sources.scripted import open_script, open_script_file

__all__ = ["Kind", "Opened", "fit_samples", "kind_of", "open_source"]


class Opened(NamedTuple):
    """A source as a module, and the arguments that it came with, where it did."""

    model: nn.Module
    inputs: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None


def open_source(source: Any, settings: OnnxRuntime | None = None, *, trust: bool = False) -> Opened:
    """``source`` as a module: an ``nn.Module`` itself, TorchScript, an ``ExportedProgram``, or a file.

    A file is TorchScript, a ``.pt2`` archive, an ONNX graph, a dump or, with ``trust`` alone, a pickled
    module. ``settings`` say how an ONNX file is run. Raises a subclass of :class:`AlignkitError`.
    """
    if isinstance(source, (str, PathLike)):
        return _open_file(Path(source), settings or OnnxRuntime(), trust)
    if isinstance(source, ExportedProgram):
        return Opened(open_program(source), example_inputs(source))
    if isinstance(source, torch.jit.ScriptModule):
        return Opened(open_script(source))
    if isinstance(source, torch.jit.ScriptFunction):
        raise ModelError("a scripted function has no module: script or trace an nn.Module that calls it.")
    require_plain_module(source)
    return Opened(source)


def _open_file(path: Path, settings: OnnxRuntime, trust: bool) -> Opened:
    if not path.is_file():
        raise ModelError(f"there is no file {path} (looked in {path.resolve().parent}). Check the path.")
    kind = kind_of(path)
    if kind is Kind.SCRIPT:
        return Opened(open_script_file(path))
    if kind is Kind.PROGRAM:
        return Opened(*open_program_file(path))
    if kind is Kind.DUMP:
        dumped = open_dump(path)
        return Opened(dumped, dumped.stored_inputs())
    if kind is Kind.ONNX:
        return Opened(open_onnx(path, settings))
    if kind is Kind.PICKLE:
        return Opened(_open_pickle(path, trust))
    raise ModelError(
        f"{path} is no model, going by its content: give TorchScript, a .pt2 archive, an ONNX file, "
        "a dump, or path/file.py:attr."
    )


def _open_pickle(path: Path, trust: bool) -> nn.Module:
    if not trust:
        raise ModelError(
            f"{path} is a pickle, and unpickling runs code from the file: give --trust (trust=True) if you "
            "know who made it, or save it with torch.jit.save or torch.export.save."
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the unpickled code raises
        raise ModelError(
            f"{path} cannot be unpickled ({type(error).__name__}: {first_line(error)}). The code "
            "of the module must be importable here."
        ) from error
    if isinstance(found, Mapping):
        raise ModelError(
            f"{path} holds a state dict, which is weights without a model: name the model that loads it "
            "(path/file.py:attr)."
        )
    return open_source(found).model if not isinstance(found, (str, PathLike)) else _refuse(path, found)


def _refuse(path: Path, found: object) -> nn.Module:
    raise ModelError(f"{path} holds a {type(found).__name__}, no model.")
