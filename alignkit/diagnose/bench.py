"""The bench: one culprit, its segment, and everything that an experiment may run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from alignkit.diagnose.segment import Segment
from alignkit.graph import MarkedGraph
from alignkit.metrics import measure_error
from alignkit.records import Array, Capture

RunModel = Callable[[bytes, Mapping[str, Array], str], Mapping[str, Array]]
"""Serialised model, feeds, optimisation level -> outputs by name, in the product's runtime."""

RunWithout = Callable[[bytes, Mapping[str, Array], Sequence[str]], Mapping[str, Array]]
"""The same at the product's level, without the graph transformers of those names."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What the experiments work on.

    ``candidate`` is what the product makes of the segment, None where it failed; ``allowed`` the
    largest error that counts as rounding here; ``product`` is the runtime's name, ``optimization`` its
    level, empty where it has none to choose. ``elsewhere`` runs a model in ONNX Runtime on the CPU, None
    where that is the product; ``is_evaluator``: the product is the ONNX reference evaluator. ``eager`` gives
    the value at a tap when eager PyTorch runs in another way (see ``alignkit.capture.WAYS``), None
    where it does not pass there; ``exporter`` is the way that stands for the export. ``on_example`` is
    the introduced error at a tap for the inputs of the export, None when those are the ones
    compared on. ``baked`` are sizes that the export's inputs have and these do not.
    """

    tap: str
    segment: Segment
    marked: MarkedGraph
    reference: Capture
    feeds: Mapping[str, Array]
    candidate: Array | None
    allowed: float
    optimization: str
    run: RunModel
    run_without: RunWithout
    state: Callable[[], Mapping[str, Array]]
    eager: Callable[[str, str], Array | None]
    on_example: Callable[[str], float | None]
    exporter: str = "dynamo"
    training: tuple[str, ...] = ()  # modules in training mode that may act on this tap
    baked: tuple[int, ...] = ()
    module: str = ""  # path of the module whose parameters may stand in the segment
    precision: str | None = None  # what the segment computes in, where that is coarser than the model
    fixed: str = ""  # why the reference computes in one way only, where that is so
    full: tuple[Bench, ...] = ()  # the same in full precision, where the file computes in a lower one
    whole: Bench | None = None  # the module's own, where this one is an operation inside it
    product: str = "ONNX Runtime"
    elsewhere: RunModel | None = None
    is_evaluator: bool = False

    @property
    def expected(self) -> Array:
        return self.reference.values[self.tap]

    def error_of(self, value: Array) -> float:
        """max |value - reference|; infinite where they cannot be subtracted."""
        return distance(self.expected, value)

    def is_like_candidate(self, value: Array) -> bool:
        """Whether ``value`` is what the product computes, up to rounding."""
        return self.candidate is not None and distance(self.candidate, value) <= self.allowed

    def inputs(self) -> dict[str, Array]:
        values = self.reference.values
        return {
            name: values[source] if source in values else self.feeds[source]
            for name, source in self.segment.borders.items()
        }


def distance(expected: Array, value: Array) -> float:
    """max |value - expected|; infinite for other shapes, or NaN and Inf on one side only."""
    value = np.asarray(value)
    if value.shape != expected.shape:
        return float("inf")
    metrics = measure_error(expected, value.astype(expected.dtype, copy=False), rtol=0.0, atol=0.0)
    return float("inf") if metrics.nonfinite_mismatches else (metrics.max_abs or 0.0)
