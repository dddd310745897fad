"""The measurement of one pair of tensors: spans of chunks, threads, and the figures made of the sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from alignkit.metrics.chunks import CHUNK, Arithmetic, Pieces, arithmetic_for, pieces_of, scratch_for
from alignkit.metrics.dtypes import dtype_kind
from alignkit.metrics.kernel import Means
from alignkit.metrics.one_pass import AddChunk, adder_for
from alignkit.metrics.tally import Sums, Tally, Tolerance
from alignkit.records import Array, ErrorMetrics

_SQUARABLE = (1e-140, 1e140)
_FIRST = 1 << 10  # elements among which tensors that differ mostly do
_CHUNKS_PER_THREAD = 4  # fewer are done before another thread has started


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two tensors of one size, and how they are measured."""

    reference: Pieces
    candidate: Pieces
    size: int
    arithmetic: Arithmetic
    tolerance: Tolerance
    add: AddChunk


def measure_error(
    reference: Array, candidate: Array, *, rtol: float, atol: float, threads: int = 1
) -> ErrorMetrics:
    """Measure how far ``candidate`` is from ``reference``, an array of the same shape and kind of dtype.

    With ``r``, ``c`` the elements and ``d = c - r`` (the modulus ``|d|`` for complex data)::

        mse = mean(d^2)            rmse = sqrt(mse)       mean_abs = mean(|d|)     max_abs = max(|d|)
        max_rel = max(|d| / |r|)   over r != 0            scale = max(|r|)
        cosine = sum(r c) / sqrt(sum(r^2) sum(c^2))   (Salton and McGill 1983; Re(c conj r) for complex)
        sqnr_db = 10 log10(sum(r^2) / sum(d^2))       (signal to quantisation noise, Jayant and Noll 1984)
        mismatched = share of |d| > atol + rtol |r|   (the rule of numpy.isclose, negated)
        ulp_max = steps from float to float, r to c   (IEEE 754 order, see ``alignkit.metrics.ordering``)

    Everything is taken in float64, of differences that are exact or rounded once, for integers of all
    widths too; the ULP distance is counted in the coarser of two floating dtypes. An element that is
    NaN on both sides, or the same infinity, agrees; one that is not finite on one side, or of opposite
    sign, is mismatched. Non-finite elements are left out of all other figures, and all figures of
    an average or a maximum error are None when no element is left.

    ``worst_index`` is the first non-finite mismatch, else the first element with the largest error,
    else None. Complex values are given as text. The arrays may have any memory layout, and are read
    piece by piece. The result does not depend on ``threads``.

    Raises ``ValueError`` when shapes or kinds of dtype differ, or a tolerance or ``threads`` is not valid.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    require_comparable(reference, candidate)
    _require_valid(rtol, atol, threads)
    with np.errstate(all="ignore"):
        scale = _scale_of_equals(reference, candidate)
    if scale is not None:
        return _figures_of_equals(reference, scale)
    native = (reference.dtype.newbyteorder("="), candidate.dtype.newbyteorder("="))
    arithmetic = arithmetic_for(*native)
    pair = _Pair(
        pieces_of(reference),
        pieces_of(candidate),
        reference.size,
        arithmetic,
        Tolerance(float(rtol), float(atol)),
        adder_for(*native, reference.size),
    )
    tally, sums = _measure_all(pair, threads)
    return _figures(reference, candidate, pair, tally, sums)


def require_comparable(reference: Array, candidate: Array) -> None:
    """Raise ``ValueError`` unless both are numeric arrays of one shape and one kind of dtype."""
    if reference.shape != candidate.shape:
        raise ValueError(
            f"shapes differ: reference {reference.shape}, candidate {candidate.shape}; "
            "only tensors of one shape can be measured, nothing is broadcast"
        )
    kinds = dtype_kind(reference.dtype), dtype_kind(candidate.dtype)
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"kinds of dtype differ: reference {reference.dtype} ({kinds[0]}), "
            f"candidate {candidate.dtype} ({kinds[1]}); cast one of them first"
        )
    if kinds[0] == "other":
        raise ValueError(f"elements of dtype {reference.dtype} are not numbers; they cannot be measured")


def _require_valid(rtol: float, atol: float, threads: int) -> None:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; a tolerance is a finite number, zero or above")
    if threads < 1:
        raise ValueError(f"threads is {threads}; at least one is needed")


def _scale_of_equals(reference: Array, candidate: Array) -> float | None:
    """max |x| of two tensors whose elements are all finite and equal; None for others.

    A difference near the start is found at once.
    """
    if reference.dtype != candidate.dtype or not (_is_flat(reference) and _is_flat(candidate)):
        return None
    left, right = reference.reshape(-1), candidate.reshape(-1)
    if not np.array_equal(left[:_FIRST], right[:_FIRST]):
        return None
    differs = np.empty(min(left.size, CHUNK), np.bool_)
    scale = 0.0
    for start in range(0, left.size, CHUNK):
        piece = left[start : start + CHUNK]
        if candidate is not reference:
            mask = differs[: piece.size]
            np.not_equal(piece, right[start : start + CHUNK], out=mask)
            if np.count_nonzero(mask):
                return None
        scale = max(scale, _largest(piece))
        if not math.isfinite(scale):
            return None
    # Squares of others leave the range of float64, which not every figure survives.
    return scale if scale == 0 or _SQUARABLE[0] < scale < _SQUARABLE[1] else None


def _is_flat(array: Array) -> bool:
    return bool(array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative)


def _largest(values: Array) -> float:
    """max |x|; infinite where one is not finite."""
    if values.dtype.kind == "c":
        return _largest(np.abs(values.astype(np.complex128)))
    largest = max(abs(values.min().item()), abs(values.max().item()))
    return largest if math.isfinite(largest) else math.inf


def _figures_of_equals(array: Array, scale: float) -> ErrorMetrics:
    """What :func:`measure_error` says of two equal finite tensors."""
    none = None if not array.size else 0.0
    return ErrorMetrics(
        size=array.size,
        mse=none,
        rmse=none,
        max_abs=none,
        mean_abs=none,
        max_rel=0.0 if scale > 0 else None,
        cosine=1.0 if scale > 0 else None,
        sqnr_db=None,
        ulp_max=0 if array.size and dtype_kind(array.dtype) == "float" else None,
        mismatched=0.0,
        scale=float(scale),
        worst_index=None,
        worst_reference=None,
        worst_candidate=None,
        reference_nan=0,
        reference_inf=0,
        candidate_nan=0,
        candidate_inf=0,
        nonfinite_mismatches=0,
    )


def _measure_all(pair: _Pair, threads: int) -> tuple[Tally, Sums]:
    """One span of chunks per thread. Sums are kept per chunk and added up in order at the end."""
    chunks = math.ceil(pair.size / CHUNK)
    rows = np.zeros((chunks, len(Sums._fields)))
    workers = min(threads, max(1, chunks // _CHUNKS_PER_THREAD))
    bounds = [chunks * worker // workers for worker in range(workers + 1)]
    spans = [range(*bound) for bound in pairwise(bounds)]
    if workers == 1:
        tallies: Sequence[Tally] = [_measure_span(pair, spans[0], rows)]
    else:
        with ThreadPoolExecutor(workers) as pool:
            tallies = list(pool.map(lambda span: _measure_span(pair, span, rows), spans))
    total = Tally()
    for tally in tallies:
        total = total.merged(tally)
    return total, Sums(*map(float, np.add.reduce(rows, axis=0)))


def _measure_span(pair: _Pair, chunks: range, rows: npt.NDArray[np.float64]) -> Tally:
    tally = Tally()
    with np.errstate(all="ignore"), scratch_for(pair.arithmetic, min(pair.size, CHUNK)) as scratch:
        means = Means(pair.arithmetic, scratch, pair.tolerance)
        for chunk in chunks:
            start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, pair.size)
            piece = pair.reference(start, stop), pair.candidate(start, stop)
            rows[chunk] = pair.add(tally, start, piece, means)
    return tally


def _figures(reference: Array, candidate: Array, pair: _Pair, tally: Tally, sums: Sums) -> ErrorMetrics:
    finite = pair.size - tally.excluded
    mse = sums.error_squared / finite if finite else None
    flat = tally.worst if tally.first_nonfinite is None else tally.first_nonfinite
    worst = None if flat is None else tuple(int(i) for i in np.unravel_index(flat, reference.shape))
    return ErrorMetrics(
        size=pair.size,
        mse=mse,
        rmse=None if mse is None else math.sqrt(mse),
        max_abs=tally.max_abs if finite else None,
        mean_abs=sums.error / finite if finite else None,
        max_rel=tally.max_rel if tally.scale > 0 else None,
        cosine=_cosine(sums),
        sqnr_db=_sqnr_db(sums),
        ulp_max=tally.ulp_max if finite and pair.arithmetic.layout else None,
        mismatched=(tally.beyond + tally.nonfinite_mismatches) / pair.size if pair.size else 0.0,
        scale=tally.scale,
        worst_index=worst,
        worst_reference=None if worst is None else _plain_value(reference[worst]),
        worst_candidate=None if worst is None else _plain_value(candidate[worst]),
        reference_nan=tally.reference_nan,
        reference_inf=tally.reference_inf,
        candidate_nan=tally.candidate_nan,
        candidate_inf=tally.candidate_inf,
        nonfinite_mismatches=tally.nonfinite_mismatches,
    )


def _cosine(sums: Sums) -> float | None:
    """None for a zero vector, and where squares leave the range of float64."""
    # Roots before the product: the product of two sums of squares overflows long before they do.
    norms = math.sqrt(sums.reference_squared) * math.sqrt(sums.candidate_squared)
    if not 0.0 < norms < math.inf or not math.isfinite(sums.product):
        return None
    return max(-1.0, min(1.0, sums.product / norms))


def _sqnr_db(sums: Sums) -> float | None:
    """None for two equal tensors, for a zero reference, and where squares leave the range of float64."""
    signal, noise = sums.reference_squared, sums.error_squared
    if not (0.0 < signal < math.inf and 0.0 < noise < math.inf):
        return None
    return 10.0 * (math.log10(signal) - math.log10(noise))


def _plain_value(value: Any) -> float | int | bool | str:
    """One element, a numpy scalar, as Python knows it."""
    kind = dtype_kind(value.dtype)
    if kind == "float":
        return float(value)
    if kind == "complex":
        return str(complex(value))
    return bool(value) if kind == "bool" else int(value)
