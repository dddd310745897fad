"""One pass over a chunk of real numbers for all its figures, compiled by numba (the extra ``fast``).

Imported only where numba is installed. Every loop is simple enough to be vectorised, and a chunk is taken in
blocks, each while those that follow are on their way from memory: two arrays that are read at a time are too
much for what the processor guesses by itself. Only sums are taken in any order: whatever is compared or
counted is rounded as numpy rounds it, so that the figures do not depend on what is installed (but for the
largest relative error of numbers below 1e-307, where products lose their digits).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import register_jitable

from alignkit.metrics.intrinsics import CONVERTS_HALF, from_half, prefetch
from alignkit.records import Array

_F = TypeVar("_F", bound=Callable[..., Any])

_BLOCK = 256  # elements
_AHEAD = 1024  # as well: what is brought near while a block is worked on
_LINE = 64  # bytes that are brought at a time
_LOWERED = 1.0 - 8 * float(np.finfo(np.float64).eps)  # a product with a quotient is off by two roundings


def _compile(*, in_any_order: bool = False) -> Callable[[_F], _F]:
    relaxed = {"reassoc", "contract", "nsz"} if in_any_order else False
    return cast(
        "Callable[[_F], _F]", numba.njit(nogil=True, cache=True, fastmath=relaxed, error_model="numpy")
    )


# What a loop is made with must be no compiled function itself, or no process finds what another compiled.
_inline = cast("Callable[[_F], _F]", register_jitable)


@_compile(in_any_order=True)
def _sum_up(reference: Array, candidate: Array, slope: float) -> tuple[tuple[float, ...], Any, Any, Any]:
    """The sums of a block in the order of ``Sums``; max |c - r|; max |r|; whether some |c - r| is above
    ``slope`` |r|.

    All of it stays in registers: what matters only now and then is left to loops of its own. Numbers
    without sign are in the order of their bits, and of integers several are compared at a time.
    """
    errors, errors_squared, references_squared, candidates_squared, products = 0.0, 0.0, 0.0, 0.0, 0.0
    largest, scale, excess = np.int64(0), np.int64(0), np.int64(0)
    for i in range(reference.size):
        r, c = np.float64(reference[i]), np.float64(candidate[i])
        difference = c - r
        error, size = abs(difference), abs(r)
        errors += error
        errors_squared += difference * difference
        references_squared += r * r
        candidates_squared += c * c
        products += r * c
        largest = max(largest, np.float64(error).view(np.int64))
        scale = max(scale, np.float64(size).view(np.int64))
        above = error - slope * size if size > 0.0 else 0.0
        excess = max(excess, np.float64(above).view(np.int64))
    sums = errors, errors_squared, references_squared, candidates_squared, products
    return sums, np.int64(largest).view(np.float64), np.int64(scale).view(np.float64), excess > 0


@_compile()
def _first_place(error: float, reference: Array, candidate: Array) -> int:
    place = 0
    while abs(np.float64(candidate[place]) - np.float64(reference[place])) != error:
        place += 1
    return place


@_compile()
def _steepest(reference: Array, candidate: Array, known: float) -> float:
    lowered = known * _LOWERED
    for i in range(reference.size):
        error, size = abs(np.float64(candidate[i]) - np.float64(reference[i])), abs(np.float64(reference[i]))
        if error > lowered * size and size > 0.0:
            known = max(known, error / size)
    return known


@_compile()
def _count_beyond(reference: Array, candidate: Array, rtol: float, atol: float) -> Any:
    beyond: Any = 0
    for i in range(reference.size):
        error, size = abs(np.float64(candidate[i]) - np.float64(reference[i])), abs(np.float64(reference[i]))
        beyond += error > atol + rtol * size
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


@_inline
def _as_it_is(block: Array, singles: Array) -> Array:
    return block


@_inline
def _convert_half(block: Array, singles: Array) -> Array:
    """The float16 values whose patterns are given, as float32 in ``singles``."""
    for i in range(block.size):
        singles[i] = from_half(block[i])
    return singles[: block.size]


@_inline
def _widen_half(block: Array, singles: Array) -> Array:
    """As :func:`_convert_half`, for processors that know nothing of it.

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


@_inline
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
        sums, singles = np.zeros(5), np.empty((2, _BLOCK), np.float32)
        largest, worst, scale, beyond = 0.0, 0, 0.0, 0
        for start in range(0, reference.size, _BLOCK):
            r = load(reference[start : start + _BLOCK], singles[0])
            c = load(candidate[start : start + _BLOCK], singles[1])
            for i in range(start + _AHEAD, start + _AHEAD + _BLOCK, _LINE // reference.itemsize):
                prefetch(reference, i)
                prefetch(candidate, i)
            more, error, size, is_steeper = _sum_up(r, c, steepest * _LOWERED)
            for i, part in enumerate(more):
                sums[i] += part
            if not np.isfinite(sums[2] + sums[3]):
                break
            if error > largest:
                largest, worst = error, start + _first_place(error, r, c)
            scale = max(scale, size)
            if is_steeper:
                steepest = _steepest(r, c, steepest)
            if error > atol:
                beyond += _count_beyond(r, c, rtol, atol)
        return sums, largest, worst, scale, steepest, beyond

    return survey


SURVEYS = {
    "": _compile_survey(_as_it_is),
    "float16": _compile_survey(_convert_half if CONVERTS_HALF else _widen_half),
    "bfloat16": _compile_survey(_widen_brain),
}
"""Names of dtypes whose elements are given as patterns, signed integers of their size; "" for all others."""
