"""The values of an ONNX file: which there are, how they hang together, and how to fetch them.

Only values of the main graph can be fetched; local functions are inlined first, bodies of control
flow stay closed. A fetched value may be computed from others that are *fed*: then the graph is cut
there, and what lies before the cut is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from alignkit.graph import graph_inputs, infer_types, inputs_of, known_types, subgraphs
from alignkit.mapping.fingerprint import kind_of
from alignkit.mapping.records import Shape
from alignkit.records import Array

Run = Callable[[ModelProto, Path, Mapping[str, Array]], Mapping[str, Array]]
"""Runs a graph whose external data lie in the folder on the feeds: every output by name."""

_VIEWS = {
    *("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast", "CastLike"),
    *("Dropout", "Expand", "QuantizeLinear", "DequantizeLinear", "BitCast"),
}
"""Operators whose first output holds the values of their first input, as long as the size is the same."""
_NO_TENSORS = {
    *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert"),
    *("SequenceMap", "SplitToSequence", "Optional", "OptionalGetElement", "ZipMap"),
}
"""Operators whose outputs are, or may be, no tensors."""
_FETCHED = {
    *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.BOOL),
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
}
_WIDE = {TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT64}
_PREFIX = "alignkit_map_"


@dataclass(frozen=True, slots=True)
class ValueGraph:
    """A file's main graph by value name.

    ``order`` counts values in the file's topological order, inputs first. ``producer`` and ``readers``
    are indices of nodes. ``fixed`` values do not depend on any input. ``bodies`` name the nodes that
    hold values out of reach.
    """

    model: ModelProto
    folder: Path
    nodes: tuple[NodeProto, ...]
    order: Mapping[str, int]
    producer: Mapping[str, int]
    readers: Mapping[str, tuple[int, ...]]
    fixed: frozenset[str]
    elements: Mapping[str, int]
    bodies: tuple[str, ...]

    def can_fetch(self, value: str) -> bool:
        """Whether a run can hand out ``value`` as an array."""
        node = self.nodes[self.producer[value]]
        known = self.elements.get(value)
        return node.op_type not in _NO_TENSORS and (known is None or known in _FETCHED)

    def bytes_of(self, value: str, shape: Shape) -> int:
        """About how much memory ``value`` takes."""
        return prod(shape) * (8 if self.elements.get(value) in _WIDE else 4)

    def viewed(self, value: str) -> str | None:
        """The value of which ``value`` may be another view."""
        index = self.producer.get(value)
        if index is None:
            return None
        node = self.nodes[index]
        is_view = node.op_type in _VIEWS and node.output[0] == value
        return node.input[0] if is_view else None


def read_values(model: ModelProto, folder: Path) -> ValueGraph:
    """The value graph of ``model`` with its local functions inlined."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    nodes = in_order(model.graph.node)
    inputs = graph_inputs(model)
    order = {name: i for i, name in enumerate((*inputs, *(t.name for t in model.graph.initializer)))}
    readers: dict[str, list[int]] = {}
    producer: dict[str, int] = {}
    varying = set(inputs)
    for index, node in enumerate(nodes):
        read = inputs_of(node)
        for name in read:
            readers.setdefault(name, []).append(index)
        for name in filter(None, node.output):
            order[name], producer[name] = len(order), index
            if read & varying or _is_random(node):
                varying.add(name)
    types = {**infer_types(model), **known_types(model)}
    return ValueGraph(
        model,
        folder,
        nodes,
        order,
        producer,
        {name: tuple(found) for name, found in readers.items()},
        frozenset(order.keys() - varying),
        {name: known.elem for name, known in types.items()},
        tuple(f"{node.op_type} {node.name!r}" for node in nodes if next(subgraphs(node), None)),
    )


def in_order(nodes: Sequence[NodeProto]) -> tuple[NodeProto, ...]:
    """The file's own order, except that what a node reads goes before it: converters do not all sort."""
    maker = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    ordered: dict[int, None] = {}
    waiting = list(range(len(nodes) - 1, -1, -1))
    opened: set[int] = set()
    while waiting:
        index = waiting[-1]
        before = [maker[n] for n in sorted(inputs_of(nodes[index])) if n in maker and maker[n] not in ordered]
        if index in ordered or index in opened or not before:
            ordered.setdefault(waiting.pop())
        else:
            opened.add(index)
            waiting.extend(before)
    return tuple(nodes[index] for index in ordered)


def _is_random(node: NodeProto) -> bool:
    return node.op_type.startswith("Random") or node.op_type == "Bernoulli"


def measure_shapes(graph: ValueGraph, feeds: Mapping[str, Array], run: Run) -> dict[str, Shape]:
    """The shape of every value that can be fetched, by one run that yields nothing but shapes."""
    names = [name for name in graph.producer if graph.can_fetch(name)]
    model = cut_model(graph, names, {})
    del model.graph.output[:]
    for index, name in enumerate(names):
        shape = f"{_PREFIX}shape_{index}"
        model.graph.node.append(onnx.helper.make_node("Shape", [name], [shape], name=shape))
        model.graph.output.append(onnx.helper.make_tensor_value_info(shape, TensorProto.INT64, [None]))
    found = run(model, graph.folder, _needed(model, feeds)) if names else {}
    shapes = {name: tuple(int(dim) for dim in found[f"{_PREFIX}shape_{i}"]) for i, name in enumerate(names)}
    return {**shapes, **{name: feeds[name].shape for name in graph_inputs(graph.model) if name in feeds}}


