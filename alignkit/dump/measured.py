"""One pair of tensors, one from each dump: what they differ by, in either tier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkit.dump.estimate import Estimate, estimate_error
from alignkit.dump.files import Dump
from alignkit.dump.records import DumpedTap
from alignkit.dump.statistics import Statistics
from alignkit.measuring import coarser_dtype
from alignkit.metrics import dtype_kind, measure_error
from alignkit.metrics.dtypes import DType
from alignkit.records import Array, ErrorMetrics, Verdict
from alignkit.tolerance import Tolerances


@dataclass(frozen=True, slots=True)
class Finding:
    """``shape`` and ``dtype`` are the reference's, ``coarser`` is the coarser of both dtypes.

    ``misfit`` is the verdict on two tensors that cannot be subtracted; ``words`` say what the
    verdict rests on, where that is not plain.
    """

    shape: tuple[int, ...]
    dtype: DType
    coarser: DType
    error: ErrorMetrics | None = None
    misfit: Verdict | None = None
    words: str = ""


def are_full(reference: Dump, candidate: Dump) -> bool:
    """Whether both dumps hold whole tensors."""
    return reference.is_full and candidate.is_full


def compare_entries(
    reference: Dump, candidate: Dump, left: DumpedTap, right: DumpedTap, tolerances: Tolerances
) -> Finding:
    """Compare the tensors of two entries; by statistics unless both dumps hold them in full."""
    one: Array | Statistics
    other: Array | Statistics
    if are_full(reference, candidate):
        one, other = reference.tensor(left), candidate.tensor(right)
    else:
        one, other = reference.statistics(left), candidate.statistics(right)
    coarser = coarser_dtype(np.empty(0, one.dtype), np.empty(0, other.dtype))
    if one.shape != other.shape:
        words = f"shape {list(other.shape)} in the candidate, {list(one.shape)} in the reference"
        return Finding(one.shape, one.dtype, coarser, misfit=Verdict.SHAPE, words=words)
    if dtype_kind(one.dtype) != dtype_kind(other.dtype):
        words = f"{other.dtype.name} in the candidate, {one.dtype.name} in the reference"
        return Finding(one.shape, one.dtype, coarser, misfit=Verdict.DTYPE, words=words)
    rtol, atol = tolerances.mismatch_pair(left.name, coarser.name)
    if isinstance(one, Statistics) and isinstance(other, Statistics):
        estimate = estimate_error(one, other, rtol, atol)
        return Finding(one.shape, one.dtype, coarser, estimate.metrics, words=_estimate_words(estimate))
    error = measure_error(np.asarray(one), np.asarray(other), rtol=rtol, atol=atol)
    return Finding(one.shape, one.dtype, coarser, error)


def _estimate_words(estimate: Estimate) -> str:
    if estimate.identical:
        return "the same bit for bit, by its digest"
    found = estimate.metrics
    if estimate.ceiling is None or found.rmse is None:
        return "by statistics: not finite in different places, so that errors cannot be estimated"
    return (
        f"by statistics: rms error about {found.rmse:.2g}; the largest is at least {found.max_abs or 0:.2g} "
        f"and most likely below {estimate.ceiling:.2g}"
    )
