"""What two sets of statistics tell of the error between their tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from alignkit.dump.statistics import SAMPLES, Floats, Statistics, sampled_places
from alignkit.metrics import dtype_kind
from alignkit.records import ErrorMetrics

_SLACK = 3.0
"""Eight projections put a distance below a third of itself once in a thousand times (chi-squared with
eight degrees of freedom), above twice itself even less often."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What statistics tell of an error.

    In ``metrics`` mse, rmse and sqnr_db are estimates; mismatched and nonfinite_mismatches are known to
    be at least that, and so is max_abs, which is never below the estimated rmse; the rest is not known.
    ``ceiling`` is what one element may differ by at most, but for a thousandth of cases; None where
    nothing bounds it. ``identical``: bit for bit.
    """

    metrics: ErrorMetrics
    ceiling: float | None
    identical: bool


def estimate_error(reference: Statistics, candidate: Statistics, rtol: float, atol: float) -> Estimate:
    """The error between two tensors of one shape and one kind of dtype, from their statistics alone."""
    identical = _are_identical(reference, candidate)
    if identical:
        return Estimate(_metrics(reference, candidate, 0.0, 0.0, 0.0, 0), 0.0, True)
    bent = _nonfinite_mismatches(reference, candidate)
    errors, beyond = _sampled(reference, candidate, rtol, atol)
    least = float(errors.max(initial=0.0))
    rmse: float | None = None
    if not bent:
        distance = candidate.projections - reference.projections
        rmse = float(np.sqrt(np.mean(distance**2) / max(reference.size, 1)))
        least = max(least, rmse, _least_by_sums(reference, candidate))
    if identical is False and dtype_kind(reference.dtype) in ("int", "bool"):
        least = max(least, 1.0)  # whole numbers that differ do so by one or more
    if least > atol + rtol * max(reference.scale, candidate.scale):
        beyond = max(beyond, 1.0 / max(reference.size, 1))
    beyond = max(beyond, bent / max(reference.size, 1))
    ceiling = None if rmse is None else max(least, _SLACK * rmse * math.sqrt(reference.size))
    return Estimate(_metrics(reference, candidate, least, rmse, beyond, bent), ceiling, False)


def _are_identical(reference: Statistics, candidate: Statistics) -> bool | None:
    """By the digests; None where one lacks, or where the same numbers have other bits."""
    left, right = reference.kept, candidate.kept
    if left.dtype != right.dtype or not left.sha256 or not right.sha256:
        return None
    return left.sha256 == right.sha256


def _least_by_sums(reference: Statistics, candidate: Statistics) -> float:
    """What some element differs by at least, going by extremes, mean, norm and projections."""
    size = max(reference.size, 1)
    bounds = (
        abs(candidate.low - reference.low),
        abs(candidate.high - reference.high),
        abs(candidate.mean - reference.mean),
        abs(candidate.norm - reference.norm) / math.sqrt(size),
        float(np.abs(candidate.projections - reference.projections).max()) / size,
    )
    return max(bound for bound in bounds if not math.isnan(bound))


def _sampled(reference: Statistics, candidate: Statistics, rtol: float, atol: float) -> tuple[Floats, float]:
    """|error| at the sampled places where both sides are finite, and the share beyond tolerance."""
    count = min(reference.size, SAMPLES)
    left, right = reference.samples[:count], candidate.samples[:count]
    with np.errstate(invalid="ignore"):
        errors = np.abs(right - left)
        same = (left == right) | (np.isnan(left) & np.isnan(right))
        beyond = ~same & ~(errors <= atol + rtol * np.abs(left))
    finite = np.isfinite(left) & np.isfinite(right)
    return errors[finite], float(beyond.mean()) if count else 0.0


def _nonfinite_mismatches(reference: Statistics, candidate: Statistics) -> int:
    """Elements that are NaN or infinite on one side only: at least so many."""
    left, right = _nonfinite_counts(reference), _nonfinite_counts(candidate)
    by_count = max(abs(a - b) for a, b in zip(left, right, strict=True))
    one_sided = np.isfinite(reference.samples) != np.isfinite(candidate.samples)
    return max(by_count, len(set(sampled_places(reference.size)[one_sided[: reference.size]].tolist())))


def _nonfinite_counts(s: Statistics) -> tuple[int, ...]:
    return s.nan, s.positive_inf, s.negative_inf, s.nan + s.positive_inf + s.negative_inf


def _metrics(
    reference: Statistics,
    candidate: Statistics,
    least: float,
    rmse: float | None,
    beyond: float,
    bent: int,
) -> ErrorMetrics:
    empty = not reference.size
    count = max(reference.size, 1)
    sqnr = None
    if rmse and 0.0 < reference.norm < math.inf:
        sqnr = 20.0 * (math.log10(reference.norm) - math.log10(rmse * math.sqrt(count)))
    return ErrorMetrics(
        size=math.prod(reference.kept.shape),
        mse=None if rmse is None or empty else rmse**2,
        rmse=None if empty else rmse,
        max_abs=None if empty else least,
        mean_abs=None,
        max_rel=None,
        cosine=None,
        sqnr_db=sqnr,
        ulp_max=None,
        mismatched=beyond,
        scale=reference.scale,
        worst_index=None,
        worst_reference=None,
        worst_candidate=None,
        reference_nan=reference.nan,
        reference_inf=reference.positive_inf + reference.negative_inf,
        candidate_nan=candidate.nan,
        candidate_inf=candidate.positive_inf + candidate.negative_inf,
        nonfinite_mismatches=bent,
    )
