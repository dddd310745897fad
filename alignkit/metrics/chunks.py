"""Flat pieces of arrays, and the scratch memory that they are worked on in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from alignkit.metrics.dtypes import DType, dtype_kind
from alignkit.metrics.ordering import BitLayout, bit_layout
from alignkit.records import Array

CHUNK = 1 << 17
"""Elements per chunk: few enough for the scratch to stay in cache, enough to hide a numpy call."""

Pieces = Callable[[int, int], Array]
"""``(start, stop)`` -> those elements, in C order, as a 1-D array in native byte order."""


def pieces_of(array: Array) -> Pieces:
    """Pieces of an array of any layout; views where memory allows, else copies of single pieces."""
    native = array.dtype.newbyteorder("=")
    if array.flags.c_contiguous and array.flags.aligned and array.dtype == native:
        flat = array.reshape(-1)
        return lambda start, stop: flat[start:stop]
    return lambda start, stop: array.flat[start:stop].astype(native, copy=False)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a pair of dtypes is measured in.

    Sums are taken in ``wide`` (float64 or complex128). Quotients that only sort the elements into
    suspects and others are taken in ``screen``: float32 where the data has no more digits anyway.
    """

    kind: str
    wide: DType
    screen: DType
    layout: BitLayout | None  # None: no ULP distance
    exact_above_53_bits: bool  # integers that float64 may round


def arithmetic_for(reference: DType, candidate: DType) -> Arithmetic:
    """The arithmetic for two dtypes of one kind."""
    kind = dtype_kind(reference)
    itemsize = max(reference.itemsize, candidate.itemsize)
    wide = np.dtype(np.complex128 if kind == "complex" else np.float64)
    screen = np.dtype(np.float32 if kind == "float" and itemsize <= 4 else np.float64)
    layout = bit_layout(reference, candidate) if kind == "float" else None
    return Arithmetic(kind, wide, screen, layout, kind == "int" and itemsize == 8)


@dataclass(frozen=True, slots=True)
class Scratch:
    """Memory of one worker, each array as long as a chunk. Its contents hold within one chunk only.

    Nothing of a chunk's size is allocated while chunks are worked on: fresh pages cost more than the
    arithmetic that fills them. What shares memory serves steps that do not overlap.
    """

    reference: Array  # wide
    candidate: Array  # wide; then c - r
    error: npt.NDArray[np.float64]  # |c - r|; shares memory with ``candidate`` where that is real
    magnitude: Array  # |r|, of the screen's dtype, in which it is exact
    quotient: Array  # |c - r| / |r|, of the screen's dtype
    bound: npt.NDArray[np.float64]  # shares memory with ``reference``
    mask: npt.NDArray[np.bool_]
    bits: tuple[Array, ...]  # three for ULP distances, or none; share all memory but that of ``error``

    def first(self, size: int) -> Scratch:
        """The same memory, cut to a chunk of ``size`` elements."""
        if size == self.mask.size:
            return self
        return Scratch(
            self.reference[:size], self.candidate[:size], self.error[:size],
            self.magnitude[:size], self.quotient[:size], self.bound[:size],
            self.mask[:size], tuple(bits[:size] for bits in self.bits),
        )  # fmt: skip


def scratch_for(arithmetic: Arithmetic, size: int) -> Scratch:
    """Buffers for chunks of up to ``size`` elements, to be used again for each."""
    reference, candidate = np.empty(size, arithmetic.wide), np.empty(size, arithmetic.wide)
    magnitude, quotient = np.empty(size, arithmetic.screen), np.empty(size, arithmetic.screen)
    layout, free = arithmetic.layout, (quotient, magnitude, reference)
    return Scratch(
        reference=reference,
        candidate=candidate,
        error=np.empty(size) if arithmetic.kind == "complex" else candidate,
        magnitude=magnitude,
        quotient=quotient,
        bound=reference.view(np.float64)[:size],
        mask=np.empty(size, np.bool_),
        bits=() if layout is None else tuple(memory.view(layout.signed)[:size] for memory in free),
    )
