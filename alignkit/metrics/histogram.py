"""The distribution of the errors at one tap."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from alignkit.metrics.chunks import CHUNK, arithmetic_for, pieces_of, scratch_for
from alignkit.metrics.kernel import absolute_error
from alignkit.metrics.measure import require_comparable
from alignkit.metrics.one_pass import compiled_for
from alignkit.records import Array, ErrorHistogram

_PER_DECADE = 2
_LOWEST, _HIGHEST = -324, 308  # decades of float64, subnormals included
_EXPONENTS = np.arange(_LOWEST * _PER_DECADE, _HIGHEST * _PER_DECADE + 1) / _PER_DECADE
# One by one: numpy's own power of an array may end in another last digit on another processor.
_EDGES = np.array([10.0**exponent for exponent in _EXPONENTS.tolist()])
_CODE_SHIFT = 46  # keeps sign, exponent and six bits of mantissa: most values with one code share a bin
_CODE_1 = float(np.array(1 << _CODE_SHIFT).view(np.float64))  # what is smaller has code 0


def error_histogram(tap: str, reference: Array, candidate: Array) -> ErrorHistogram:
    """Count ``|candidate - reference|`` in half decades, over elements that are finite on both sides.

    ``edges`` are log10 of the limits and span just the errors that occur: none, when all are zero.
    Raises ``ValueError`` when shapes or kinds of dtype differ.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    require_comparable(reference, candidate)
    arithmetic = arithmetic_for(reference.dtype.newbyteorder("="), candidate.dtype.newbyteorder("="))
    sides = pieces_of(reference), pieces_of(candidate)
    tally = _Tally(reference.size)
    with np.errstate(all="ignore"), scratch_for(arithmetic, min(reference.size, CHUNK)) as scratch:
        for start in range(0, reference.size, CHUNK):
            stop = min(start + CHUNK, reference.size)
            tally.add(absolute_error((sides[0](start, stop), sides[1](start, stop)), arithmetic, scratch))
    return _trimmed(tap, *tally.result())


class _Tally:
    """Counts errors by their leading bits; looks singly at those only whose bits leave the bin open."""

    def __init__(self, size: int) -> None:
        self._compiled = compiled_for(size)
        self._bins, self._is_open = _bins_of_codes()
        self._by_code = np.zeros(self._bins.size, np.int64)
        self._single = np.zeros(_EDGES.size, np.int64)
        self._memory = np.empty(min(size, CHUNK))
        self._smallest = 0  # positive errors among those of code 0

    def add(self, error: npt.NDArray[np.float64]) -> None:
        if self._compiled is None:
            singles = self._count(error)
        else:
            found = self._compiled.count_codes(error, _CODE_SHIFT, self._is_open, self._by_code, self._memory)
            singles = self._memory[:found]
        self._smallest += int(np.count_nonzero(singles < _CODE_1))
        found = np.searchsorted(_EDGES, singles, side="right") - 1
        self._single += np.bincount(found, minlength=_EDGES.size)

    def _count(self, error: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """As ``count_codes`` of the compiled loops."""
        codes = error.view(np.int64) >> _CODE_SHIFT
        by_code = np.bincount(codes, minlength=self._by_code.size)
        self._by_code += by_code
        single = self._is_open.take(codes)
        if by_code[0]:
            single |= (codes == 0) & (error > 0)
        return error[single]

    def result(self) -> tuple[npt.NDArray[np.int64], int]:
        """How many errors lie in each half decade, and how many are zero."""
        by_code = np.where(self._is_open, 0, self._by_code)
        by_code[0] = 0
        counts = self._single.copy()
        np.add.at(counts, self._bins, by_code)
        return counts, int(self._by_code[0]) - self._smallest


@cache
def _bins_of_codes() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Leading bits of a finite float64 from 0 up -> its bin, and whether an edge lies among such values.

    Code 0 is that of zero, and of the smallest subnormals.
    """
    codes = np.arange((int(np.array(np.inf).view(np.int64)) >> _CODE_SHIFT) + 1, dtype=np.int64)
    limits = np.searchsorted(_EDGES, (codes << _CODE_SHIFT).view(np.float64), side="right") - 1
    last = np.searchsorted(_EDGES, ((codes[1:] << _CODE_SHIFT) - 1).view(np.float64), side="right") - 1
    is_open = limits[:-1] != last
    is_open[0] = False
    return last, is_open


def _trimmed(tap: str, counts: npt.NDArray[np.int64], zeros: int) -> ErrorHistogram:
    filled = np.flatnonzero(counts)
    if not filled.size:
        return ErrorHistogram(tap, (), (), zeros)
    first, last = int(filled[0]), int(filled[-1]) + 1
    edges = tuple(_LOWEST + index / _PER_DECADE for index in range(first, last + 1))
    return ErrorHistogram(tap, edges, tuple(int(count) for count in counts[first:last]), zeros)
