"""Aliasing: a value that takes another's place must stay tied to whoever holds the other.

Torch code writes in place: into a tensor, into its base, into a view of it. A visitor that hands
on a new tensor (a marked or substituted one) would cut such ties, and so change what is measured.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignkit.tensors import map_tensors, untraced, version_of


def put(value: Tensor, into: Tensor) -> None:
    """Write ``value`` into the tensor ``into``, which others hold.

    A write into a view reaches its base, and is traced. Any other tensor simply stands for
    ``value``'s node from now on: a traced ``copy_`` would add a Shape and an Expand.
    """
    if torch._C._is_tracing() and not into._is_view():
        rebind(value, into)
    else:
        into.copy_(value)


def rebind(value: Tensor, into: Tensor) -> None:
    """:func:`put` where the tracer need not hear of it: ``into``'s base, if any, is up to date."""
    if not torch._C._is_tracing():
        into.copy_(value)
        return
    with untraced():
        into.copy_(value)
    torch._C._set_value_trace(into, torch._C._get_value_trace(value))  # type: ignore[attr-defined]


@dataclass(slots=True)
class _Pair:
    """``copy`` took the place of ``original``; the versions are those at which they were equal."""

    original: Tensor
    copy: weakref.ref[Tensor]
    versions: tuple[int | None, int | None]


class Copies:
    """Copies that stand for views, or for tensors that somebody else holds as well.

    :meth:`sync` makes both sides equal again after a write into either, or into their memory.
    """

    def __init__(self) -> None:
        self._pairs: list[_Pair] = []

    def add(self, original: Tensor, copy: Tensor) -> None:
        """From now on the caller holds ``copy`` instead of ``original``."""
        versions = version_of(original), version_of(copy)
        self._pairs.append(_Pair(original, weakref.ref(copy), versions))

    def sync(self) -> None:
        """Carry writes over, those into copies first."""
        if not self._pairs:
            return
        held = [(pair, copy) for pair in self._pairs if (copy := pair.copy()) is not None]
        self._pairs = [pair for pair, _ in held]
        for pair, copy in held:
            if version_of(copy) != pair.versions[1]:
                put(copy, into=pair.original)
        for pair, copy in held:
            if version_of(pair.original) != pair.versions[0]:
                rebind(pair.original, into=copy)
            pair.versions = version_of(pair.original), version_of(copy)

    def settle(self, copy: Tensor) -> None:
        """``copy`` holds the same values as before under another name: nobody has written."""
        for pair in self._pairs:
            if pair.copy() is copy:
                pair.versions = version_of(pair.original), version_of(copy)

    def to_originals(self, tree: Any) -> Any:
        """``tree`` with every copy replaced by what it stands for: a function is about to write."""
        if not self._pairs:
            return tree
        known = {id(copy): pair.original for pair in self._pairs if (copy := pair.copy()) is not None}
        return map_tensors(lambda value: known.get(id(value), value), tree)

    def to_copies(self, tree: Any) -> Any:
        """The inverse of :meth:`to_originals`."""
        if not self._pairs:
            return tree
        known = {id(pair.original): copy for pair in self._pairs if (copy := pair.copy()) is not None}
        return map_tensors(lambda value: known.get(id(value), value), tree)
