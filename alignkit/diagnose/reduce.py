"""Reduce: the fewest nodes of a culprit's segment that still fail.

Three ways, each kept only while the error stays: constants are folded and identities left out;
where right inner values are known, the end moves up to the first wrong one and the start down to
the last right ones. Right inner values come from op taps, and for a fault of the runtime from an
evaluation that does not have it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from alignkit.diagnose.bench import Bench, distance
from alignkit.diagnose.segment import find_segment, segment_model
from alignkit.errors import AlignkitError
from alignkit.graph import Debug, TensorType, captured_names, index_graph, infer_types, inputs_of, subgraphs
from alignkit.metrics import dtype_kind
from alignkit.records import Array

_MOST_FOLDED = 16 * 2**20  # bytes: a large constant is better computed than stored
_RANDOM = ("Random", "Bernoulli", "Multinomial")


@dataclass(frozen=True, slots=True)
class Case:
    """A model with one output, what it is fed and what it should give.

    ``expected_from`` says who computed ``expected``. ``types`` knows the model's values by name;
    ``folded`` are the operators that became weights.
    """

    model: ModelProto
    feeds: Mapping[str, Array]
    expected: Array
    expected_from: str
    types: Mapping[str, TensorType]
    folded: tuple[str, ...] = ()

    @property
    def nodes(self) -> list[NodeProto]:
        return list(self.model.graph.node)

    @property
    def output(self) -> str:
        return str(self.model.graph.output[0].name)


@dataclass(frozen=True, slots=True)
class Finding:
    """A case that fails: what the runtime gave for it, what it may be off by, and how it was run."""

    case: Case
    output: Array
    allowed: float
    optimization: str
    providers: tuple[Any, ...] = ("CPUExecutionProvider",)
    disabled_optimizers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """How often a reduction may run a model, and for how many seconds altogether."""

    attempts: int = 64
    seconds: float = 10.0


class Trials:
    """Runs cases as the product does, until the budget is spent; then no case counts as failing."""

    def __init__(self, bench: Bench, budget: Budget) -> None:
        self.bench = bench
        self._attempts = budget.attempts
        self._until = time.monotonic() + budget.seconds

    @property
    def left(self) -> bool:
        return self._attempts > 0 and time.monotonic() < self._until

    def fails(self, case: Case) -> bool:
        """Whether the product's runtime is off by more than rounding; False when it cannot run."""
        if not self.left:
            return False
        self._attempts -= 1
        try:
            value = run_case(case, self.bench)
        except (AlignkitError, ValueError, KeyError):
            return False
        return distance(case.expected, value) > allowed_error(case, self.bench)


def whole_case(bench: Bench) -> Case:
    """The culprit's segment as it stands, fed with the reference."""
    model = segment_model(bench.marked, bench.segment)
    _strip_origin(model.graph.node)
    types = {**infer_types(model), **bench.marked.types}
    return Case(model, bench.inputs(), bench.expected, bench.reference.sides.reference, types)


def _strip_origin(nodes: Iterable[NodeProto]) -> None:
    """Exporters note stack traces with the user's paths; a bundle is made to be passed on."""
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
        for body in subgraphs(node):
            _strip_origin(body.node)


def run_case(case: Case, bench: Bench) -> Array:
    """What the product's runtime computes. Raises :class:`AlignkitError` when it cannot."""
    found = bench.run(case.model.SerializeToString(), case.feeds, bench.optimization)
    return np.asarray(found[case.output])


def allowed_error(case: Case, bench: Bench) -> float:
    """The largest error that counts as rounding: the culprit's own, at the scale of this output."""
    if case.expected is bench.expected:
        return bench.allowed
    if dtype_kind(case.expected.dtype) not in ("float", "complex"):
        return 0.0
    scale = _scale(bench.expected)
    return bench.allowed * _scale(case.expected) / scale if scale else bench.allowed


def _scale(value: Array) -> float:
    magnitude = np.abs(value.astype(np.float64))
    return float(np.max(magnitude, where=np.isfinite(magnitude), initial=0.0))


