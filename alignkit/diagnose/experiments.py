"""Experiments: what tells one cause from another, run at a culprit only.

Each asks one question of the culprit's segment, always fed with exactly the reference's values,
and answers with an error and a reading. An experiment that cannot run says why and decides
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from alignkit.diagnose.segment import Segment, segment_model
from alignkit.errors import AlignkitError
from alignkit.graph import MarkedGraph
from alignkit.metrics import measure_error
from alignkit.records import Array, Capture, Experiment

_MOST_PRODUCTS = 2_000_000_000  # multiplications that the reference evaluator is worth waiting for
_SAME_TENSOR = 0.9  # cosine similarity from which two weights are versions of one another


@dataclass(frozen=True, slots=True)
class Bench:
    """What the experiments work on: one culprit, its segment, and how the product runs it.

    ``allowed`` is the largest error that counts as rounding here. ``optimization`` is the product's
    level, ``run`` runs a serialised model in the product's runtime at another one. ``under_export`` gives the
    eager value at a tap while the model believes to be exported; ``on_example`` the introduced
    error at a tap for the inputs of the export, None when those are the ones compared on.
    """

    tap: str
    segment: Segment
    marked: MarkedGraph
    reference: Capture
    feeds: Mapping[str, Array]
    candidate: Array
    allowed: float
    optimization: str
    run: Callable[[bytes, Mapping[str, Array], str], Mapping[str, Array]]
    state: Callable[[], Mapping[str, Array]]
    under_export: Callable[[str], Array | None]
    on_example: Callable[[str], float | None]

    @property
    def expected(self) -> Array:
        return self.reference.values[self.tap]

    def error_of(self, value: Array) -> float:
        """max |value - reference|; infinite where they cannot be subtracted."""
        return distance(self.expected, value)

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


def run_unoptimised(bench: Bench) -> Experiment:
    """Does ONNX Runtime compute the reference with graph optimisation off?"""
    name = "ONNX Runtime, optimisation off"
    try:
        model = segment_model(bench.marked, bench.segment).SerializeToString()
        error = bench.error_of(bench.run(model, bench.inputs(), "disable")[bench.segment.value])
    except (AlignkitError, ValueError, KeyError) as reason:
        return Experiment(name, None, f"could not run: {reason}")
    return Experiment(name, error, _agreement(error, bench.allowed))


def run_independently(bench: Bench) -> Experiment:
    """Does an evaluation that is not ONNX Runtime read the graph as PyTorch does?"""
    name = "ONNX reference evaluator"
    if _products(bench) > _MOST_PRODUCTS:
        return Experiment(name, None, "not run: the segment is too large for it")
    try:
        evaluator = ReferenceEvaluator(segment_model(bench.marked, bench.segment))
        outputs = cast(Sequence[Array], evaluator.run(None, bench.inputs()))
        error = bench.error_of(outputs[0])
    except Exception as reason:  # the evaluator raises whatever its numpy code meets
        return Experiment(name, None, f"could not run: {type(reason).__name__}: {reason}")
    return Experiment(name, error, _agreement(error, bench.allowed))


def _products(bench: Bench) -> int:
    """An estimate: every element of the result reads the largest filter once."""
    filters = [int(np.prod(list(tensor.dims)[1:])) for tensor in bench.segment.weights]
    return bench.expected.size * max(filters, default=1)


def _agreement(error: float, allowed: float) -> str:
    return "agrees with PyTorch" if error <= allowed else "differs from PyTorch as well"


def run_under_export(bench: Bench) -> Experiment:
    """Does eager PyTorch compute what the graph does, once it believes to be exported?"""
    name = "eager PyTorch with the export flags set"
    try:
        value = bench.under_export(bench.tap)
    except AlignkitError as reason:
        return Experiment(name, None, f"could not run: {reason}")
    if value is None:
        return Experiment(name, None, "does not pass this tap")
    error = bench.error_of(value)
    if error <= bench.allowed:
        return Experiment(name, error, "computes the same as without")
    same = distance(bench.candidate, value) <= bench.allowed
    return Experiment(name, error, "computes what ONNX does" if same else "computes something else")


def run_on_example(bench: Bench) -> Experiment | None:
    """Is the segment right on the inputs it was exported with? None when those are compared on."""
    try:
        error = bench.on_example(bench.tap)
    except AlignkitError as reason:
        return Experiment("the export's own inputs", None, f"could not run: {reason}")
    if error is None:
        return None
    return Experiment("the export's own inputs", error, _agreement(error, bench.allowed))


def compare_weights(bench: Bench) -> Experiment:
    """Does every weight of the segment stand in the model's state dict, bit for bit?

    Weights that the exporter renamed or transposed are looked for by their values.
    """
    name = "weights against the state dict"
    state = bench.state()
    stale = []
    for tensor in bench.segment.weights:
        value = numpy_helper.to_array(tensor, base_dir=str(bench.marked.folder))
        if value.dtype.kind == "f" and value.size > 1:
            stale += _stale(tensor.name, value, state)
    if not stale:
        return Experiment(name, 0.0, "no difference found")
    parameter, error = max(stale, key=lambda item: item[1])
    return Experiment(name, error, f"{parameter} differs")


def _stale(name: str, value: Array, state: Mapping[str, Array]) -> list[tuple[str, float]]:
    """The parameter that ``value`` is another version of and how far apart they are, if it is one."""
    if name in state and state[name].shape == value.shape:
        error = distance(state[name], value)
        return [(name, error)] if error else []
    forms = [(key, form) for key, parameter in state.items() for form in _forms(parameter, value)]
    if any(np.array_equal(form, value) for _, form in forms):
        return []
    alike = [(key, distance(form, value)) for key, form in forms if _cosine(form, value) > _SAME_TENSOR]
    return [min(alike, key=lambda item: item[1])] if alike else []


def _forms(parameter: Array, value: Array) -> Iterator[Array]:
    """``parameter`` as exporters write it, in the shape of ``value``: itself, transposed, one of
    the equal parts of a packed projection."""
    if parameter.dtype != value.dtype or parameter.ndim != value.ndim:
        return
    if parameter.shape == value.shape:
        yield parameter
    if value.ndim != 2:
        return
    rows, columns = value.shape[::-1]
    if parameter.shape[1] == columns and rows and parameter.shape[0] % rows == 0:
        for part in np.split(parameter, parameter.shape[0] // rows):
            yield part.T


def _cosine(left: Array, right: Array) -> float:
    norm = float(np.linalg.norm(left.ravel())) * float(np.linalg.norm(right.ravel()))
    return float(np.vdot(left.ravel(), right.ravel())) / norm if norm else 0.0
