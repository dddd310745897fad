"""Memory that is used again: fresh memory can cost more than the arithmetic that fills it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from alignkit.records import Array

_ALIGNMENT = 64  # bytes


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


def _room(shape: tuple[int, ...], dtype: Any) -> int:
    size: int = prod(shape) * np.dtype(dtype).itemsize
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _place(memory: Array, start: int, shape: tuple[int, ...], dtype: Any) -> Array:
    size = prod(shape) * np.dtype(dtype).itemsize
    placed: Array = memory[start : start + size].view(dtype).reshape(shape)
    return placed
