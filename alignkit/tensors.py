"""Torch tensors: inside nested arguments and results, and to numpy and back.

``torch.utils._pytree`` knows the containers that torch and transformers register; a dataclass
that nobody registered is opened by its fields here.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.utils import _pytree as pytree

from alignkit.records import Array


def tensor_leaves(tree: Any) -> list[Tensor]:
    """The tensors of ``tree``, in flattening order."""
    return [leaf for _, leaf in labelled_leaves(tree)]


def labelled_leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """The tensors of ``tree``, in flattening order, each with the keys that lead to it."""
    if isinstance(tree, Tensor):  # as most results are, and flattening takes its time
        yield (), tree
        return
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        keys = tuple(_key_text(key) for key in path)
        if isinstance(leaf, Tensor):
            yield keys, leaf
        elif _is_open_dataclass(leaf):
            for field in dataclasses.fields(leaf):
                for inner, value in labelled_leaves(getattr(leaf, field.name, None)):
                    yield (*keys, field.name, *inner), value


def tensor_places(tree: Any) -> list[int]:
    """The place of each tensor of ``tree`` among all its leaves, ``None`` and numbers included."""
    places: list[int] = []
    count = 0
    for leaf in pytree.tree_leaves(tree):
        tensors = len(tensor_leaves(leaf))
        places += range(count, count + tensors)
        count += max(1, tensors)
    return places


def _key_text(key: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """``tree`` with ``function`` applied to each tensor; ``tree`` itself where nothing changed.

    Returning the same object when no tensor changed keeps identity checks in user code true and
    never rebuilds a container whose constructor has side effects.
    """
    if isinstance(tree, Tensor):
        return function(tree)
    leaves, spec = pytree.tree_flatten(tree)
    mapped = [_map_leaf(function, leaf) for leaf in leaves]
    if all(new is old for new, old in zip(mapped, leaves, strict=True)):
        return tree
    return pytree.tree_unflatten(mapped, spec)


def _map_leaf(function: Callable[[Tensor], Tensor], leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return function(leaf)
    if not _is_open_dataclass(leaf):
        return leaf
    values = {f.name: getattr(leaf, f.name, None) for f in dataclasses.fields(leaf) if f.init}
    mapped = {name: map_tensors(function, value) for name, value in values.items()}
    changed = {name: value for name, value in mapped.items() if value is not values[name]}
    return dataclasses.replace(leaf, **changed) if changed else leaf


def _is_open_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def to_numpy(value: Tensor, *, copy: bool = True) -> Array:
    """On the CPU, row-major; bfloat16 keeps its bits as ``ml_dtypes.bfloat16``.

    Without ``copy`` the array may share the tensor's memory.
    """
    with untraced():
        return _to_numpy(value, copy)


@contextmanager
def untraced() -> Iterator[None]:
    """Leave no trace in the graph that ``torch.jit.trace`` may be recording."""
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def _to_numpy(value: Tensor, copy: bool) -> Array:
    host = value.detach().to("cpu", copy=copy).contiguous().resolve_conj().resolve_neg()
    if host.dtype is torch.bfloat16:
        return host.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return host.numpy()


def to_torch(value: Array, like: Tensor, *, copy: bool = True) -> Tensor:
    """``value`` as a tensor of ``like``'s device; the dtype is the array's own.

    Without ``copy`` it shares the array's memory, and is to be read alone.
    """
    narrow = value.dtype == ml_dtypes.bfloat16
    value = value.view(np.int16) if narrow else value
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(value.copy() if copy else value)
    return (tensor.view(torch.bfloat16) if narrow else tensor).to(like.device)


def version_of(value: Tensor) -> int | None:
    """Torch's count of writes into ``value`` and what shares its memory; inference tensors keep none."""
    return None if value.is_inference() else value._version


def unrecordable(value: Tensor) -> str:
    """Why ``value`` cannot be held as an array; empty when it can."""
    if value.is_meta or isinstance(value, (FakeTensor, FunctionalTensor)):
        return "a tensor without data has no array"
    if value.is_nested:
        return "a nested tensor has no array"
    if value.layout is not torch.strided:
        return f"a {str(value.layout).removeprefix('torch.')} tensor has no dense array"
    if value.is_quantized:
        return "a quantized tensor has no array"
    return ""
