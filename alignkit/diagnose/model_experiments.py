"""Experiments on the model: eager PyTorch run in other ways, and on other inputs."""

from __future__ import annotations

from alignkit.diagnose.bench import Bench
from alignkit.diagnose.experiments import agreement
from alignkit.errors import AlignkitError
from alignkit.records import Experiment

UNCHANGED = "computes the same as without"
LIKE_ONNX = "computes what ONNX does"
OTHERWISE = "computes something else than before, and than ONNX"


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
    return run_eager(f"{_runner(bench)} in evaluation mode", bench, "eval")


def run_reseeded(bench: Bench) -> Experiment:
    """Does eager draw random numbers here?"""
    return run_eager(f"{_runner(bench)} with another seed", bench, "reseeded")


def run_under_export(bench: Bench) -> Experiment:
    """Does eager PyTorch compute what the graph does, once it believes to be exported?"""
    return run_eager(f"{_runner(bench)}, export flags set", bench, bench.exporter)


def run_on_example(bench: Bench) -> Experiment | None:
    """Is the segment right on the inputs it was exported with? None when those are compared on."""
    bench = bench.whole or bench
    try:
        error = bench.on_example(bench.tap)
    except AlignkitError as reason:
        return Experiment("the export's own inputs", None, f"could not run: {reason}")
    if error is None:
        return None
    return Experiment("the export's own inputs", error, agreement(error, bench))


def _runner(bench: Bench) -> str:
    return bench.reference.sides.running
