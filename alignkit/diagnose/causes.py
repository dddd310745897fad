"""Causes: from the experiments' readings to one word, with a confidence.

The order is the order of certainty: what a single experiment proves comes first; where none
decides the cause is ``unknown`` and the evidence stands for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from alignkit.diagnose.bench import Bench
from alignkit.diagnose.experiments import (
    AS_RUNTIME,
    Left,
    baked_constants,
    could_not_run,
    countdown,
    find_transformers,
    is_right,
    run_at_levels,
    run_in_double,
    run_in_full,
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
    """``name`` is one of the report's causes; ``confidence`` is ``high``, ``medium`` or ``low``.

    One of low confidence is a suspicion: it stands only where no later question decides.
    """

    name: str
    confidence: str
    experiments: tuple[Experiment, ...] = ()
    evidence: tuple[str, ...] = ()


Verdicts = Iterator[tuple[Experiment, Cause | None]]
Stage = Callable[[str], AbstractContextManager[None]]


def find_cause(
    bench: Bench, stage: Stage = lambda question: nullcontext(), seconds: float = math.inf
) -> Cause:
    """Ask one question after the other, cheapest proof first, until one decides.

    ``stage`` is entered with the name of the question that is being asked. No question is begun
    once ``seconds`` are over, and none that fails keeps the others from being asked.
    """
    left = countdown(seconds)
    done: list[Experiment] = []
    standing = Cause("unknown", "low")
    for question, ask in _QUESTIONS.items():
        if left() <= 0:
            done.append(Experiment(question, None, OUT_OF_TIME))
            continue
        if question in _IN_FULL and bench.full:
            bench = bench.full[0]
        with stage(question):
            for experiment, cause in _answers(question, ask, bench, left):
                done.append(experiment)
                if cause is not None and cause.confidence != "low":
                    return replace(cause, experiments=tuple(done))
                if cause is not None and standing.name == "unknown":
                    standing = cause
    return replace(standing, experiments=tuple(done))


OUT_OF_TIME = "not run: out of time"


def _answers(question: str, ask: Question, bench: Bench, left: Left) -> Verdicts:
    try:
        yield from ask(bench, left)
    except Exception as reason:  # of a model, a library or a file: the reading says which
        yield Experiment(question, None, could_not_run(reason)), None


def _ask_mode(bench: Bench, left: Left) -> Verdicts:
    """Training mode acts on the value: ONNX lacks it where evaluation mode computes what it does."""
    if bench.training:
        experiment = run_in_eval(bench)
        confidence = {LIKE_ONNX: "high", OTHERWISE: "low"}.get(experiment.reading)
        yield experiment, _training(bench, confidence) if confidence else None


def _training(bench: Bench, confidence: str) -> Cause:
    return Cause("train-mode", confidence, evidence=(f"in training mode: {', '.join(bench.training[:3])}",))


def _ask_chance(bench: Bench, left: Left) -> Verdicts:
    """Random numbers that evaluation mode does not draw are the training mode's (live dropout)."""
    experiment = run_reseeded(bench)
    if experiment.reading not in (LIKE_ONNX, OTHERWISE):
        yield experiment, None
    elif bench.training and run_in_eval(bench).reading == OTHERWISE:
        yield experiment, _training(bench, "high")
    else:
        yield experiment, Cause("nondeterministic", "high")


def _ask_optimizer(bench: Bench, left: Left) -> Verdicts:
    """Right without optimisation, wrong with it; where the segment alone is right either way, the
    optimiser spoils it together with its neighbours."""
    experiment = run_unoptimised(bench)
    yield experiment, None
    if not is_right(experiment, bench) or bench.optimization == "disable":
        return
    *others, last = run_at_levels(bench)
    cause = Cause("optimizer", "medium", evidence=("on its own the segment is right at every level",))
    if not is_right(last, bench):
        cause = Cause("optimizer", "high")
        if (named := find_transformers(bench, left)) is not None:
            others, last = [*others, last], named
    yield from ((one, None) for one in others)
    yield last, cause


def _ask_precision(bench: Bench, left: Left) -> Verdicts:
    """Nothing is wrong with a graph that is right as soon as its lower precision is taken out."""
    if bench.full:
        experiment = run_in_full(bench.full)
        yield experiment, Cause("precision", "high") if is_right(experiment, bench) else None


def _ask_example(bench: Bench, left: Left) -> Verdicts:
    """Right on the export's inputs alone; surely a constant where those are of another size."""
    experiment = run_on_example(bench)
    if experiment is None:
        return
    if not is_right(experiment, bench):
        yield experiment, None
        return
    constants = ", ".join(map(str, baked_constants(bench)))
    evidence = (f"it holds {constants}, a size of the export's inputs",) if constants else ()
    yield experiment, Cause("trace-constant", "high" if bench.baked else "medium", evidence=evidence)


def _ask_export_flags(bench: Bench, left: Left) -> Verdicts:
    experiment = run_under_export(bench)
    confidence = {LIKE_ONNX: "high", OTHERWISE: "medium"}.get(experiment.reading)
    yield experiment, Cause("export-branch", confidence) if confidence else None


def _ask_weights(bench: Bench, left: Left) -> Verdicts:
    experiment = compare_weights(bench)
    yield experiment, Cause("weights", "high") if experiment.error else None
    substitution = substitute_weights(bench)
    if substitution is not None:
        yield substitution, Cause("weights", "high")


def _ask_others(bench: Bench, left: Left) -> Verdicts:
    """Another reader of the same graph: with PyTorch against the runtime, or with the runtime."""
    evaluator = run_independently(bench, left() / 2)
    yield evaluator, _accuse_reader(evaluator, bench, "high" if evaluator.reading == AS_RUNTIME else "low")
    double = run_in_double(bench)
    yield double, _accuse_reader(double, bench, "medium")


def _accuse_reader(experiment: Experiment, bench: Bench, confidence: str) -> Cause | None:
    """The runtime, where another reader is right; else the exporter, as surely as that reader proves it."""
    if experiment.error is None:
        return None
    if is_right(experiment, bench):
        return Cause("runtime", "medium" if confidence == "medium" else "high")
    return Cause("exporter", confidence)


Question = Callable[[Bench, Left], Verdicts]

_QUESTIONS: dict[str, Question] = {
    "training mode": _ask_mode,
    "random numbers": _ask_chance,
    "graph optimisation": _ask_optimizer,
    "lower precision": _ask_precision,
    "export branches": _ask_export_flags,
    "the export's inputs": _ask_example,
    "weights": _ask_weights,
    "other evaluations": _ask_others,
}

_IN_FULL = ("weights", "other evaluations")
"""Questions that are asked of the segment in full precision, where it is a converted one."""
