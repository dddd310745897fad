"""Flat pieces of arrays, and the scratch memory that they are worked on in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from alignkit.memory import Buffers
from alignkit.metrics.dtypes import DType, dtype_kind
from alignkit.metrics.ordering import BitLayout, bit_layout
from alignkit.records import Array

CHUNK = 1 << 16
"""Elements per chunk: few enough for the scratch to stay in a core's own cache, enough to hide a call."""

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


@cache
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
    """Memory to work in, each array as long as a chunk. Its contents hold within one chunk only.

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


_SPARES = 4
_SPARE: dict[Arithmetic, list[Scratch]] = {}
"""Scratch that nobody works in at the moment, a megabyte or two each."""


@contextmanager
def scratch_for(arithmetic: Arithmetic, size: int) -> Iterator[Scratch]:
    """Scratch for chunks of ``size`` elements, :data:`CHUNK` at most; its memory is kept for others."""
    spare = _SPARE.setdefault(arithmetic, [])
    try:
        scratch = spare.pop()
    except IndexError:
        scratch = _make_scratch(arithmetic)
    yield scratch.first(size)
    if len(spare) < _SPARES:
        spare.append(scratch)


def _make_scratch(arithmetic: Arithmetic) -> Scratch:
    memory = Buffers().arrays(
        {
            "reference": ((CHUNK,), arithmetic.wide),
            "candidate": ((CHUNK,), arithmetic.wide),
            "magnitude": ((CHUNK,), arithmetic.screen),
            "quotient": ((CHUNK,), arithmetic.screen),
            "mask": ((CHUNK,), np.bool_),
        }
    )
    reference, candidate = memory["reference"], memory["candidate"]
    layout, free = arithmetic.layout, (memory["quotient"], memory["magnitude"], reference)
    return Scratch(
        **memory,
        error=np.empty(CHUNK) if arithmetic.kind == "complex" else candidate,
        bound=reference.view(np.float64)[:CHUNK],
        bits=() if layout is None else tuple(side.view(layout.signed)[:CHUNK] for side in free),
    )
