"""Rates: what this machine does in a second, measured in a fraction of one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from alignkit.plan.records import Rates

_SIDE = 512
_BYTES = 64 * 2**20  # more than caches hold
_SECONDS = 0.15
_ROUNDS = 5


def measure_rates(flops: float | None = None, bandwidth: float | None = None) -> Rates:
    """The rates that are not given, measured: the best of some rounds, for others may use the machine."""
    measured = tuple(name for name, rate in (("flops", flops), ("bandwidth", bandwidth)) if rate is None)
    return Rates(flops or _measure_flops(), bandwidth or _measure_bandwidth(), measured)


def _measure_flops() -> float:
    left = np.full((_SIDE, _SIDE), 0.5, np.float32)
    result = np.empty_like(left)
    return 2 * _SIDE**3 / _best(lambda: np.matmul(left, left, out=result))


def _measure_bandwidth() -> float:
    source, target = np.ones(_BYTES, np.uint8), np.zeros(_BYTES, np.uint8)
    return 2 * _BYTES / _best(lambda: np.copyto(target, source))


def _best(function: Callable[[], object]) -> float:
    """Seconds of the fastest call of those that fit into a moment; the first, which warms up, is left out.

    While another program has the core the clock runs on and processor time does not: the shorter counts.
    """
    function()
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(seconds) < _ROUNDS or time.perf_counter() < end:
        clock, processor = time.perf_counter(), time.process_time()
        function()
        seconds.append(min(time.perf_counter() - clock, time.process_time() - processor))
    return max(min(seconds), 1e-9)
