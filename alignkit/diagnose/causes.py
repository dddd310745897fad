"""Causes: from the experiments' readings to one word, with a confidence.

The order is the order of certainty: what a single experiment proves comes first; where none
decides the cause is ``unknown`` and the evidence stands for itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from alignkit.diagnose.experiments import (
    Bench,
    compare_weights,
    run_independently,
    run_on_example,
    run_under_export,
    run_unoptimised,
)
from alignkit.records import Experiment


@dataclass(frozen=True, slots=True)
class Cause:
    """``name`` is one of the report's causes; ``confidence`` is ``high``, ``medium`` or ``low``."""

    name: str
    confidence: str
    experiments: tuple[Experiment, ...]


def find_cause(bench: Bench) -> Cause:
    """Run the experiments, cheapest proof first, until one decides."""
    unoptimised = run_unoptimised(bench)
    done = [unoptimised]
    if _right(unoptimised, bench) and bench.optimization != "disable":
        return Cause("optimizer", "high", tuple(done))
    example = run_on_example(bench)
    if example is not None:
        done.append(example)
        if _right(example, bench):
            return Cause("trace-constant", "high", tuple(done))
    exported = run_under_export(bench)
    done.append(exported)
    if exported.reading == "computes what ONNX does":
        return Cause("export-branch", "high", tuple(done))
    weights = compare_weights(bench)
    done.append(weights)
    if weights.error:
        return Cause("weights", "high", tuple(done))
    independent = run_independently(bench)
    done.append(independent)
    if _right(independent, bench):
        return Cause("runtime", "high", tuple(done))
    if independent.error is not None:
        return Cause("exporter", "medium", tuple(done))
    return Cause("unknown", "low", tuple(done))


def _right(experiment: Experiment, bench: Bench) -> bool:
    return experiment.error is not None and experiment.error <= bench.allowed