def reduce_case(
    case: Case, cause: str, known: Mapping[str, Array] | None, bench: Bench, budget: Budget | None = None
) -> Case:
    """The smallest case found within ``budget``; ``case`` itself, which must fail, at worst.

    ``known`` maps ONNX values to the reference's arrays. They are used first; then, for the causes
    ``optimizer`` and ``runtime``, the values that a right evaluation of what is left gives.
    """
    trials = Trials(bench, budget or Budget())
    case = _shrink(case, known or {}, case.expected_from, trials)
    if len(case.nodes) > 1:
        truth, source = _right_values(case, cause, bench)
        case = _shrink(case, truth, source, trials)
    for simplify in (_without_identities, _folded):
        simpler = simplify(case, bench)
        if len(simpler.nodes) < len(case.nodes) and trials.fails(simpler):
            case = simpler
    return case


def _right_values(case: Case, cause: str, bench: Bench) -> tuple[Mapping[str, Array], str]:
    """Inner values from the evaluation that the experiments found right, and its name."""
    if cause not in _EVALUATIONS:
        return {}, ""
    evaluate, source = _EVALUATIONS[cause]
    try:
        values = evaluate(_exposing(case.model, list(_inner_values(case))), case.feeds, bench)
    except Exception:  # of any kind, from the evaluator's numpy code: then the case stays as large as it is
        return {}, ""
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}, source


def _evaluate_unoptimised(
    model: ModelProto, feeds: Mapping[str, Array], bench: Bench
) -> Mapping[str, object]:
    return bench.run(model.SerializeToString(), feeds, "disable")


def _evaluate_independently(
    model: ModelProto, feeds: Mapping[str, Array], bench: Bench
) -> Mapping[str, object]:
    found = cast(Sequence[object], ReferenceEvaluator(model).run(None, dict(feeds)))
    return dict(zip([value.name for value in model.graph.output], found, strict=True))


_EVALUATIONS = {
    "optimizer": (_evaluate_unoptimised, "ONNX Runtime without graph optimisation"),
    "runtime": (_evaluate_independently, "the ONNX reference evaluator"),
}
"""Cause -> the evaluation that does not have the fault, and how it is called."""


def _exposing(model: ModelProto, names: Collection[str]) -> ModelProto:
    exposing = ModelProto()
    exposing.CopyFrom(model)
    # Without a type: what evaluates the model infers it.
    exposing.graph.output.extend(ValueInfoProto(name=name) for name in names)
    return exposing


def _shrink(case: Case, truth: Mapping[str, Array], source: str, trials: Trials) -> Case:
    """Cut at values in ``truth`` while fewer nodes still fail."""
    while trials.left and truth:
        smaller = _start_later(_end_earlier(case, truth, source, trials), truth, source, trials)
        if len(smaller.nodes) >= len(case.nodes):
            break
        case = smaller
    return case


def _end_earlier(case: Case, truth: Mapping[str, Array], source: str, trials: Trials) -> Case:
    """End at the first value that comes out wrong, found by bisection along the nodes."""
    ends = [name for name in _inner_values(case) if name in truth]
    first, last = 0, len(ends)
    while first < last:
        middle = (first + last) // 2
        part = replace(case, expected=truth[ends[middle]], expected_from=source)
        part = _part(part, ends[middle], {})
        if trials.fails(part):
            case, last = part, middle
        else:
            first = middle + 1
    return case


def _start_later(case: Case, truth: Mapping[str, Array], source: str, trials: Trials) -> Case:
    """Feed right values as late as the error allows: all at once, or else one by one."""
    known = {name: truth[name] for name in _inner_values(case) if name in truth}
    latest = _part(case, case.output, known)
    if len(latest.nodes) < len(case.nodes) and trials.fails(latest):
        return latest
    for name, value in reversed(known.items()):
        if trials.left and name in set(_inner_values(case)):
            part = _part(case, case.output, {name: value})
            if len(part.nodes) < len(case.nodes) and trials.fails(part):
                case = part
    return case


