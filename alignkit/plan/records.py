"""What a plan is made of. Sizes are bytes, work is floating-point operations, times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

CONV = "conv"
DEPTHWISE = "depthwise"
PRODUCT = "product"
"""Kinds of products: dense convolutions, those with few channels per group, matrix products."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the machine does in a second: ``flops`` in a large float32 matrix product, ``bandwidth`` bytes
    read and written by a plain copy. ``measured`` names those that were measured and not given."""

    flops: float
    bandwidth: float
    measured: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """What nodes do: ``flops`` of products by kind (a multiplication and an addition are two), bytes
    ``moved`` by all of them, weights included, and how many ``nodes`` do something at all."""

    flops: Mapping[str, float] = field(default_factory=dict)
    moved: float = 0
    nodes: int = 0

    @property
    def total(self) -> float:
        """The operations of all kinds."""
        return sum(self.flops.values())

    def __add__(self, other: Work) -> Work:
        kinds = {**self.flops, **other.flops}
        flops = {kind: self.flops.get(kind, 0) + other.flops.get(kind, 0) for kind in kinds}
        return Work(flops, self.moved + other.moved, self.nodes + other.nodes)

    def __mul__(self, times: float) -> Work:
        flops = {kind: flops * times for kind, flops in self.flops.items()}
        return Work(flops, self.moved * times, round(self.nodes * times))


@dataclass(frozen=True, slots=True)
class TapSize:
    """One tap: ``dims`` and ``nbytes`` of its value, None where the graph does not tell them. ``repeats`` is
    whether an earlier tap sees that very value, which takes no memory of its own then."""

    name: str
    value: str
    dtype: str
    dims: tuple[int, ...] | None
    nbytes: int | None
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What one session has to do: its nodes' work, the bytes of the ``weights`` that it reads, and those
    of them, by kind of product, that are ``packed`` into the layout of its kernel."""

    work: Work
    weights: int
    packed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Part:
    """Taps that are compared at a time: the memory of their values, what is carried over from earlier
    parts, and one session for each of the two runs, None where there is nothing to run."""

    taps: int
    nbytes: int
    carried: int
    propagated: Load | None
    introduced: Load | None


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: ``weights`` once, those ``stored`` in the file itself as read, ``reference`` values of the taps
    that stay in memory, ``outputs`` of the largest parts that are held next to each other, ``carried`` from
    part to part at most, ``working`` set of one forward at most; ``spilled`` values of the reference go to
    a temporary file."""

    weights: int
    stored: int
    reference: int
    outputs: int
    carried: int
    working: int
    spilled: int = 0

    @property
    def peak(self) -> int:
        """Of a comparison: PyTorch and the runtime each hold the weights in their own layout."""
        values = self.reference + self.outputs + self.carried + self.working
        return 2 * self.weights + self.stored + values


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """The plan of comparing one file; ``stages`` are seconds by stage, in order.

    ``taps_are`` says where they come from. ``operators`` is the work of one forward by operator.
    """

    path: str
    inputs: Mapping[str, tuple[int, ...]]
    taps_are: str
    taps: tuple[TapSize, ...]
    budget: int
    parts: tuple[Part, ...]
    operators: Mapping[str, Work]
    memory: Memory
    rates: Rates
    stages: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def sessions(self) -> int:
        """Of both runs of all parts."""
        loads = (load for part in self.parts for load in (part.propagated, part.introduced))
        return sum(load is not None for load in loads)

    @property
    def largest(self) -> TapSize | None:
        """The tap that needs most memory."""
        return max((tap for tap in self.taps if tap.nbytes), key=lambda tap: tap.nbytes or 0, default=None)

    @property
    def tap_bytes(self) -> int:
        """Of all taps, one value counted once."""
        return sum(tap.nbytes or 0 for tap in self.taps if not tap.repeats)

    @property
    def work(self) -> Work:
        """Of one forward."""
        return sum(self.operators.values(), Work())


@dataclass(frozen=True, slots=True)
class Dimensions:
    """A Llama-like decoder: grouped-query attention, a gated feed-forward network, no biases."""

    layers: int
    hidden: int
    heads: int
    kv: int
    ffn: int
    vocab: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What a decoder is cut into: the embedding, a layer, or the head. ``taps`` in order, in bytes;
    ``working`` bytes beside them at the widest place."""

    name: str
    weights: int
    taps: tuple[int, ...]
    work: Work
    working: int


@dataclass(frozen=True, slots=True)
class Shard:
    """Consecutive units that fit the machine together."""

    first: str
    last: str
    units: int
    weights: int
    reference: int
    peak: int
    parts: int
    stages: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class DecoderPlan:
    """The plan of comparing a decoder, shard after shard; ``passed`` bytes go from one to the next."""

    name: str
    dimensions: Dimensions
    dtype: str
    batch: int
    tokens: int
    parameters: int
    layer: Unit
    weights: int
    tap_bytes: int
    passed: int
    budget: int
    machine: int
    shards: tuple[Shard, ...]
    rates: Rates
