"""Distance in units in the last place, counted on the bits of two floats.

Without its sign bit, an IEEE-754 pattern read as an integer is in the order of the magnitudes, and
neighbouring floats are neighbouring integers (IEEE 754-2019, section 3.4; Dawson, "Comparing
Floating Point Numbers", 2012). Counting negative patterns downwards from zero makes that order hold
across zero as well, with -0 and +0 in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from alignkit.metrics.dtypes import DType, coarser, float_info
from alignkit.records import Array


@dataclass(frozen=True, slots=True)
class BitLayout:
    """A floating dtype whose patterns are a sign bit and an ordered magnitude."""

    dtype: DType
    signed: DType
    unsigned: DType
    sign: int  # the pattern of -0.0
    half_eps: float
    crossing: int  # patterns subtracted with wrap-around: values of opposite sign are at least this far apart

    def closest(self, steps: int) -> float:
        """A relative error up to which two floats are at most ``steps`` apart; below 1.

        With q = |c - r| / |r| < 1, no float from r to c lies below (1 - q) |r|, and the spacing at x is at
        least |x| eps / 2: so there are at most q / (1 - q) / (eps / 2) steps, and two more where both
        sides were rounded to this dtype before they were counted.
        """
        reach = max(steps - 2, 0) * self.half_eps
        return reach / (1.0 + reach)


def bit_layout(reference: DType, candidate: DType) -> BitLayout | None:
    """The layout in which two floating dtypes are compared, that of the coarser one.

    None where patterns have no such order or do not fill their bytes: extended precision, and those
    formats of ml_dtypes that are unsigned, smaller than a byte, or hold NaN in the place of -0.
    """
    dtype = coarser(reference, candidate)
    info = float_info(dtype)
    if info.bits != 8 * dtype.itemsize or dtype.name.endswith(("fnu", "fnuz")):
        return None
    signed, unsigned = np.dtype(f"i{dtype.itemsize}"), np.dtype(f"u{dtype.itemsize}")
    largest = int(np.array(info.max, dtype).view(unsigned))
    sign = 1 << (info.bits - 1)
    return BitLayout(dtype, signed, unsigned, sign, float(info.eps) / 2, sign - largest - 1)


def ulp_distance(reference: Array, candidate: Array, layout: BitLayout, scratch: tuple[Array, ...]) -> int:
    """The largest distance between two 1-D arrays of ``layout.dtype`` that hold no NaN.

    The three ``scratch`` arrays have as many elements, of ``layout.signed``. Patterns of one sign are simply
    subtracted; only where a difference is so large that the signs may differ are they put in order first.
    """
    left, right = reference.view(layout.signed), candidate.view(layout.signed)
    steps = np.subtract(right, left, out=scratch[0])
    largest = max(int(np.maximum.reduce(steps)), -int(np.minimum.reduce(steps)))
    return largest if largest < layout.crossing else _ordered_distance(left, right, layout, scratch)


def _ordered_distance(left: Array, right: Array, layout: BitLayout, scratch: tuple[Array, ...]) -> int:
    first = _ordered(left, layout, scratch[0], scratch[2])
    second = _ordered(right, layout, scratch[1], scratch[2])
    lower = np.minimum(first, second, out=scratch[2])
    upper = np.maximum(first, second, out=first)
    # The difference may exceed the signed range, but never the unsigned one.
    return int(np.maximum.reduce(np.subtract(upper, lower, out=upper).view(layout.unsigned)))


def _ordered(bits: Array, layout: BitLayout, out: Array, signs: Array) -> Array:
    """Fill ``out`` with signed integers in the order of the floats whose patterns are ``bits``."""
    np.right_shift(bits, 8 * layout.dtype.itemsize - 1, out=signs)  # 0 or -1
    np.bitwise_and(bits, layout.sign - 1, out=out)
    # Negates where the sign is set: in two's complement, -x is the complement of x, plus one.
    np.bitwise_xor(out, signs, out=out)
    np.subtract(out, signs, out=out)
    return out
