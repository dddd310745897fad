"""From the input arguments of the command line to samples."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.errors import InputError
from alignkit.load.arguments import ModelInputs, require_tensor, split_arguments
from alignkit.load.files import read_file
from alignkit.load.objects import call_without_arguments, imported_object, names_attr, suggest, type_of

_POSITION = re.compile(r"(?:arg|arr_)(\d+)")


def load_inputs(sources: Sequence[str], *, names: Sequence[str] | None = None) -> list[ModelInputs]:
    """The samples that ``sources`` name, in order.

    A source is a file (``.npz``, ``.npy``, ``.safetensors`` or ``.pt``, told by its content): one
    sample. In it ``arg0``, ``arg1`` … (or numpy's ``arr_0`` …) are positional, every other name is a
    keyword argument. Or it is ``file.py:attr`` or ``package.module:attr``: a tensor, tuple or dict of
    keyword arguments, a list of those (several samples), or a callable that returns one of these.
    ``names``, where given, are the model's inputs in order: a sample that names another input, gives
    one twice or has too many is refused. Raises :class:`InputError` in one line.
    """
    samples = [sample for source in sources for sample in _load_source(source)]
    if names is not None:
        for sample in samples:
            check_names(sample, names)
    return samples


def _load_source(source: str) -> list[ModelInputs]:
    if os.path.isfile(source) and source.endswith(".py"):
        raise InputError(f"{source} is a Python file: say which attribute holds the inputs, {source}:attr.")
    if os.path.exists(source) or not names_attr(source):
        return [_sample_from_file(source)]
    return _samples_from_object(source)


def _sample_from_file(source: str) -> ModelInputs:
    value = read_file(Path(source))
    if isinstance(value, list):
        value = tuple(value)
    args, kwargs = split_arguments(value, source, InputError)
    if kwargs:
        args, kwargs = _by_position(kwargs, source)
    return require_tensor(ModelInputs(args, kwargs, source))


def _samples_from_object(spec: str) -> list[ModelInputs]:
    import torch

    with imported_object(spec, InputError) as named:
        value = named
        if isinstance(named, torch.nn.Module):
            raise InputError(f"{spec} is a model ({type_of(named)}), not inputs; name tensors or a function.")
        if callable(named):
            advice = "alignkit calls it without arguments, to get the inputs"
            value = call_without_arguments(named, spec, InputError, advice)
    if not isinstance(value, list):
        return [_sample_from_value(value, spec)]
    if not value:
        raise InputError(f"{spec} is empty: a list without samples; give at least one.")
    return [_sample_from_value(item, f"{spec}[{index}]") for index, item in enumerate(value)]


def _sample_from_value(value: object, origin: str) -> ModelInputs:
    args, kwargs = split_arguments(value, origin, InputError)
    return require_tensor(ModelInputs(args, kwargs, origin))


def _by_position(values: Mapping[str, Any], where: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``arg0``, ``arr_1`` … as positional arguments in order of their numbers, the rest by name."""
    positional: dict[int, str] = {}
    for name in values:
        if match := _POSITION.fullmatch(name):
            earlier = positional.setdefault(int(match[1]), name)
            if earlier != name:
                raise InputError(
                    f"{where} has position {match[1]} twice, {earlier!r} and {name!r}; keep one."
                )
    for position in range(len(positional)):
        if position not in positional:
            found = ", ".join(sorted(positional.values()))
            raise InputError(f"{where} has {found} but no arg{position}; count arguments up from 0.")
    args = tuple(values[positional[position]] for position in range(len(positional)))
    taken = set(positional.values())
    return args, {name: value for name, value in values.items() if name not in taken}


def check_names(sample: ModelInputs, names: Sequence[str]) -> None:
    """Raise :class:`InputError` where ``sample`` does not fit a model with the inputs ``names``, in order."""
    if len(sample.args) > len(names):
        raise InputError(
            f"{sample.origin} has {len(sample.args)} positional inputs but the model takes {len(names)} "
            f"({', '.join(names)}); leave out the rest."
        )
    for name in sample.kwargs:
        if name not in names:
            raise InputError(
                f"{sample.origin} has an input {name!r}, unknown to the model; {suggest(name, list(names))}"
            )
        if name in names[: len(sample.args)]:
            raise InputError(
                f"{sample.origin} gives {name!r} twice, by position and by name; leave out one of the two."
            )
