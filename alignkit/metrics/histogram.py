"""The distribution of the errors at one tap."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from alignkit.metrics.chunks import CHUNK, arithmetic_for, pieces_of, scratch_for
from alignkit.metrics.kernel import absolute_error
from alignkit.metrics.measure import require_comparable
from alignkit.records import Array, ErrorHistogram

_PER_DECADE = 2
_LOWEST, _HIGHEST = -324, 308  # decades of float64, subnormals included
_EXPONENTS = np.arange(_LOWEST * _PER_DECADE, _HIGHEST * _PER_DECADE + 1) / _PER_DECADE
_EDGES = 10.0**_EXPONENTS
_CODE_SHIFT = 46  # keeps sign, exponent and six bits of mantissa: most values with one code share a bin


def error_histogram(tap: str, reference: Array, candidate: Array) -> ErrorHistogram:
    """Count ``|candidate - reference|`` in half decades, over elements that are finite on both sides.

    ``edges`` are log10 of the limits and span just the errors that occur: none, when all are zero.
    Raises ``ValueError`` when shapes or kinds of dtype differ.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    require_comparable(reference, candidate)
    arithmetic = arithmetic_for(reference.dtype.newbyteorder("="), candidate.dtype.newbyteorder("="))
    sides = pieces_of(reference), pieces_of(candidate)
    counts, zeros = np.zeros(_EDGES.size, np.int64), 0
    with np.errstate(all="ignore"), scratch_for(arithmetic, min(reference.size, CHUNK)) as scratch:
        for start in range(0, reference.size, CHUNK):
            stop = min(start + CHUNK, reference.size)
            error = absolute_error((sides[0](start, stop), sides[1](start, stop)), arithmetic, scratch)
            zeros += error.size - int(np.count_nonzero(error))
            counts += np.bincount(_bins(error[error > 0]), minlength=counts.size)
    return _trimmed(tap, counts, zeros)


def _bins(error: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """The index of the half decade that each positive error lies in."""
    bins: npt.NDArray[np.int16] = _bin_of_code()[error.view(np.int64) >> _CODE_SHIFT]
    open_ = np.flatnonzero(bins < 0)
    bins[open_] = np.searchsorted(_EDGES, error[open_], side="right") - 1
    return bins


@cache
def _bin_of_code() -> npt.NDArray[np.int16]:
    """Leading bits of a positive finite float64 -> its bin; -1 where an edge lies among such values."""
    codes = np.arange((int(np.array(np.inf).view(np.int64)) >> _CODE_SHIFT) + 1, dtype=np.int64)
    limits = np.searchsorted(_EDGES, (codes << _CODE_SHIFT).view(np.float64), side="right") - 1
    last = np.searchsorted(_EDGES, ((codes[1:] << _CODE_SHIFT) - 1).view(np.float64), side="right") - 1
    return np.where(limits[:-1] == last, last, -1).astype(np.int16)


def _trimmed(tap: str, counts: npt.NDArray[np.int64], zeros: int) -> ErrorHistogram:
    filled = np.flatnonzero(counts)
    if not filled.size:
        return ErrorHistogram(tap, (), (), zeros)
    first, last = int(filled[0]), int(filled[-1]) + 1
    edges = tuple(_LOWEST + index / _PER_DECADE for index in range(first, last + 1))
    return ErrorHistogram(tap, edges, tuple(int(count) for count in counts[first:last]), zeros)
