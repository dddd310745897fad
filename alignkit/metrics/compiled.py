"""One pass over a chunk of real numbers for all its figures, compiled by numba (the extra ``fast``).

Imported only where numba is installed. A chunk is taken in blocks that stay in a core's first-level cache,
and every loop is simple enough to be vectorised. Only sums are taken in any order: whatever is compared or
counted is rounded as numpy rounds it, so that the figures do not depend on what is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from alignkit.records import Array

_F = TypeVar("_F", bound=Callable[..., Any])

_BLOCK = 1024  # elements
_LOWERED = 1.0 - 8 * float(np.finfo(np.float64).eps)  # a product with a quotient is off by two roundings


def _compile(*, in_any_order: bool = False) -> Callable[[_F], _F]:
    relaxed = {"reassoc", "contract", "nsz"} if in_any_order else False
    return cast(
        "Callable[[_F], _F]", numba.njit(nogil=True, cache=True, fastmath=relaxed, error_model="numpy")
    )


@_compile(in_any_order=True)
def _sum_up(reference: Array, candidate: Array, error: Array, size: Array) -> tuple[float, ...]:
    """Fill ``error`` with |c - r| and ``size`` with |r|; the sums of a block."""
    errors, errors_squared, references_squared, candidates_squared, products = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(reference.size):
        r, c = np.float64(reference[i]), np.float64(candidate[i])
        difference = c - r
        error[i], size[i] = abs(difference), abs(r)
        errors += abs(difference)
        errors_squared += difference * difference
        references_squared += r * r
        candidates_squared += c * c
        products += r * c
    return errors, errors_squared, references_squared, candidates_squared, products


@_compile()
def _largest(patterns: Array) -> Any:
    largest = np.int64(0)
    for i in range(patterns.size):  # by index: a loop over the elements themselves is not vectorised
        largest = max(largest, patterns[i])
    return largest


@_compile()
def _first_place(pattern: int, patterns: Array) -> int:
    place = 0
    while patterns[place] != pattern:
        place += 1
    return place


@_compile()
def _steepest(error: Array, size: Array, known: float) -> float:
    lowered = known * _LOWERED
    suspects = 0
    for i in range(error.size):
        suspects += (error[i] > lowered * size[i]) & (size[i] > 0.0)
    if suspects:
        for i in range(error.size):
            if error[i] > lowered * size[i] and size[i] > 0.0:
                known = max(known, error[i] / size[i])
    return known


@_compile()
def _count_beyond(error: Array, size: Array, rtol: float, atol: float) -> int:
    beyond = 0
    for i in range(error.size):
        beyond += error[i] > atol + rtol * size[i]
    return beyond


@_compile()
def count_codes(error: Array, shift: int, is_open: Array, by_code: Array, singles: Array) -> int:
    """Count the leading bits of |c - r|, those that ``shift`` leaves, in ``by_code``; an error whose code
    leaves its bin open, or whose code is 0 but which is not, goes into ``singles``. How many those are.
    """
    patterns, found = error.view(np.int64), 0
    for i in range(error.size):
        code = patterns[i] >> shift
        by_code[code] += 1
        singles[found] = error[i]  # and written over by the next one, unless it counts: no branch to guess
        found += is_open[code] | ((code == 0) & (patterns[i] > 0))
    return found


def _compile_steps(signed: Any, unsigned: Any, sign: int) -> Callable[[Array, Array], int]:
    lowest = signed(sign)

    @_compile()
    def most_steps(reference: Array, candidate: Array) -> Any:
        most = unsigned(0)
        for i in range(reference.size):
            r, c = signed(reference[i]), signed(candidate[i])
            r = r if r >= 0 else signed(lowest - r)
            c = c if c >= 0 else signed(lowest - c)
            most = max(most, unsigned(unsigned(max(r, c)) - unsigned(min(r, c))))
        return most

    return most_steps


MOST_STEPS = {
    2: _compile_steps(np.int32, np.uint32, -(2**15)),
    4: _compile_steps(np.int32, np.uint32, -(2**31)),
    8: _compile_steps(np.int64, np.uint64, -(2**63)),
}
"""Bytes per element -> the largest ULP distance of two chunks of patterns, signed integers of that size."""


@_compile()
def _as_it_is(block: Array, singles: Array) -> Array:
    return block


@_compile()
def _widen_half(block: Array, singles: Array) -> Array:
    """The float16 values whose patterns are given, as float32 in ``singles``.

    Exponent and mantissa move to their places there, with 112 for the difference of the biases; infinities
    and NaN have the largest exponent. A subnormal one gets the least exponent of normal ones, and with it
    a leading one that is then taken away.
    """
    words = singles.view(np.int32)
    for i in range(block.size):
        pattern = np.int32(block[i])
        exponent = pattern & 0x7C00
        moved = np.int32(224 if exponent == 0x7C00 else (113 if exponent == 0 else 112))
        words[i] = ((pattern & 0x7FFF) << 13) + (moved << 23)
    for i in range(block.size):
        excess = np.float32(2.0**-14) if block[i] & 0x7C00 == 0 else np.float32(0.0)
        single = singles[i] - excess
        singles[i] = -single if block[i] < 0 else single
    return singles[: block.size]


@_compile()
def _widen_brain(block: Array, singles: Array) -> Array:
    """The bfloat16 values whose patterns are given, which are the upper halves of float32 ones."""
    words = singles.view(np.int32)
    for i in range(block.size):
        words[i] = np.int32(block[i]) << 16
    return singles[: block.size]


def _compile_survey(load: Callable[[Array, Array], Array]) -> Callable[..., Any]:
    @_compile()
    def survey(
        reference: Array, candidate: Array, steepest: float, rtol: float, atol: float
    ) -> tuple[Array, float, int, float, float, int]:
        """The sums of a chunk in the order of ``Sums``; max |c - r| and the first place of it; max |r|; the
        largest relative error, of which ``steepest`` is one; how many elements have ``|c - r| > atol +
        rtol |r|``.

        Sums that are not finite end it: the rest means nothing then.
        """
        sums, error, size = np.zeros(5), np.empty(_BLOCK), np.empty(_BLOCK)
        singles = np.empty((2, _BLOCK), np.float32)
        # Numbers without sign are in the order of their bits, and of integers several are compared at a time.
        most = np.array([0.0, 0.0, atol])
        error_bits, size_bits, most_bits = error.view(np.int64), size.view(np.int64), most.view(np.int64)
        worst, beyond = 0, 0
        for start in range(0, reference.size, _BLOCK):
            r = load(reference[start : start + _BLOCK], singles[0])
            c = load(candidate[start : start + _BLOCK], singles[1])
            for i, more in enumerate(_sum_up(r, c, error, size)):
                sums[i] += more
            if not np.isfinite(sums[2] + sums[3]):
                break
            largest = _largest(error_bits[: r.size])
            if largest > most_bits[0]:
                most_bits[0], worst = largest, start + _first_place(largest, error_bits)
            most_bits[1] = max(most_bits[1], _largest(size_bits[: r.size]))
            steepest = _steepest(error[: r.size], size[: r.size], steepest)
            if largest > most_bits[2]:
                beyond += _count_beyond(error[: r.size], size[: r.size], rtol, atol)
        return sums, most[0], worst, most[1], steepest, beyond

    return survey


SURVEYS = {
    "": _compile_survey(_as_it_is),
    "float16": _compile_survey(_widen_half),
    "bfloat16": _compile_survey(_widen_brain),
}
"""Names of dtypes whose elements are given as patterns, signed integers of their size; "" for all others."""
