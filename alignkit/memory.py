"""Memory that is used again: fresh memory can cost more than the arithmetic that fills it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Mapping
from functools import cache
from math import prod
from mmap import ACCESS_COPY, mmap
from typing import Any

import numpy as np

from alignkit.records import Array

_ALIGNMENT = 64  # bytes


@cache
def _trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Return to the system what was freed and the allocator keeps for later, where that is glibc's."""
    if (trim := _trim()) is not None:
        trim(0)


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
            self._memory = _ordinary_pages(size)
        return {name: _place(self._memory, start, *wanted[name]) for name, start in places.items()}


def _ordinary_pages(size: int) -> Array:
    """``size`` bytes. Numpy would ask Linux for huge pages: where none is left, they are put together first,
    which for 128 MiB took four times what filling ordinary pages does."""
    if not sys.platform.startswith("linux"):
        return np.empty(size, np.uint8)
    return np.frombuffer(mmap(-1, size, access=ACCESS_COPY), np.uint8)


def _room(shape: tuple[int, ...], dtype: Any) -> int:
    size: int = prod(shape) * np.dtype(dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _place(memory: Array, start: int, shape: tuple[int, ...], dtype: Any) -> Array:
    size = prod(shape) * np.dtype(dtype).itemsize
    placed: Array = memory[start : start + size].view(dtype).reshape(shape)
    return placed