def fetch_values(
    graph: ValueGraph,
    names: Iterable[str],
    shapes: Mapping[str, Shape],
    feeds: Mapping[str, Array],
    cuts: Mapping[str, Array],
    run: Run,
    budget_bytes: int,
) -> Iterator[Mapping[str, Array]]:
    """The named values in batches of about ``budget_bytes``, in the file's order.

    ``cuts`` are what is fed in place of computed values, in the shape and dtype of the file.
    """
    given = {name: feeds[name] for name in names if name in feeds}
    if given:
        yield given
    rest = sorted((name for name in names if name in graph.producer), key=graph.order.__getitem__)
    for batch in _batches(graph, rest, shapes, budget_bytes):
        model = cut_model(graph, batch, {name: array.dtype for name, array in cuts.items()})
        fed = {**feeds, **{_PREFIX + name: array for name, array in cuts.items()}}
        found = run(model, graph.folder, _needed(model, fed))
        yield {name: found[_computed(name, cuts)] for name in batch}


def _batches(
    graph: ValueGraph, names: list[str], shapes: Mapping[str, Shape], budget: int
) -> Iterator[list[str]]:
    batch: list[str] = []
    used = 0
    for name in names:
        size = graph.bytes_of(name, shapes[name])
        if batch and used + size > budget:
            yield batch
            batch, used = [], 0
        batch.append(name)
        used += size
    if batch:
        yield batch


def _needed(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    return {value.name: feeds[value.name] for value in model.graph.input if value.name in feeds}


def _computed(name: str, cuts: Iterable[str]) -> str:
    """What the graph itself computes for ``name``, whose readers see the fed value where it is cut."""
    return f"{_PREFIX}computed_{name}" if name in cuts else name


def cut_model(
    graph: ValueGraph, outputs: Iterable[str], cuts: Mapping[str, np.dtype[np.generic]]
) -> ModelProto:
    """The smallest model that computes ``outputs`` from the graph inputs and the ``cuts``.

    A cut value ``v`` becomes the input ``alignkit_map_v``, renamed for its readers by an Identity;
    where it is an output too, that is what the graph computes for it.
    """
    outputs = list(outputs)
    shown = {_computed(name, cuts): name for name in outputs}
    needed = _needed_nodes(graph, outputs, cuts)
    read = {name for index in needed for name in inputs_of(graph.nodes[index])} | set(outputs)
    model = _shell(graph.model)
    fed = [name for name in cuts if name in read]
    for name in fed:
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(cuts[name]))
        model.graph.input.append(onnx.helper.make_tensor_value_info(_PREFIX + name, element, None))
        model.graph.node.append(onnx.helper.make_node("Identity", [_PREFIX + name], [name]))
    model.graph.input.extend(v for name, v in graph_inputs(graph.model).items() if name in read)
    model.graph.initializer.extend(t for t in graph.model.graph.initializer if t.name in read - set(fed))
    for index in sorted(needed):
        node = model.graph.node.add()
        node.CopyFrom(graph.nodes[index])
        for place, name in enumerate(node.output):
            if name in cuts:
                node.output[place] = _computed(name, cuts)
    model.graph.output.extend(_output(graph, computed, name) for computed, name in shown.items())
    return model


def _needed_nodes(graph: ValueGraph, outputs: Iterable[str], cuts: Iterable[str]) -> set[int]:
    """Nodes between the cuts and the outputs, those that compute a wanted cut value included."""
    needed: set[int] = set()
    waiting = [graph.producer[name] for name in outputs if name in graph.producer]
    cut = set(cuts)
    while waiting:
        index = waiting.pop()
        if index in needed:
            continue
        needed.add(index)
        for name in inputs_of(graph.nodes[index]):
            if name in graph.producer and name not in cut:
                waiting.append(graph.producer[name])
    return needed


def _shell(model: ModelProto) -> ModelProto:
    shell = ModelProto(ir_version=model.ir_version)
    shell.opset_import.extend(model.opset_import)
    shell.graph.name = model.graph.name or "graph"
    return shell


def _output(graph: ValueGraph, shown: str, name: str) -> ValueInfoProto:
    """Without dimensions: the file's own are those of its export, not of this run."""
    if element := graph.elements.get(name):
        return onnx.helper.make_tensor_value_info(shown, element, None)
    return ValueInfoProto(name=shown)


def has_kind(graph: ValueGraph, value: str, kind: str) -> bool:
    """Whether ``value`` may hold floats ("float") or integers ("int"); unknown types may hold either."""
    element = graph.elements.get(value)
    return not element or kind_of(onnx.helper.tensor_dtype_to_np_dtype(element)) == kind
