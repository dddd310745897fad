"""The taps of a file: its Debug nodes, or, in a file without any, where its values pass between modules.

What passes between modules is read off the scopes that exporters write: the default one as metadata, the
TorchScript one as the names of nodes. A comparison of such a file finds its taps by their numbers, which
a plan does not have; they lie at these places. In a file without scopes every value counts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx.inliner
from onnx import ModelProto, NodeProto, TensorProto, helper

from alignkit.debug_operator import DOMAIN, OP_TYPE
from alignkit.extract import read_marked
from alignkit.graph import (
    Debug,
    MarkedGraph,
    graph_inputs,
    index_graph,
    inputs_of,
    load_without_weights,
    subgraphs,
    without_data,
)

_SCOPES = "pkg.torch.onnx.name_scopes"
_PREFIX = "alignkit_plan_"

DEBUG_NODES = "Debug nodes"
BOUNDARIES = "values between modules"
VALUES = "every value"


@dataclass(frozen=True, slots=True)
class Subject:
    """A file with its taps, local functions inlined, weights without their data.

    ``stored`` are the bytes of the weights that the file holds itself, and not one beside it.
    ``bodies`` name the control-flow nodes, whose insides are not planned.
    """

    marked: MarkedGraph
    taps_are: str
    bodies: tuple[str, ...]
    stored: int


def read_subject(path: Path) -> Subject:
    """Read the file at ``path``. Raises :class:`OnnxFileError` where it is none that can be planned."""
    model = load_without_weights(path)
    inside = [t for t in model.graph.initializer if t.data_location != TensorProto.EXTERNAL]
    stored = sum(tensor.ByteSize() for tensor in inside)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    if any(node.op_type == OP_TYPE and node.domain == DOMAIN for node in _all_nodes(nodes)):
        marked = read_marked(path)
        model = _lightened(marked.model)
        found = index_graph(model, marked.folder, marked.debugs, marked.nested, {})
        return Subject(found, DEBUG_NODES, _bodies(model), stored)
    model = _lightened(model)
    taps, taps_are = _boundaries(model), BOUNDARIES
    if not taps:
        taps, taps_are = _values(model), VALUES
    marked = index_graph(model, path.parent, _insert(model, taps), {}, {})
    return Subject(marked, taps_are, _bodies(model), stored)


def _all_nodes(nodes: list[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for body in subgraphs(node):
            yield from _all_nodes(list(body.node))


def _lightened(model: ModelProto) -> ModelProto:
    """Without large weights, so that copies of the graph are small; functions inlined."""
    shells = [without_data(tensor) for tensor in model.graph.initializer]
    del model.graph.initializer[:]
    model.graph.initializer.extend(shells)
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _bodies(model: ModelProto) -> tuple[str, ...]:
    return tuple(f"{node.op_type} {node.name!r}" for node in model.graph.node if next(subgraphs(node), None))


def _boundaries(model: ModelProto) -> dict[str, str]:
    """Tap -> value, for the values that a module hands to another or takes from outside."""
    maker = dict.fromkeys(graph_inputs(model), "")
    crossing = dict.fromkeys(maker)  # the root is given them
    scoped = False
    for node in model.graph.node:
        scope = _scope(node)
        scoped = scoped or bool(scope)
        reads = [name for name in inputs_of(node) if name in maker]
        crossing.update(dict.fromkeys(name for name in reads if maker[name] != scope))
        if reads:  # else it is a constant
            maker.update({name: scope for name in node.output if name})
    crossing.update({value.name: None for value in model.graph.output if value.name in maker})
    return {_tap_name(maker[v], v): v for v in maker if v in crossing} if scoped else {}


def _tap_name(scope: str, value: str) -> str:
    return f"{scope}: {value}" if scope else value


def _scope(node: NodeProto) -> str:
    """The module that a node belongs to, as far as its exporter wrote it down."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                scopes = ast.literal_eval(entry.value)
            except (SyntaxError, ValueError):
                return ""  # not written by the exporter
            # From the root inwards; last comes the node's own name.
            return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
    return node.name.rpartition("/")[0] if node.name.startswith("/") else ""


def _values(model: ModelProto) -> dict[str, str]:
    """Every value that depends on the inputs, those included."""
    varying = dict.fromkeys(graph_inputs(model))
    for node in model.graph.node:
        if any(name in varying for name in inputs_of(node)):
            varying.update(dict.fromkeys(filter(None, node.output)))
    return {name: name for name in varying}


def _insert(model: ModelProto, taps: dict[str, str]) -> tuple[Debug, ...]:
    """Put an Identity behind each value, where a Debug node would stand, and let its readers read that."""
    behind = {value: f"{_PREFIX}{place}" for place, value in enumerate(taps.values())}
    debugs = tuple(Debug(tap, value, behind[value]) for tap, value in taps.items())
    copies = {value: helper.make_node("Identity", [value], [name], name) for value, name in behind.items()}
    nodes = [copies[name] for name in graph_inputs(model) if name in copies]
    for node in model.graph.node:
        node.input[:] = [behind.get(name, name) for name in node.input]
        nodes += [node, *(copies[name] for name in node.output if name in copies)]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return debugs
