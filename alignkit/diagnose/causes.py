"""Causes: from the experiments' readings to one word, with a confidence.

The order is the order of certainty: what a single experiment proves comes first; where none
decides the cause is ``unknown`` and the evidence stands for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from alignkit.diagnose.advice import CONVERTED
from alignkit.diagnose.bench import Bench
from alignkit.diagnose.experiments import (
    Left,
    as_product,
    baked_constants,
    could_not_run,
    countdown,
    find_transformers,
    is_right,
    run_at_levels,
    run_elsewhere,
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
    advice: str = ""  # where the one for all such causes does not fit


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


SATURATES = (
    "without graph optimisation its rounding does less harm: the fused kernels of this machine are coarser "
    "(on processors without 8-bit dot products they saturate; quantise with reduce_range)"
)
OUT_OF_TIME = "not run: out of time"


def _answers(question: str, ask: Question, bench: Bench, left: Left) -> Verdicts:
    try:
        yield from ask(bench, left)
    except Exception as reason:  # of a model, a library or a file: the reading says which
        yield Experiment(question, None, could_not_run(reason)), None


def _ask_mode(bench: Bench, left: Left) -> Verdicts:
    """Training mode acts on the value: ONNX lacks it where evaluation mode computes what it does."""
    if bench.fixed:
        yield Experiment("the reference run in other ways", None, f"not run: {bench.fixed}"), None
        return
    if bench.training:
        experiment = run_in_eval(bench)
        confidence = {LIKE_ONNX: "high", OTHERWISE: "low"}.get(experiment.reading)
        yield experiment, _training(bench, confidence) if confidence else None


def _training(bench: Bench, confidence: str) -> Cause:
    return Cause("train-mode", confidence, evidence=(f"in training mode: {', '.join(bench.training[:3])}",))


def _ask_chance(bench: Bench, left: Left) -> Verdicts:
    """Random numbers that evaluation mode does not draw are the training mode's (live dropout)."""
    if bench.fixed:
        return
    experiment = run_reseeded(bench)
    if experiment.reading not in (LIKE_ONNX, OTHERWISE):
        yield experiment, None
    elif bench.training and run_in_eval(bench).reading == OTHERWISE:
        yield experiment, _training(bench, "high")
    else:
        yield experiment, Cause("nondeterministic", "high")


def _ask_precision(bench: Bench, left: Left) -> Verdicts:
    """Nothing is wrong with a graph that is right as soon as its lower precision is taken out."""
    if not bench.full:
        return
    experiment = run_in_full(bench.full)
    if not is_right(experiment, bench):
        yield experiment, None
        return
    evidence: tuple[str, ...] = ()
    if bench.optimization:
        unoptimised = run_unoptimised(bench)
        evidence = (SATURATES,) if is_right(unoptimised, bench) else ()
        yield unoptimised, None
    yield experiment, Cause("precision", "high", evidence=evidence, advice=CONVERTED)


def _ask_optimizer(bench: Bench, left: Left) -> Verdicts:
    """Right without optimisation, wrong with it; where the segment alone is right either way, the
    optimiser spoils it together with its neighbours. Of another runtime no level can be chosen."""
    if not bench.optimization:
        return
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
    if bench.fixed:
        return
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
    if bench.elsewhere is not None:
        yield _read_by(run_elsewhere(bench, bench.elsewhere), bench)
    if not bench.is_evaluator:
        yield _read_by(run_independently(bench, left() / 2), bench)
    double = run_in_double(bench)
    yield double, _accuse_reader(double, bench, "medium")


def _read_by(reader: Experiment, bench: Bench) -> tuple[Experiment, Cause | None]:
    return reader, _accuse_reader(reader, bench, "high" if reader.reading == as_product(bench) else "low")


def _accuse_reader(experiment: Experiment, bench: Bench, confidence: str) -> Cause | None:
    """The runtime, where another reader is right; else the exporter, as surely as that reader proves it.

    Where the reference is only values or a graph, weights, modes and branches were not asked about, and
    others than an exporter may have made the file: then nobody is named.
    """
    if experiment.error is None:
        return None
    if is_right(experiment, bench):
        reference = bench.reference.sides.reference
        readers = f"{experiment.name} reads the same graph as {reference} does, {bench.product} does not"
        evidence = () if bench.elsewhere is None else (readers,)
        return Cause("runtime", "medium" if confidence == "medium" else "high", evidence=evidence)
    if bench.precision == "int8":  # and the segment could not be put in full precision
        return Cause("unknown", "low", evidence=(f"it computes in {bench.precision}: that may be all",))
    if bench.fixed:
        return Cause("unknown", "low", evidence=(_OTHER_GRAPH.format(bench.reference.sides.reference),))
    return Cause("exporter", confidence)


_OTHER_GRAPH = (
    "no kernel is at fault: the listed nodes themselves say something else than {}, by an attribute, a "
    "constant, a weight or a connection"
)


Question = Callable[[Bench, Left], Verdicts]

_QUESTIONS: dict[str, Question] = {
    "training mode": _ask_mode,
    "random numbers": _ask_chance,
    # Before the optimiser: coarser kernels that it brings in are a matter of precision.
    "lower precision": _ask_precision,
    "graph optimisation": _ask_optimizer,
    "export branches": _ask_export_flags,
    "the export's inputs": _ask_example,
    "weights": _ask_weights,
    "other evaluations": _ask_others,
}

_IN_FULL = ("weights", "other evaluations")
"""Questions that are asked of the segment in full precision, where it is a converted one."""
