"""Causes: from the experiments' readings to one word, with a confidence.

The order is the order of certainty: what a single experiment proves comes first; where none
decides the cause is ``unknown`` and the evidence stands for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from alignkit.diagnose.bench import Bench
from alignkit.diagnose.experiments import (
    baked_constants,
    find_optimizers,
    is_right,
    run_in_double,
    run_independently,
    run_unoptimised,
)
from alignkit.diagnose.model_experiments import (
    LIKE_ONNX,
    OTHERWISE,
    run_in_eval,
    run_on_example,
    run_reseeded,
    run_under_export,
)
from alignkit.diagnose.weights import compare_weights, substitute_weights
from alignkit.records import Experiment


@dataclass(frozen=True, slots=True)
class Cause:
    """``name`` is one of the report's causes; ``confidence`` is ``high``, ``medium`` or ``low``."""

    name: str
    confidence: str
    experiments: tuple[Experiment, ...] = ()
    evidence: tuple[str, ...] = ()


Verdicts = Iterator[tuple[Experiment, Cause | None]]
Stage = Callable[[str], AbstractContextManager[None]]


def find_cause(bench: Bench, stage: Stage = lambda question: nullcontext()) -> Cause:
    """Ask one question after the other, cheapest proof first, until one decides.

    ``stage`` is entered with the name of the question that is being asked.
    """
    done: list[Experiment] = []
    for question, ask in _QUESTIONS.items():
        with stage(question):
            for experiment, cause in ask(bench):
                done.append(experiment)
                if cause is not None:
                    return Cause(cause.name, cause.confidence, tuple(done), cause.evidence)
    return Cause("unknown", "low", tuple(done))


def _ask_mode(bench: Bench) -> Verdicts:
    """Training mode acts on the value: ONNX lacks it where evaluation mode computes what it does."""
    if bench.training:
        experiment = run_in_eval(bench)
        named = (f"in training mode: {', '.join(bench.training[:3])}",)
        found = {LIKE_ONNX: "high", OTHERWISE: "medium"}.get(experiment.reading)
        yield experiment, Cause("train-mode", found, evidence=named) if found else None


def _ask_chance(bench: Bench) -> Verdicts:
    experiment = run_reseeded(bench)
    is_random = experiment.reading in (LIKE_ONNX, OTHERWISE)
    yield experiment, Cause("nondeterministic", "high") if is_random else None


def _ask_optimizer(bench: Bench) -> Verdicts:
    experiment = run_unoptimised(bench)
    if not is_right(experiment, bench) or bench.optimization == "disable":
        yield experiment, None
        return
    yield experiment, None
    further = find_optimizers(bench)
    yield from ((one, None) for one in further[:-1])
    last = further[-1] if further else experiment
    yield last, Cause("optimizer", "high")


def _ask_example(bench: Bench) -> Verdicts:
    experiment = run_on_example(bench)
    if experiment is not None:
        constants = baked_constants(bench)
        named = (
            f"it holds {', '.join(map(str, constants))}, a size of the export's inputs" if constants else ""
        )
        evidence = (named,) if named else ()
        yield (
            experiment,
            Cause("trace-constant", "high", (), evidence) if is_right(experiment, bench) else None,
        )


def _ask_export_flags(bench: Bench) -> Verdicts:
    experiment = run_under_export(bench)
    confidence = {LIKE_ONNX: "high", OTHERWISE: "medium"}.get(experiment.reading)
    yield experiment, Cause("export-branch", confidence) if confidence else None


def _ask_weights(bench: Bench) -> Verdicts:
    experiment = compare_weights(bench)
    yield experiment, Cause("weights", "high") if experiment.error else None
    substitution = substitute_weights(bench)
    if substitution is not None:
        yield substitution, Cause("weights", "high")


def _ask_others(bench: Bench) -> Verdicts:
    """Another reader of the same graph: with PyTorch against the runtime, or with the runtime."""
    for run, confidence in ((run_independently, "high"), (run_in_double, "medium")):
        experiment = run(bench)
        if experiment.error is None:
            yield experiment, None
        else:
            cause = "runtime" if is_right(experiment, bench) else "exporter"
            yield experiment, Cause(cause, confidence)


_QUESTIONS: dict[str, Callable[[Bench], Verdicts]] = {
    "training mode": _ask_mode,
    "random numbers": _ask_chance,
    "graph optimisation": _ask_optimizer,
    "the export's inputs": _ask_example,
    "export branches": _ask_export_flags,
    "weights": _ask_weights,
    "other evaluations": _ask_others,
}
