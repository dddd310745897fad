"""A chunk in one pass, where numba is installed and knows the dtypes; else in several of numpy's.

Maxima and counts are the same either way, to the last bit; sums but for the order they are taken in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import FunctionType, ModuleType

import numpy as np

from alignkit.metrics.dtypes import DType
from alignkit.metrics.kernel import SQUARES_EXACT, Means, add_chunk
from alignkit.metrics.tally import Sums, Tally
from alignkit.records import Array

AddChunk = Callable[[Tally, int, tuple[Array, Array], Means], Sums]
"""Adds a chunk to a tally, as :func:`alignkit.metrics.kernel.add_chunk` does."""

_LEAST = 1 << 14  # elements of a pair that is worth loading numba for
_refusals: list[object] = []  # of those who do without at the moment, in whatever order they end


@contextmanager
def compiled_loops(*, wanted: bool) -> Iterator[None]:
    """With False, numpy does it all in here, in any thread: numba's own code takes 140 MiB of memory."""
    refusals = [] if wanted else [object()]
    _refusals.extend(refusals)
    try:
        yield
    finally:
        for refusal in refusals:
            _refusals.remove(refusal)


def adder_for(reference: DType, candidate: DType, size: int) -> AddChunk:
    """What adds the chunks of a pair of ``size`` elements.

    It depends on these and on :func:`compiled_loops` alone: all runs of a comparison sum in one order.
    """
    if not _is_worth(size) or (loops := _loops_for(reference, candidate)) is None:
        return add_chunk
    return loops.add


def _is_worth(size: int) -> bool:
    return size >= _LEAST and not _refusals


@dataclass(frozen=True, slots=True)
class _Loops:
    """The compiled loops for two dtypes, and what their elements are read as there."""

    survey: Callable[..., tuple[Array, float, int, float, float, int]]
    most_steps: dict[int, Callable[[Array, Array], int]]
    read_as: tuple[DType, DType]

    def add(self, tally: Tally, offset: int, pair: tuple[Array, Array], means: Means) -> Sums:
        """As :func:`add_chunk`, which does it where something is not finite or float64 rounds integers."""
        sides = map(_as_read_only, pair, self.read_as)
        found, largest, worst, scale, max_rel, beyond = self.survey(
            *sides, tally.max_rel, means.tolerance.rtol, means.tolerance.atol
        )
        sums = Sums(*found.tolist())
        squares = sums.reference_squared + sums.candidate_squared
        is_rounded = means.arithmetic.exact_above_53_bits and squares >= SQUARES_EXACT
        if is_rounded or not math.isfinite(squares):
            return add_chunk(tally, offset, pair, means)
        tally.scale, tally.max_rel = max(tally.scale, scale), max_rel
        tally.beyond += beyond
        if largest > tally.max_abs:
            tally.max_abs, tally.worst = largest, offset + worst
        if (layout := means.arithmetic.layout) is not None and largest > 0.0:
            patterns = (_as_read_only(side.astype(layout.dtype, copy=False), layout.signed) for side in pair)
            tally.ulp_max = max(tally.ulp_max, int(self.most_steps[layout.signed.itemsize](*patterns)))
        return sums


@cache
def _loops_for(reference: DType, candidate: DType) -> _Loops | None:
    """The loops for two dtypes, if there are any."""
    names = {reference.name, candidate.name}
    is_native = {reference.kind, candidate.kind} <= set("iub") or names <= {"float32", "float64"}
    if not is_native and names not in ({"float16"}, {"bfloat16"}):
        return None
    if (compiled := _load_compiled()) is None:
        return None
    survey = compiled.SURVEYS["" if is_native else reference.name]
    read_as = (reference, candidate) if is_native else (np.dtype(np.int16),) * 2
    return _Loops(survey, compiled.MOST_STEPS, read_as)


def compiled_for(size: int) -> ModuleType | None:
    """The compiled loops for tensors of ``size`` elements, where numba is installed."""
    return _load_compiled() if _is_worth(size) else None


@cache
def _load_compiled() -> ModuleType | None:
    """None where numba is not installed, does not know this numpy, is told to compile nothing
    (``NUMBA_DISABLE_JIT``) or has nowhere to keep what it compiled.
    """
    try:
        from alignkit.metrics import compiled
    except (ImportError, RuntimeError):
        return None
    return None if isinstance(compiled.count_codes, FunctionType) else compiled


def _as_read_only(side: Array, dtype: DType) -> Array:
    """The same memory as ``dtype``: numba compiles anew for arrays that may not be written."""
    view = side.view(dtype)
    view.flags.writeable = False
    return view