def _part(case: Case, end: str, starts: Mapping[str, Array]) -> Case:
    """What computes ``end`` out of ``starts`` and the case's own inputs; ``expected`` is kept."""
    names = {end, *starts}
    types = {name: _type_of(value) for name, value in (*starts.items(), (end, case.expected))}
    types |= case.types
    marked = index_graph(case.model, Path(), tuple(Debug(v, v, v) for v in names), {}, types)
    segment = find_segment(marked, end, starts.keys())
    feeds = {**case.feeds, **starts}
    model = segment_model(marked, segment)
    return replace(case, model=model, feeds={v.name: feeds[v.name] for v in model.graph.input})


def _type_of(value: Array) -> TensorType:
    return TensorType(helper.np_dtype_to_tensor_dtype(value.dtype), value.ndim)


def _inner_values(case: Case) -> Iterator[str]:
    """What the nodes compute out of the inputs, in their order, without the output."""
    constant = _constants(case)
    for node in case.nodes:
        for name in node.output:
            if name and name not in constant and name != case.output:
                yield name


def _constants(case: Case) -> set[str]:
    """Values that do not depend on the inputs: weights, and what is computed out of them alone."""
    found = {tensor.name for tensor in case.model.graph.initializer}
    for node in case.nodes:
        if inputs_of(node) <= found and not node.op_type.startswith(_RANDOM):
            found.update(name for name in node.output if name)
    return found


def _without_identities(case: Case, bench: Bench) -> Case:
    """Every reader of an ``Identity`` reads what went in instead."""
    captured = {name for node in case.nodes for name in captured_names(node)}
    origin: dict[str, str] = {}
    kept = []
    for node in case.nodes:
        slim = NodeProto()
        slim.CopyFrom(node)
        for position, name in enumerate(slim.input):
            slim.input[position] = origin.get(name, name)
        out = slim.output[0] if slim.output else ""
        if slim.op_type == "Identity" and not slim.domain and out != case.output and out not in captured:
            origin[out] = slim.input[0]
        else:
            kept.append(slim)
    return _with_nodes(case, kept)


def _folded(case: Case, bench: Bench) -> Case:
    """Values that depend on no input become weights, as ONNX Runtime computes them unoptimised."""
    constant = _constants(case)
    kept: list[NodeProto] = []
    computed: list[NodeProto] = []
    for node in case.nodes:
        (computed if constant.issuperset(filter(None, node.output)) else kept).append(node)
    made = {name for node in computed for name in node.output}
    wanted = sorted(made & {name for node in kept for name in inputs_of(node)})
    if case.output in made or not wanted:
        return case
    model = _exposing(_with_nodes(case, computed).model, wanted)
    del model.graph.output[0], model.graph.input[:]
    try:
        values = bench.run(model.SerializeToString(), {}, "disable")
        if sum(values[name].nbytes for name in wanted) > _MOST_FOLDED:
            return case
        weights = [numpy_helper.from_array(values[name], name) for name in wanted]
    except (AlignkitError, ValueError, TypeError, AttributeError):
        return case  # a sequence, or a type that has no array: it stays computed
    operators = dict.fromkeys(node.op_type for node in computed if node.op_type != "Constant")
    return _with_nodes(replace(case, folded=tuple(operators)), kept, weights)


def _with_nodes(case: Case, nodes: Sequence[NodeProto], weights: Sequence[object] = ()) -> Case:
    """The case with other nodes, more weights, and no weight or input that nothing reads."""
    model = ModelProto()
    model.CopyFrom(case.model)
    read = {name for node in nodes for name in inputs_of(node)}
    graph = model.graph
    kept = [tensor for tensor in (*case.model.graph.initializer, *weights) if tensor.name in read]
    inputs = [value for value in case.model.graph.input if value.name in read]
    for field, items in ((graph.node, nodes), (graph.initializer, kept), (graph.input, inputs)):
        del field[:]
        field.extend(items)
    return replace(case, model=model, feeds={value.name: case.feeds[value.name] for value in inputs})
