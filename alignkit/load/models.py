"""From the model argument of the command line to an ``nn.Module``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignkit.errors import ModelError
from alignkit.load.arguments import split_arguments, with_tensors
from alignkit.load.objects import call_without_arguments, imported_object, type_of

if TYPE_CHECKING:
    from torch import nn

_RETURNS = "a model, (model, args) or (model, args, kwargs)"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model, and the arguments that came with it: both ``None`` where only a model was named."""

    model: nn.Module
    args: tuple[Any, ...] | None
    kwargs: dict[str, Any] | None
    origin: str


def load_model(spec: str) -> LoadedModel:
    """The model that ``spec`` names: ``package.module:attr`` or ``path/file.py:attr``.

    ``attr`` (dots allowed) is a module, a class to instantiate without arguments, or a factory that
    returns a model, ``(model, args)`` or ``(model, args, kwargs)``, where ``args`` is a tensor, a
    tuple of positional arguments or a dict of keyword arguments. A file is executed once per process,
    like an import. Raises :class:`ModelError`, in one line, for whatever goes wrong on the way.
    """
    from torch import nn  # before user code is importable: a file of theirs may be named like one of torch's

    with imported_object(spec, ModelError) as named:
        value = named
        if callable(named) and not isinstance(named, nn.Module):
            advice = "alignkit calls it without arguments: name a factory that builds the model"
            value = call_without_arguments(named, spec, ModelError, advice)
    if not isinstance(value, tuple):
        return LoadedModel(_require_module(value, spec), None, None, spec)
    if len(value) not in (2, 3):
        raise ModelError(f"{spec} gives a tuple of {len(value)}; return {_RETURNS}.")
    model = _require_module(value[0], spec)
    args, kwargs = _arguments(value[1], value[2] if len(value) == 3 else None, spec)
    return LoadedModel(model, args, kwargs, spec)


def _require_module(value: object, spec: str) -> nn.Module:
    from torch import nn

    if isinstance(value, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ModelError(
            f"{spec} is wrapped in {type(value).__name__}, which is not what is deployed; "
            "pass model.module, the model inside."
        )
    if isinstance(value, nn.Module):
        return value
    raise ModelError(f"{spec} gives {type_of(value)}, not an nn.Module; {_advice(value)}.")


def _advice(value: object) -> str:
    """What to do about the things most often given in place of a model."""
    if isinstance(value, Mapping):
        return "a state dict holds only weights: build the model and call load_state_dict"
    if value is None:
        return "does the factory return the model?"
    if type(value).__name__ == "ExportedProgram":
        return "name the module that it was exported from"
    return f"name a model, its class, or a factory that returns {_RETURNS}"


def _arguments(
    args: object, kwargs: object, spec: str
) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    if kwargs is None:
        if args is None:
            return None, None
        positional, named = split_arguments(args, f"args from {spec}", ModelError)
        return positional, named if isinstance(args, Mapping) else None
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise ModelError(
            f"kwargs from {spec} is {type_of(kwargs)}; return a dict of keyword arguments by name, or None."
        )
    if isinstance(args, Mapping):
        raise ModelError(f"args and kwargs from {spec} are both dicts; return one dict, or args as a tuple.")
    positional, _ = split_arguments(() if args is None else args, f"args from {spec}", ModelError)
    return positional, with_tensors(dict(kwargs), f"kwargs from {spec}", ModelError)
