"""What is kept of the chunks seen so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Sums(NamedTuple):
    """Sums over the finite elements of one chunk, in float64. For complex data, c r is Re(c conj r)."""

    error: float  # |c - r|
    error_squared: float  # |c - r|^2
    reference_squared: float
    candidate_squared: float
    product: float  # c r


@dataclass(slots=True)
class Tally:
    """Maxima and counts of a run of chunks. Unlike sums they do not depend on the order of the work."""

    max_abs: float = 0.0
    worst: int | None = None  # flat index of the first largest error; None without any error
    max_rel: float = 0.0
    scale: float = 0.0
    ulp_max: int = 0
    beyond: int = 0  # finite elements beyond the tolerance
    excluded: int = 0  # elements that are not finite on both sides
    nonfinite_mismatches: int = 0
    first_nonfinite: int | None = None  # flat index of the first of them
    reference_nan: int = 0
    reference_inf: int = 0
    candidate_nan: int = 0
    candidate_inf: int = 0

    def merged(self, later: Tally) -> Tally:
        """This tally and that of chunks further back; of equal errors the first stays the worst."""
        first = self if self.worst is not None and self.max_abs >= later.max_abs else later
        found = self.first_nonfinite
        return Tally(
            max_abs=first.max_abs,
            worst=first.worst,
            max_rel=max(self.max_rel, later.max_rel),
            scale=max(self.scale, later.scale),
            ulp_max=max(self.ulp_max, later.ulp_max),
            beyond=self.beyond + later.beyond,
            excluded=self.excluded + later.excluded,
            nonfinite_mismatches=self.nonfinite_mismatches + later.nonfinite_mismatches,
            first_nonfinite=later.first_nonfinite if found is None else found,
            reference_nan=self.reference_nan + later.reference_nan,
            reference_inf=self.reference_inf + later.reference_inf,
            candidate_nan=self.candidate_nan + later.candidate_nan,
            candidate_inf=self.candidate_inf + later.candidate_inf,
        )


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An element is beyond it where ``|c - r| > atol + rtol |r|``."""

    rtol: float
    atol: float
