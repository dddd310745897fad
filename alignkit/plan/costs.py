"""Costs: from work to seconds, by the rates of a machine.

The factors below say what part of those rates the kernels of PyTorch and ONNX Runtime reach, and what a
node, a tap or a session costs by itself. They were fitted to processor time on one core of one x86 server;
``python -m tests.benchmarks.bench_plan`` shows how well they hold elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from alignkit.budget import Budget
from alignkit.plan.records import CONV, DEPTHWISE, PRODUCT, Load, Rates, Work

CAPTURE = "capture"
SESSIONS = "session creation"
INTRODUCED = "introduced runs"
PROPAGATED = "propagated runs"
METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Engine:
    """Shares of the FLOP rate by kind of product, the share of the byte rate, and seconds per node."""

    shares: Mapping[str, float]
    bytes_share: float
    per_node: float

    def seconds(self, work: Work, rates: Rates) -> float:
        """What the engine needs for ``work``."""
        products = sum(flops / (rates.flops * self.shares[kind]) for kind, flops in work.flops.items())
        return products + work.moved / (rates.bandwidth * self.bytes_share) + work.nodes * self.per_node


TORCH = Engine({CONV: 0.75, DEPTHWISE: 0.1, PRODUCT: 0.75}, 1.0, 12e-6)
RUNTIME = Engine({CONV: 0.7, DEPTHWISE: 0.05, PRODUCT: 0.7}, 1.2, 6e-6)

_PER_TAP = 300e-6
"""Of the capture: a hook, a name, the line of the user's code."""
_COPIES = 4.0
"""Of the capture: a tap's value is read and written to memory that is not at hand yet."""
_PER_SESSION = 3e-3
_PER_SESSION_NODE = 200e-6
_PACK_FLOPS = {CONV: 120.0, DEPTHWISE: 120.0}
"""Of a session, for each byte of a convolution's weight: it is folded, and written in its kernel's layout.
Matrices are left as they lie (see :class:`alignkit.candidate.ProbeRunner`)."""
_METRIC_FLOPS, _METRIC_FLOPS_IN_PASSES = 58.0, 150.0
"""Of the measuring, for each byte of a tap, in one compiled pass where numba is installed, and in several of
numpy's: its chunks stay in a cache, and it computes in float64."""
_PER_PAIR = 130e-6
_METRIC_THREADS = 2


def predict_stages(
    forward: Work,
    propagated: Iterable[Load | None],
    introduced: Iterable[Load | None],
    taps: Sequence[int],
    rates: Rates,
    budget: Budget,
    threads: int = 1,
) -> dict[str, float]:
    """Seconds by stage, from the work of one ``forward`` and what the sessions of both runs have to do.

    ``taps`` are the bytes of each distinct value; ``threads`` measure at a time. Within a small ``budget``
    numba is left alone (see :class:`alignkit.budget.Budget`).
    """
    ahead = [load for load in propagated if load is not None]
    single = [load for load in introduced if load is not None]
    copied = _COPIES * 2 * sum(taps) / rates.bandwidth
    one_pass = budget.overlaps and find_spec("numba") is not None
    measured = (_METRIC_FLOPS if one_pass else _METRIC_FLOPS_IN_PASSES) * sum(taps) / rates.flops
    return {
        CAPTURE: TORCH.seconds(forward, rates) + copied + len(taps) * _PER_TAP,
        SESSIONS: sum(_session(load, rates) for load in (*single, *ahead)),
        INTRODUCED: sum(RUNTIME.seconds(load.work, rates) for load in single),
        PROPAGATED: sum(RUNTIME.seconds(load.work, rates) for load in ahead),
        METRICS: 2 * (measured + len(taps) * _PER_PAIR) / min(threads, _METRIC_THREADS),
    }


def _session(load: Load, rates: Rates) -> float:
    packed = sum(_PACK_FLOPS.get(kind, 0.0) * size for kind, size in load.packed.items()) / rates.flops
    return _PER_SESSION + load.work.nodes * _PER_SESSION_NODE + packed


def side_by_side(parts: Sequence[int], budget: Budget) -> int:
    """Bytes of the largest parts that are held next to each other: one may be measured while another runs."""
    return sum(sorted(parts, reverse=True)[: 2 if budget.overlaps else 1])
