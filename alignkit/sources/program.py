"""Exported programs as a reference: an ``ExportedProgram``, in memory or from a ``.pt2`` file.

A program is unflattened into modules again, which take hooks like any others. ``torch.export.load``
reads a graph written as JSON; of the tensors and example inputs beside it torch unpickles no more
than ``weights_only=True`` allows.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from alignkit.errors import ModelError, first_line
from alignkit.marker import is_marking
from alignkit.standin import give_signature

Arguments = tuple[tuple[Any, ...], Mapping[str, Any]]


def open_program(program: ExportedProgram, *, check: bool = True) -> nn.Module:
    """The program's hierarchy of modules, called like the model that it was exported from.

    With ``check`` its inputs are held against the program's constraints. Raises :class:`ModelError`
    where torch cannot unflatten it.
    """
    try:
        with _quietly():
            module: Any = torch.export.unflatten(program)
            signature = inspect.signature(program.module(check_guards=False).forward)
    except Exception as error:  # of torch's own passes, which raise whatever they meet
        raise ModelError(
            f"the exported program cannot be unflattened: {type(error).__name__}: {first_line(error)}."
        ) from error
    module.alignkit_program = program
    kind = type(module)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        by_position, by_name = _as_exported(program, signature.bind(*args, **kwargs))
        return kind.forward(self, *by_position, **by_name)

    def copied(self: Any, memo: dict[int, Any]) -> nn.Module:
        # The modules hold fake tensors, which nothing can copy; the copy is not to check its dtypes.
        return open_program(program, check=False)

    def checks(self: Any) -> bool:
        return check and not is_marking()  # a tracer would warn of every size that is looked at

    own = {"forward": forward, "__deepcopy__": copied, "check_input_constraints": property(checks)}
    module.__class__ = type(kind.__name__, (kind,), own)
    give_signature(module, signature)
    # Flags mean nothing to a program: what they decided is part of its graph.
    return module.eval()  # type: ignore[no-any-return]


def open_program_file(path: Path) -> tuple[nn.Module, Arguments | None]:
    """The program in a ``.pt2`` file, and the example inputs stored with it, if any.

    Raises :class:`ModelError` where torch cannot load it.
    """
    try:
        with _quietly():
            program = torch.export.load(path)
    except Exception as error:  # a damaged file can raise anything at all in its parser
        raise ModelError(
            f"{path} cannot be loaded as an exported program ({type(error).__name__}: {first_line(error)}). "
            "Save it again with torch.export.save, with the torch that is installed here."
        ) from error
    return open_program(program), example_inputs(program)


def example_inputs(program: ExportedProgram) -> Arguments | None:
    """What the program was exported with, where it was kept."""
    if not program.example_inputs:
        return None
    args, kwargs = program.example_inputs
    return tuple(args), dict(kwargs)


@contextmanager
def _quietly() -> Iterator[None]:
    """Torch's own use of what torch has deprecated is no news to the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _as_exported(program: ExportedProgram, bound: inspect.BoundArguments) -> Arguments:
    """The arguments by position and by name as at the export: the program takes no others."""
    bound.apply_defaults()
    spec = program.module_call_graph[0].signature
    by_position, by_name = spec.in_spec.children() if spec is not None else (None, None)
    args: tuple[Any, ...] = bound.args
    kwargs: Mapping[str, Any] = bound.kwargs
    if by_position is None or by_name is None or len(args) + len(kwargs) == 0:
        return args, kwargs
    values = {**dict(zip(bound.arguments, args, strict=False)), **kwargs}
    count = by_position.num_children
    names = list(values)[count:]
    return (
        tuple(values.values())[:count],
        {name: values[name] for name in (by_name.context or ()) if name in names or name in values},
    )
