"""The distribution of the errors at one tap."""

from __future__ import annotations

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


def error_histogram(tap: str, reference: Array, candidate: Array) -> ErrorHistogram:
    """Count ``|candidate - reference|`` in half decades, over elements that are finite on both sides.

    ``edges`` are log10 of the limits and span just the errors that occur: none, when all are zero.
    Raises ``ValueError`` when shapes or kinds of dtype differ.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    require_comparable(reference, candidate)
    arithmetic = arithmetic_for(reference.dtype.newbyteorder("="), candidate.dtype.newbyteorder("="))
    sides = pieces_of(reference), pieces_of(candidate)
    scratch = scratch_for(arithmetic, min(reference.size, CHUNK))
    counts, zeros = np.zeros(_EDGES.size, np.int64), 0
    with np.errstate(all="ignore"):
        for start in range(0, reference.size, CHUNK):
            stop = min(start + CHUNK, reference.size)
            error = absolute_error((sides[0](start, stop), sides[1](start, stop)), arithmetic, scratch)
            zeros += error.size - int(np.count_nonzero(error))
            counts += np.bincount(_bins(error[error > 0]), minlength=counts.size)
    return _trimmed(tap, counts, zeros)


def _bins(error: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The index of the half decade that each positive error lies in."""
    guess = np.floor(np.log10(error) * _PER_DECADE).astype(np.intp) - _LOWEST * _PER_DECADE
    bins: npt.NDArray[np.intp] = np.clip(guess, 0, _EDGES.size - 1)
    # The logarithm of a value next to an edge may be rounded across it; the edges decide.
    bins -= error < _EDGES[bins]
    bins += error >= np.append(_EDGES[1:], np.inf)[bins]
    return bins


def _trimmed(tap: str, counts: npt.NDArray[np.int64], zeros: int) -> ErrorHistogram:
    filled = np.flatnonzero(counts)
    if not filled.size:
        return ErrorHistogram(tap, (), (), zeros)
    first, last = int(filled[0]), int(filled[-1]) + 1
    edges = tuple(_LOWEST + index / _PER_DECADE for index in range(first, last + 1))
    return ErrorHistogram(tap, edges, tuple(int(count) for count in counts[first:last]), zeros)
