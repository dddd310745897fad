"""From the input arguments of the command line to samples."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignkit.errors import AlignkitError, InputError
from alignkit.load.arguments import ModelInputs, require_tensor, split_arguments
from alignkit.load.files import read_file
from alignkit.load.objects import (
    call_without_arguments,
    describe_error,
    imported_object,
    names_attr,
    suggest,
    type_of,
)

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
    if is_file(source):
        return [sample_from_file(source)]
    found = samples_of_object(source)
    return list(walk_object(source)) if found is None else found


def is_file(source: str) -> bool:
    """Whether ``source`` is a file, or would be one, and not the name of an object."""
    if os.path.isfile(source) and source.endswith(".py"):
        raise InputError(f"{source} is a Python file: say which attribute holds the inputs, {source}:attr.")
    return os.path.exists(source) or not names_attr(source)


def sample_from_file(source: str) -> ModelInputs:
    """The one sample that a file holds."""
    value = read_file(Path(source))
    if isinstance(value, list):
        value = tuple(value)
    args, kwargs = split_arguments(value, source, InputError)
    if kwargs:
        args, kwargs = _by_position(kwargs, source)
    return require_tensor(ModelInputs(args, kwargs, source))


def rows_of(source: str) -> Iterator[ModelInputs]:
    """The samples that the first axis of the arrays in a file counts, each with a first axis of size 1."""
    import torch

    whole = sample_from_file(source)
    arrays = [*whole.args, *whole.kwargs.values()]
    if strange := next((one for one in arrays if not isinstance(one, torch.Tensor) or not one.ndim), None):
        kind = "a scalar" if isinstance(strange, torch.Tensor) else type_of(strange)
        raise InputError(f"{source} holds {kind}, which has no first axis to split; split arrays only.")
    counts = sorted({len(array) for array in arrays})
    if len(counts) > 1:
        raise InputError(
            f"{source} holds arrays of {' and '.join(map(str, counts))} along their first axes; "
            "to be split they must have the same number of samples."
        )
    for row in range(counts[0]):
        here = slice(row, row + 1)
        kwargs = {name: array[here] for name, array in whole.kwargs.items()}
        yield ModelInputs(tuple(array[here] for array in whole.args), kwargs, f"{source}[{row}]")


def samples_of_object(spec: str) -> list[ModelInputs] | None:
    """The samples of ``file.py:attr``; None where those are made one by one: see :func:`walk_object`."""
    with _inputs_object(spec) as value:
        if isinstance(value, Iterator):
            return None
        if not isinstance(value, list):
            return [_sample_from_value(value, spec)]
        if not value:
            raise InputError(f"{spec} is empty: a list without samples; give at least one.")
        return [_sample_from_value(item, f"{spec}[{index}]") for index, item in enumerate(value)]


def names_iterator(spec: str) -> bool:
    """Whether ``file.py:attr`` is an iterator itself, which can be walked through only once."""
    from alignkit.load.objects import imported_object

    with imported_object(spec, InputError) as named:
        return isinstance(named, Iterator)


def walk_object(spec: str) -> Iterator[ModelInputs]:
    """The samples of an iterator that ``file.py:attr`` is or returns, one after the other."""
    with _inputs_object(spec) as value:
        index = -1
        try:
            for index, item in enumerate(value if isinstance(value, Iterator) else ()):
                yield _sample_from_value(item, f"{spec}[{index}]")
        except AlignkitError:
            raise
        except Exception as error:  # of the user's own code
            told = f"{spec} raised {describe_error(error)} after {index + 1} samples"
            raise InputError(f"{told}; what comes behind was not read.") from error
        if index < 0:
            raise InputError(f"{spec} is empty: an iterator without samples; name a function that makes one.")


@contextmanager
def _inputs_object(spec: str) -> Iterator[object]:
    """What ``spec`` names, or returns when called."""
    import torch

    with imported_object(spec, InputError) as named:
        if isinstance(named, torch.nn.Module):
            raise InputError(f"{spec} is a model ({type_of(named)}), not inputs; name tensors or a function.")
        advice = "alignkit calls it without arguments, to get the inputs"
        yield call_without_arguments(named, spec, InputError, advice) if callable(named) else named


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
