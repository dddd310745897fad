"""Memory for many arrays at a time.

Fresh memory can cost more than the arithmetic that fills it: where arrays lie together, the
operating system hands it out in large pages (numpy asks for them from 4 MiB on), and memory that is
used again costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from alignkit.records import Array

_ALIGNMENT = 64  # bytes
_BLOCK = 64 * 2**20  # bytes; of a block, only what is written to takes memory


class Buffers:
    """Memory that runs write their outputs to, one after the other: each overwrites the one before."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def arrays(self, wanted: Mapping[str, tuple[tuple[int, ...], Any]]) -> dict[str, Array]:
        """An array for each name -> (shape, dtype); its content is whatever was there."""
        places, size = {}, 0
        for name, (shape, dtype) in wanted.items():
            places[name], size = size, size + _room(shape, dtype)
        if size > self._memory.size:
            self._memory = np.empty(size, np.uint8)
        return {name: _place(self._memory, start, *wanted[name]) for name, start in places.items()}


class Blocks:
    """Memory for arrays that stay; a block of it is freed with the last of its arrays."""

    def __init__(self) -> None:
        self._block, self._used = np.empty(0, np.uint8), 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Like ``np.empty``."""
        size = _room(shape, dtype)
        if size > _BLOCK // 4:
            return np.empty(shape, dtype)
        if self._used + size > self._block.size:
            self._block, self._used = np.empty(_BLOCK, np.uint8), 0
        start, self._used = self._used, self._used + size
        return _place(self._block, start, shape, dtype)


def _room(shape: tuple[int, ...], dtype: Any) -> int:
    size: int = prod(shape) * np.dtype(dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _place(memory: Array, start: int, shape: tuple[int, ...], dtype: Any) -> Array:
    size = prod(shape) * np.dtype(dtype).itemsize
    placed: Array = memory[start : start + size].view(dtype).reshape(shape)
    return placed
