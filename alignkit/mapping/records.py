"""What a mapping says of each tap, and how an ONNX value is laid out against its tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import prod

import numpy as np
from onnx import ModelProto

from alignkit.records import Array

Shape = tuple[int, ...]


class How(str, Enum):
    """How a tap came by its ONNX value, or why it has none."""

    PINNED = "pinned"  # the user said so
    PROVENANCE = "provenance"  # names and neighbours say so, the numbers do not (a fault sits there)
    VALUE = "value"  # the numbers say so
    BOTH = "provenance+value"
    FUSED = "fused"  # a node of the file computes this and more
    MISSING = "missing"  # nothing in the file is this value
    AMBIGUOUS = "ambiguous"  # several values could be it, and nothing tells them apart


@dataclass(frozen=True, slots=True)
class Layout:
    """``value.reshape(split).transpose(order).reshape(shape)`` has the tensor's own order.

    ``source`` is the shape of the ONNX value, ``shape`` that of the recorded tensor.
    """

    source: Shape
    split: Shape
    order: tuple[int, ...]
    shape: Shape

    @classmethod
    def reshape(cls, source: Shape, shape: Shape) -> Layout:
        """The same elements in the same order."""
        return cls(source, source, tuple(range(len(source))), shape)

    @property
    def keeps_order(self) -> bool:
        """Whether the elements lie in the same order on both sides."""
        return self.order == tuple(range(len(self.order)))

    @property
    def is_plain(self) -> bool:
        """Whether value and tensor have one shape and one order."""
        return self.keeps_order and self.source == self.shape

    def apply(self, value: Array) -> Array:
        """The ONNX value in the tensor's layout."""
        return value.reshape(self.split).transpose(self.order).reshape(self.shape)

    def undo(self, tensor: Array) -> Array:
        """The tensor in the ONNX value's layout."""
        permuted = tuple(self.split[axis] for axis in self.order)
        back = tuple(int(axis) for axis in np.argsort(self.order))
        return tensor.reshape(permuted).transpose(back).reshape(self.source)

    def sources_of(self, positions: Array) -> Array:
        """Flat positions in the ONNX value of the given flat positions in the tensor."""
        if self.keeps_order or not prod(self.shape):
            return positions
        permuted = tuple(self.split[axis] for axis in self.order)
        coordinates = np.unravel_index(positions, permuted)
        unpermuted = [coordinates[i] for i in np.argsort(self.order)]
        return np.asarray(np.ravel_multi_index(unpermuted, self.split))

    def __str__(self) -> str:
        steps = []
        if not self.keeps_order:
            if self.split != self.source:
                steps.append(f"reshape {list(self.split)}")
            steps.append(f"transpose {list(self.order)}")
        permuted = tuple(self.split[axis] for axis in self.order)
        if permuted != self.shape:
            steps.append(f"reshape {list(self.shape)}")
        return ", ".join(steps) or "same"


@dataclass(frozen=True, slots=True)
class MappedTap:
    """One tap: its ONNX value, or None and the ``reason``.

    ``confidence`` is ``"high"``, ``"medium"`` or ``"low"`` and empty where there is no value;
    ``transform`` makes the value comparable; ``distance`` is ``|value - tensor| / |tensor|`` (L2)
    where the numbers were looked at with all that the value reads being right.
    """

    tap: str
    onnx_value: str | None
    how: How
    confidence: str = ""
    transform: Layout | None = None
    reason: str = ""
    distance: float | None = None


@dataclass(frozen=True, slots=True)
class TapMapping:
    """Every tap of the reference, in execution order, and the model whose values they name.

    ``model`` is the given graph with its local functions inlined: the names of ``onnx_value`` are
    names in it. ``notes`` say what could not be looked at. ``weights_found`` is the share of the file's
    weights, by number of elements, that are the model's; None where its parameters were not given.
    """

    taps: Mapping[str, MappedTap]
    model: ModelProto
    notes: tuple[str, ...] = ()
    runs: int = 0  # how often the graph was run
    weights_found: float | None = None

    def found(self) -> dict[str, MappedTap]:
        """The taps that have an ONNX value."""
        return {name: tap for name, tap in self.taps.items() if tap.onnx_value is not None}


@dataclass(frozen=True, slots=True)
class Match:
    """A value whose numbers are those of a recorded tensor, up to ``distance``."""

    value: str
    distance: float
    layout: Layout


@dataclass(frozen=True, slots=True)
class Claims:
    """What names say: per tap the values that may hold it, and the modules that the file knows.

    ``values`` are sets, since a scope may hand out several values. ``owned`` are the paths of modules
    of which some node is known; ``unclear`` are values that a node of no known module reads. ``weighted``
    are, by module, the values of the nodes that read its weights; ``folded`` those modules whose weight the
    file holds scaled, as folding a BatchNorm into it does. ``makers`` are the innermost modules that a
    value's node names itself, for the value and for what it is a view of.
    """

    values: Mapping[str, frozenset[str]] = field(default_factory=dict)
    owned: frozenset[str] = frozenset()
    unclear: frozenset[str] = frozenset()
    weighted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    folded: frozenset[str] = frozenset()
    makers: Mapping[str, frozenset[str]] = field(default_factory=dict)
