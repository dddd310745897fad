"""From a value to the arguments of one call of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignkit.errors import AlignkitError, InputError
from alignkit.load.objects import type_of

if TYPE_CHECKING:
    import torch

    from alignkit.records import Array


@dataclass(frozen=True, slots=True, eq=False)  # tensors have no single answer to ==
class ModelInputs:
    """One sample: the model is called as ``model(*args, **kwargs)``; ``origin`` says where it is from."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    origin: str


@dataclass(frozen=True, slots=True, eq=False)
class LazyInputs:
    """One sample that ``load`` makes when its turn comes, or whose InputError says why it cannot."""

    name: str
    load: Callable[[], ModelInputs]


def split_arguments(
    value: object, where: str, error_type: type[AlignkitError]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A tensor or tuple as positional arguments, a mapping with string keys as keyword arguments.

    Numpy arrays become tensors. Anything else raises ``error_type``.
    """
    import numpy as np
    import torch

    if isinstance(value, (torch.Tensor, np.ndarray)):
        return (with_tensors(value, where, error_type),), {}
    if isinstance(value, tuple):
        return with_tensors(tuple(value), where, error_type), {}
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise error_type(f"{where} has the key {strange[0]!r}; name keyword arguments with strings.")
        return (), with_tensors(dict(value), where, error_type)
    raise error_type(
        f"{where} is {type_of(value)}, not arguments for the model; "
        "give a tensor, a tuple of positional arguments or a dict of keyword arguments."
    )


def with_tensors(value: Any, where: str, error_type: type[AlignkitError]) -> Any:
    """``value`` with the numpy arrays in it, also in nested tuples, lists and dicts, made tensors.

    Containers of any other type (a key-value cache, say) are passed on as they are.
    """
    import numpy as np

    if isinstance(value, np.ndarray):
        return _to_tensor(value, where, error_type)
    if type(value) in (tuple, list):
        return type(value)(with_tensors(item, where, error_type) for item in value)
    if type(value) is dict:
        return {key: with_tensors(item, where, error_type) for key, item in value.items()}
    return value


def require_tensor(inputs: ModelInputs) -> ModelInputs:
    """``inputs``, or :class:`InputError` when no tensor is in them: comparing nothing proves nothing."""
    import torch
    from torch.utils._pytree import tree_leaves

    if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves((inputs.args, inputs.kwargs))):
        return inputs
    if not inputs.args and not inputs.kwargs:
        raise InputError(f"{inputs.origin} is empty: it holds no tensor; give at least one input.")
    raise InputError(f"{inputs.origin} holds no tensor; give the model's inputs as tensors or numpy arrays.")


def _to_tensor(array: Array, where: str, error_type: type[AlignkitError]) -> torch.Tensor:
    """A tensor of its own memory, so that read-only, reversed and big-endian arrays all work."""
    import torch

    native = array.dtype.newbyteorder("=")
    try:
        return torch.from_numpy(array.astype(native, order="C", copy=True))
    except TypeError as error:
        raise error_type(
            f"{where} has an array of dtype {array.dtype}, for which torch has no type; "
            "save numbers or booleans (bfloat16: in a .safetensors or .pt file)."
        ) from error
