"""Experiments on the model: eager PyTorch run in other ways, on other inputs, and its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import numpy_helper

from alignkit.diagnose.bench import Bench, distance
from alignkit.diagnose.experiments import AGREES, DIFFERS
from alignkit.errors import AlignkitError
from alignkit.records import Array, Experiment

UNCHANGED = "computes the same as without"
LIKE_ONNX = "computes what ONNX does"
OTHERWISE = "computes something else than before, and than ONNX"

_SAME_TENSOR = 0.9  # cosine similarity from which two weights are versions of one another


def run_eager(name: str, bench: Bench, way: str) -> Experiment:
    """What does eager PyTorch compute at the culprit when it runs in another way?

    The whole module is asked: run in another way it may pass through other operations.
    """
    bench = bench.whole or bench
    try:
        value = bench.eager(way, bench.tap)
    except AlignkitError as reason:
        return Experiment(name, None, f"could not run: {reason}")
    if value is None:
        return Experiment(name, None, "does not pass this tap")
    error = bench.error_of(value)
    if error <= bench.allowed:
        return Experiment(name, error, UNCHANGED)
    return Experiment(name, error, LIKE_ONNX if bench.is_like_candidate(value) else OTHERWISE)


def run_in_eval(bench: Bench) -> Experiment:
    """Does the training mode act on this tap, and is it what ONNX lacks?"""
    return run_eager("eager PyTorch in evaluation mode", bench, "eval")


def run_reseeded(bench: Bench) -> Experiment:
    """Does eager draw random numbers here?"""
    return run_eager("eager PyTorch with another seed", bench, "reseeded")


def run_under_export(bench: Bench) -> Experiment:
    """Does eager PyTorch compute what the graph does, once it believes to be exported?"""
    return run_eager("eager PyTorch with the export flags set", bench, bench.exporter)


def run_on_example(bench: Bench) -> Experiment | None:
    """Is the segment right on the inputs it was exported with? None when those are compared on."""
    bench = bench.whole or bench
    try:
        error = bench.on_example(bench.tap)
    except AlignkitError as reason:
        return Experiment("the export's own inputs", None, f"could not run: {reason}")
    if error is None:
        return None
    return Experiment("the export's own inputs", error, AGREES if error <= bench.allowed else DIFFERS)


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
