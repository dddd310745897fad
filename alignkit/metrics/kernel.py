"""What one chunk of a pair of tensors adds to the figures: every per-element formula is here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from alignkit.metrics.chunks import Arithmetic, Scratch
from alignkit.metrics.ordering import BitLayout, ulp_distance
from alignkit.metrics.tally import Sums, Tally, Tolerance
from alignkit.records import Array

Indices = npt.NDArray[np.intp]

_DOT_BLOCK = 2**13  # elements: for longer products BLAS starts threads of its own, in everybody's way
_FEW = 32  # beyond one element in 32, picking elements out costs more than treating all of them
_STRIDE = 64  # one element in so many is a sample
_SCREEN_LIMITS = {
    np.dtype(kind): (float(np.finfo(kind).eps), float(np.finfo(kind).max))
    for kind in (np.float32, np.float64)
}
SQUARES_EXACT = 2.0**106
"""A smaller sum of squares means that every term is below 2**53."""


class Means(NamedTuple):
    """What every chunk of a pair is measured by, and the memory that it is worked on in."""

    arithmetic: Arithmetic
    scratch: Scratch
    tolerance: Tolerance


def add_chunk(tally: Tally, offset: int, pair: tuple[Array, Array], means: Means) -> Sums:
    """Add a chunk, whose first element has the flat index ``offset``, to ``tally``; return its sums.

    ``pair`` holds reference and candidate as 1-D arrays of one length, which are left as they are.
    Numpy's floating-point warnings must be off: overflow and 0/0 are expected here.
    """
    arithmetic, tolerance = means.arithmetic, means.tolerance
    scratch = means.scratch.first(pair[0].size)
    squares = _load_reference(pair[0], scratch), _load_candidate(pair[1], scratch)
    if not np.isfinite(sum(squares)):  # a single pass over each side tells, and finite data pays nothing more
        pair = _without_nonfinite(tally, offset, pair, scratch)
        squares = _load_reference(pair[0], scratch), _load_candidate(pair[1], scratch)
    product = None if _polarisation_is_safe(*squares) else _dot(scratch.reference, scratch.candidate)
    _subtract(pair, scratch, arithmetic.exact_above_53_bits and sum(squares) >= SQUARES_EXACT)
    error_squared = _dot(scratch.candidate, scratch.candidate)
    if product is None:
        product = (sum(squares) - error_squared) / 2.0
    np.abs(scratch.candidate, out=scratch.error)
    tally.scale = max(tally.scale, float(np.maximum.reduce(scratch.magnitude)))
    largest = _find_worst(tally, offset, scratch)
    total = float(np.add.reduce(scratch.error))
    if largest > 0.0:
        if tally.max_rel == 0.0:
            _look_ahead(tally, arithmetic.layout, pair, scratch)
        suspects = _judge(tally, arithmetic.layout, scratch, tolerance, largest)
        if arithmetic.layout is not None:
            _find_steps(tally, arithmetic.layout, pair, scratch, suspects)
    return Sums(total, error_squared, *squares, product)


def absolute_error(
    pair: tuple[Array, Array], arithmetic: Arithmetic, scratch: Scratch
) -> npt.NDArray[np.float64]:
    """``|c - r|`` of one chunk, without the elements that are not finite on both sides."""
    scratch = scratch.first(pair[0].size)
    keep = None
    if not np.isfinite(_load_reference(pair[0], scratch) + _load_candidate(pair[1], scratch)):
        keep = np.isfinite(scratch.reference) & np.isfinite(scratch.candidate)
    _subtract(pair, scratch, arithmetic.exact_above_53_bits)
    error = np.abs(scratch.candidate, out=scratch.error)
    return error if keep is None else error[keep]


def _load_reference(reference: Array, scratch: Scratch) -> float:
    """Fill the scratch with one side and its magnitudes while it is in cache; the sum of its squares."""
    np.copyto(scratch.reference, reference, casting="unsafe")
    magnitude = scratch.magnitude
    if reference.dtype == magnitude.dtype:
        np.abs(reference, out=magnitude)
    elif scratch.reference.dtype.kind == "c":
        np.abs(scratch.reference, out=magnitude)
    else:
        np.copyto(magnitude, scratch.reference, casting="same_kind")
        np.abs(magnitude, out=magnitude)
    return _dot(scratch.reference, scratch.reference)


def _load_candidate(candidate: Array, scratch: Scratch) -> float:
    """Fill the scratch with the other side; the sum of its squares."""
    np.copyto(scratch.candidate, candidate, casting="unsafe")
    return _dot(scratch.candidate, scratch.candidate)


def _dot(left: Array, right: Array) -> float:
    """Sum of products in float64, of complex data the real part of ``left . conj(right)``."""
    if left.dtype.kind == "c":
        left, right = left.view(np.float64), right.view(np.float64)
    whole = left.size - left.size % _DOT_BLOCK
    tail = float(np.dot(left[whole:], right[whole:]))
    if not whole:
        return tail
    rows, columns = left[:whole].reshape(-1, 1, _DOT_BLOCK), right[:whole].reshape(-1, _DOT_BLOCK, 1)
    return tail + float(np.add.reduce(np.matmul(rows, columns).reshape(-1)))


def _polarisation_is_safe(reference_squared: float, candidate_squared: float) -> bool:
    """Whether ``2 r c = r^2 + c^2 - (c - r)^2`` loses nothing, which saves a pass over the chunk.

    It does while both norms are of like size, and far from the ends of the range of float64.
    """
    low, high = sorted((reference_squared, candidate_squared))
    return low > 1e-280 and high < 1e280 and high < 1e4 * low


def _without_nonfinite(
    tally: Tally, offset: int, pair: tuple[Array, Array], scratch: Scratch
) -> tuple[Array, Array]:
    """Count what is not finite; ``pair`` with zeros on both sides of it, which no other figure notices."""
    reference, candidate = scratch.reference, scratch.candidate
    bad = ~(np.isfinite(reference) & np.isfinite(candidate))
    nan = np.isnan(reference), np.isnan(candidate)
    tally.reference_nan += int(np.count_nonzero(nan[0]))
    tally.candidate_nan += int(np.count_nonzero(nan[1]))
    tally.reference_inf += int(np.count_nonzero(np.isinf(reference) & ~nan[0]))
    tally.candidate_inf += int(np.count_nonzero(np.isinf(candidate) & ~nan[1]))
    differing = np.flatnonzero(bad & ~(nan[0] & nan[1]) & (reference != candidate))
    tally.excluded += int(np.count_nonzero(bad))
    tally.nonfinite_mismatches += differing.size
    if differing.size and tally.first_nonfinite is None:
        tally.first_nonfinite = offset + int(differing[0])
    clean = pair[0].copy(), pair[1].copy()
    clean[0][bad] = clean[1][bad] = 0
    return clean


def _subtract(pair: tuple[Array, Array], scratch: Scratch, rounded: bool) -> None:
    """Replace the candidate by ``c - r``; from the integers themselves where float64 rounded those."""
    if rounded:
        _exact_difference(pair, scratch.candidate)
    else:
        np.subtract(scratch.candidate, scratch.reference, out=scratch.candidate)


def _exact_difference(pair: tuple[Array, Array], out: Array) -> None:
    """``c - r`` of integers of up to 64 bits, signed or not, rounded once.

    Each side is split into ``high * 2**32 + low``; the halves' differences need 34 bits at most.
    """
    (r_high, r_low), (c_high, c_low) = (_halves(side) for side in pair)
    np.multiply((c_high - r_high).astype(np.float64), 2.0**32, out=out)
    np.add(out, (c_low - r_low).astype(np.float64), out=out)


def _halves(values: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    whole = values.astype(np.uint64 if np.issubdtype(values.dtype, np.unsignedinteger) else np.int64)
    shift, low = whole.dtype.type(32), whole.dtype.type(0xFFFFFFFF)
    return (whole >> shift).astype(np.int64), (whole & low).astype(np.int64)


def _find_worst(tally: Tally, offset: int, scratch: Scratch) -> float:
    largest = float(np.maximum.reduce(scratch.error))
    if largest > tally.max_abs:
        tally.max_abs, tally.worst = largest, offset + int(scratch.error.argmax())
    return largest


def _look_ahead(tally: Tally, layout: BitLayout | None, pair: tuple[Array, Array], scratch: Scratch) -> None:
    """What a sample of a first chunk holds: it leaves few suspects among the rest."""
    some = slice(None, None, _STRIDE)
    magnitude = scratch.magnitude[some].astype(np.float64)
    quotients = (scratch.error[some] / magnitude)[magnitude > 0]
    tally.max_rel = float(np.maximum.reduce(quotients, initial=0.0))
    if layout is not None:
        reference, candidate = (side[some].astype(layout.dtype) for side in pair)
        memory = tuple(np.empty(reference.size, layout.signed) for _ in range(3))
        tally.ulp_max = max(tally.ulp_max, ulp_distance(reference, candidate, layout, memory))


def _judge(
    tally: Tally, layout: BitLayout | None, scratch: Scratch, tolerance: Tolerance, largest: float
) -> Indices | None:
    """Count the elements beyond the tolerance, and find the largest relative error.

    Only suspects are looked at in full precision: elements whose relative error may exceed the largest so
    far or allow more ULPs than the most so far. Returns their indices, None for all elements.
    """
    if largest > tolerance.atol:
        tally.beyond += _count_beyond(scratch, tolerance)
    limit = tally.max_rel if layout is None else min(tally.max_rel, layout.closest(tally.ulp_max))
    if (suspects := _small_ones(scratch, limit, largest)) is not None:
        records: Indices | None = suspects
    else:
        np.copyto(scratch.quotient, scratch.error, casting="same_kind")
        np.divide(scratch.quotient, scratch.magnitude, out=scratch.quotient)
        suspects = records = _steep_ones(scratch, limit)
        if suspects is None and limit < tally.max_rel:
            records = _steep_ones(scratch, tally.max_rel)
    tally.max_rel = max(tally.max_rel, _largest_quotient(scratch, records))
    return suspects


def _count_beyond(scratch: Scratch, tolerance: Tolerance) -> int:
    """How many elements are beyond the tolerance: they are beyond its absolute part alone."""
    suspects = _few(np.greater(scratch.error, tolerance.atol, out=scratch.mask))
    if suspects is not None:
        limit = tolerance.atol + tolerance.rtol * scratch.magnitude[suspects].astype(np.float64)
        return int(np.count_nonzero(scratch.error[suspects] > limit))
    np.copyto(scratch.bound, scratch.magnitude)
    np.multiply(scratch.bound, tolerance.rtol, out=scratch.bound)
    np.add(scratch.bound, tolerance.atol, out=scratch.bound)
    return int(np.count_nonzero(np.greater(scratch.error, scratch.bound, out=scratch.mask)))


def _small_ones(scratch: Scratch, limit: float, largest: float) -> Indices | None:
    """Indices of the elements small enough for an error of at most ``largest`` to be more than ``limit`` of
    them; None where they are many."""
    if limit == 0.0:
        return None
    eps, highest = _SCREEN_LIMITS[scratch.magnitude.dtype]
    reach = min(largest / limit * (1.0 + 8 * eps), highest)
    mask = np.less_equal(scratch.magnitude, scratch.magnitude.dtype.type(reach), out=scratch.mask)
    if (few := _few(mask)) is not None:
        return few
    return _few(np.logical_and(mask, scratch.error, out=mask))  # behind a ReLU half are equal zeros


def _steep_ones(scratch: Scratch, limit: float) -> Indices | None:
    """Indices of the elements whose quotient may exceed ``limit``; None where they are many.

    The quotient is off by a few roundings at most: a difference too small for a normal float is exact.
    0/0 is NaN, which is no suspect; x/0 is infinite, which is one.
    """
    quotient = scratch.quotient
    eps, highest = _SCREEN_LIMITS[quotient.dtype]
    lowered = min(limit * (1.0 - 8 * eps), highest)  # an overflown quotient stays a suspect
    return _few(np.greater(quotient, quotient.dtype.type(lowered), out=scratch.mask))


def _few(mask: npt.NDArray[np.bool_]) -> Indices | None:
    """The indices that ``mask`` holds for; None where they are many."""
    if np.count_nonzero(mask) > max(mask.size // _FEW, _FEW):
        return None
    return mask.nonzero()[0]


def _largest_quotient(scratch: Scratch, suspects: Indices | None) -> float:
    """``max |c - r| / |r|`` over the suspects, or over all elements; 0 where every r is zero."""
    if suspects is not None:
        magnitude, error = scratch.magnitude[suspects].astype(np.float64), scratch.error[suspects]
        quotients = (error / magnitude)[magnitude > 0]
        return float(np.maximum.reduce(quotients, initial=0.0))
    quotient = scratch.bound
    np.copyto(quotient, scratch.magnitude)
    np.divide(scratch.error, quotient, out=quotient)
    np.copyto(quotient, 0.0, where=np.equal(scratch.magnitude, 0, out=scratch.mask))
    return float(np.maximum.reduce(quotient))


def _find_steps(
    tally: Tally, layout: BitLayout, pair: tuple[Array, Array], scratch: Scratch, suspects: Indices | None
) -> None:
    """The largest ULP distance. Overwrites the scratch that shares memory with ``scratch.bits``."""
    if suspects is not None:
        if not suspects.size:
            return
        pair, scratch = (pair[0][suspects], pair[1][suspects]), scratch.first(suspects.size)
    reference, candidate = (side.astype(layout.dtype, copy=False) for side in pair)
    tally.ulp_max = max(tally.ulp_max, ulp_distance(reference, candidate, layout, scratch.bits))
