"""Extract: turn a marked file into probe models that a runtime can load.

- :func:`extract_propagated` replaces each ``my::Debug`` by ``Identity`` and exposes what flowed
  into it: the ordinary run, seen at every tap.
- :func:`extract_introduced` cuts at each ``my::Debug``: what flowed in becomes an output, what
  flowed out becomes an input that is fed with the reference. One run then tells, for every tap at
  once, the error that its own segment makes.

Both keep the graph only; external data stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.utils import Extractor

from alignkit.debug_operator import DOMAIN, NAME_ATTRIBUTE, OP_TYPE
from alignkit.errors import CompareError, OnnxFileError
from alignkit.graph import (
    Debug,
    MarkedGraph,
    Slice,
    TensorType,
    captured_names,
    graph_inputs,
    index_graph,
    infer_types,
    inputs_of,
    known_types,
    load_graph,
    load_without_weights,
    slice_graph,
    subgraphs,
    without_data,
)

NodeFilter = Callable[[NodeProto], str]
"""Why a node cannot run; empty for one that can."""
_PREFIX = "alignkit_probe_"
_NARROW = {TensorProto.BFLOAT16}  # element types that numpy cannot exchange with a runtime


@dataclass(frozen=True, slots=True)
class Probe:
    """A runnable model and what its inputs and outputs mean.

    ``outputs``: tap -> name of the model output that holds its value (taps may share one).
    ``feeds``: model input -> tap whose reference it is fed with. ``passthrough``: tap -> tap or
    graph input whose fed value it sees unchanged. ``absent``: tap -> why it has no value here.
    ``values``: tap -> the ONNX value that it observes.
    """

    model: ModelProto
    folder: Path
    outputs: Mapping[str, str]
    feeds: Mapping[str, str] = field(default_factory=dict)
    passthrough: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)


def read_marked(path: Path, folder: Path | None = None) -> MarkedGraph:
    """Find the taps of the file at ``path``, whose external data lie in ``folder`` (None: beside it).

    Raises :class:`OnnxFileError` when the file cannot be read, and :class:`CompareError` when it
    holds no ``my::Debug`` node or one name twice.
    """
    model = load_without_weights(path) if folder in (None, path.parent) else load_graph(path, folder)
    debugs, nested = _replace_debug_nodes(model)
    if not debugs and not nested:
        raise CompareError(
            f"{path} holds no {DOMAIN}::{OP_TYPE} node, so there is nothing to compare. "
            "Export inside `with alignkit.Debugger(model):`."
        )
    _require_unique(path, [*(debug.tap for debug in debugs), *(tap for tap, _ in nested)])
    types = known_types(model)
    needed = {name for debug in debugs for name in (debug.inflow, debug.outflow)}
    if any(name not in types or types[name].rank is None for name in needed):
        types = _along_identities(debugs, {**types, **_ranked(infer_types(model))})
    return index_graph(model, folder or path.parent, debugs, dict(nested), types)


def _ranked(types: Mapping[str, TensorType]) -> dict[str, TensorType]:
    return {name: known for name, known in types.items() if known.rank is not None}


def _along_identities(debugs: Iterable[Debug], types: Mapping[str, TensorType]) -> dict[str, TensorType]:
    """What goes into a tap has the type of what comes out, where only one of them is known."""
    known = dict(types)
    for debug in debugs:
        for one, other in ((debug.inflow, debug.outflow), (debug.outflow, debug.inflow)):
            if one in known and known[one].rank is not None:
                known.setdefault(other, known[one])
                if known[other].rank is None:
                    known[other] = known[one]
    return known


def _require_unique(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise CompareError(
            f"{path} holds the tap name {twice[0]!r} more than once. Give each tap its own name."
        )


def _replace_debug_nodes(model: ModelProto) -> tuple[tuple[Debug, ...], list[tuple[str, str]]]:
    """The taps of the graph itself, and those in bodies and functions with the reason they are out."""
    debugs = [_to_identity(node) for node in model.graph.node if _is_debug(node)]
    nested: list[tuple[str, str]] = []
    for node in model.graph.node:
        for body in subgraphs(node):
            _replace_nested(body, f"inside the body of {node.op_type} {node.name!r}", nested)
    for function in model.functions:
        _replace_nested(function, f"inside the local function {function.name!r}", nested)
        _drop_opset(function)
    _drop_opset(model)
    return tuple(debugs), nested


def _replace_nested(
    body: GraphProto | onnx.FunctionProto, reason: str, nested: list[tuple[str, str]]
) -> None:
    for node in body.node:
        if _is_debug(node):
            nested.append((_to_identity(node).tap, reason))
        for inner in subgraphs(node):
            _replace_nested(inner, reason, nested)


def _is_debug(node: NodeProto) -> bool:
    return node.op_type == OP_TYPE and node.domain == DOMAIN


def _to_identity(node: NodeProto) -> Debug:
    names = [a.s.decode() for a in node.attribute if a.name == NAME_ATTRIBUTE]
    tap = names[0] if names else node.name
    node.op_type, node.domain = "Identity", ""
    del node.attribute[:]
    return Debug(tap, node.input[0], node.output[0])


def _drop_opset(owner: ModelProto | onnx.FunctionProto) -> None:
    kept = [entry for entry in owner.opset_import if entry.domain != DOMAIN]
    del owner.opset_import[:]
    owner.opset_import.extend(kept)


def extract_propagated(
    marked: MarkedGraph,
    taps: Collection[str] | None = None,
    fed: Collection[str] = (),
    *,
    without: NodeFilter | None = None,
) -> Probe:
    """The ordinary run, with the value of every tap in ``taps`` (None: all) exposed.

    A run may be made in parts: behind the taps in ``fed`` the probe goes on from the values that an
    earlier part gave there. ``without`` names nodes that cannot run.
    """
    cuts = {debug.outflow: debug.tap for debug in marked.debugs if debug.tap in fed}
    inflow = {debug.outflow: debug.inflow for debug in marked.debugs}
    uncut = {value: before for value, before in inflow.items() if value not in cuts}
    wanted = _wanted(marked, taps)
    origins = {debug.tap: _origin(debug.inflow, uncut) for debug in wanted}
    # However the run is parted, a tap observes what a node computed.
    values = {debug.tap: _origin(debug.inflow, inflow) for debug in wanted}
    return replace(_extract(marked, origins, cuts, without), values=values)


def extract_introduced(
    marked: MarkedGraph,
    available: Collection[str],
    taps: Collection[str] | None = None,
    *,
    without: NodeFilter | None = None,
) -> Probe:
    """Cut at every tap in ``available`` (those that have a reference to feed); see the module."""
    cuts = {debug.outflow: debug.tap for debug in marked.debugs if debug.tap in available}
    origins = {debug.tap: debug.inflow for debug in _wanted(marked, taps)}
    return _extract(marked, origins, cuts, without, unchanged=marked.inputs)


def _wanted(marked: MarkedGraph, taps: Collection[str] | None) -> Sequence[Debug]:
    wanted = None if taps is None else frozenset(taps)
    return [debug for debug in marked.debugs if wanted is None or debug.tap in wanted]


def _extract(
    marked: MarkedGraph,
    origins: Mapping[str, str],
    cuts: Mapping[str, str],
    without: NodeFilter | None,
    unchanged: Container[str] = (),
) -> Probe:
    """``origins``: tap -> the value it observes; ``cuts``: value -> tap whose array is fed there.

    A tap on one of the graph inputs in ``unchanged`` sees what is fed, without a detour.
    """
    tainted = _tainted(marked, without, cuts)
    editor = _Editor(marked)
    outputs, passthrough = {}, {}
    absent = dict(marked.nested)
    for tap, value in origins.items():
        if value in cuts:
            passthrough[tap] = cuts[value]
        elif value in unchanged:
            passthrough[tap] = value
        elif value in tainted:
            absent[tap] = tainted[value]
        else:
            outputs[tap] = editor.expose(value)
    # A tap behind a tap is in no slice, for its value is known without the runtime.
    needed = editor.slice(cuts.keys() | marked.inputs.keys())
    feeds = {editor.feed(value): tap for value, tap in cuts.items() if value in needed.reads}
    return Probe(editor.build(needed, cuts), marked.folder, outputs, feeds, passthrough, absent, origins)


def _origin(value: str, inflow: Mapping[str, str]) -> str:
    """Follow a chain of taps on one tensor back to the value it holds."""
    while value in inflow:
        value = inflow[value]
    return value


def _tainted(marked: MarkedGraph, without: NodeFilter | None, cut: Container[str]) -> dict[str, str]:
    """Values that cannot be computed without the nodes that ``without`` names, and why."""
    tainted: dict[str, str] = {}
    if without is None:
        return tainted
    for node in marked.nodes:
        reason = without(node) or next((tainted[name] for name in inputs_of(node) if name in tainted), "")
        if reason:
            tainted.update({name: reason for name in node.output if name not in cut})
    return tainted


class _Editor:
    """Collects what a probe exposes and is fed, then builds it out of the nodes in between."""

    def __init__(self, marked: MarkedGraph) -> None:
        self._marked = marked
        self._exposed: dict[str, str] = {}  # value -> output name
        self._tails: list[NodeProto] = []  # nodes between a value and the output that shows it
        self._fed: dict[str, str] = {}  # value -> input name

    def expose(self, value: str) -> str:
        """The name of the output that will hold ``value``."""
        if value not in self._exposed:
            self._exposed[value] = self._exposed_as(value)
        return self._exposed[value]

    def _exposed_as(self, value: str) -> str:
        if self._type(value).elem in _NARROW:
            return self._tail(value, "Cast", to=TensorProto.FLOAT)
        # Not every runtime takes a value that no node computes as a model output.
        source = value in self._marked.inputs or value in self._marked.weights
        return self._tail(value, "Identity") if source else value

    def _tail(self, value: str, op_type: str, **attributes: Any) -> str:
        name = f"{_PREFIX}out_{len(self._exposed)}"
        self._tails.append(onnx.helper.make_node(op_type, [value], [name], name=name, **attributes))
        return name

    def feed(self, value: str) -> str:
        """The name of the input that will stand for ``value``."""
        narrow = self._type(value).elem in _NARROW
        self._fed[value] = f"{_PREFIX}in_{len(self._fed)}" if narrow else value
        return self._fed[value]

    def _type(self, value: str) -> TensorType:
        return self._marked.types.get(value, TensorType(TensorProto.FLOAT, None))

    def _info(self, name: str, like: str, elem: int | None = None) -> ValueInfoProto:
        """``like``'s type without its dimensions: those in the file are the export's, and a run
        at others is legitimate."""
        known = self._type(like)
        shape = None if known.rank is None else [None] * known.rank
        return onnx.helper.make_tensor_value_info(name, elem or known.elem, shape)

    def _shown(self, name: str, value: str) -> ValueInfoProto:
        narrow = self._type(value).elem in _NARROW
        return self._info(name, value, TensorProto.FLOAT if narrow else None)

    def slice(self, stops: Container[str]) -> Slice:
        """What computes the exposed values out of ``stops``."""
        return slice_graph(self._marked, self._exposed, stops)

    def build(self, needed: Slice, cuts: Collection[str]) -> ModelProto:
        """The smallest model between the inputs and what was exposed."""
        inputs = [name for name in (*self._marked.inputs, *cuts) if name in needed.reads]
        light = self._light(needed, inputs)
        captured = {name for node in light.graph.node for name in captured_names(node)}
        computed = {name for node in light.graph.node for name in node.output}
        ends = dict.fromkeys([*self._exposed, *sorted(captured & computed - set(inputs))])
        declared = graph_inputs(light).keys() | {value.name for value in light.graph.value_info}
        light.graph.value_info.extend(self._info(name, name) for name in ends if name not in declared)
        try:
            extracted = Extractor(light).extract_model(inputs, list(ends))
        except ValueError as error:
            raise OnnxFileError(f"the ONNX file cannot be cut into a probe: {error}.") from error
        del extracted.graph.initializer[:]
        weights = self._marked.weights
        extracted.graph.initializer.extend(weights[name] for name in weights if name in needed.reads)
        self._connect(extracted)
        return extracted

    def _light(self, needed: Slice, inputs: Iterable[str]) -> ModelProto:
        """The slice as a model whose weights are shells: all that the extractor has to see."""
        whole = self._marked.model
        if whole.graph.sparse_initializer:
            raise OnnxFileError("the ONNX file holds sparse weights, which no probe can be cut around.")
        light = ModelProto(ir_version=whole.ir_version)
        light.opset_import.extend(whole.opset_import)
        light.functions.extend(whole.functions)
        light.graph.name = whole.graph.name
        light.graph.node.extend(self._marked.nodes[place] for place in needed.places)
        weights = self._marked.weights
        light.graph.initializer.extend(
            without_data(weights[name]) for name in weights if name in needed.reads
        )
        given = self._marked.inputs
        light.graph.input.extend(given[name] if name in given else self._info(name, name) for name in inputs)
        return light

    def _connect(self, model: ModelProto) -> None:
        """Put casts and tails in, and make inputs and outputs exactly the exposed and fed values."""
        graph = model.graph
        renamed = {value: name for value, name in self._fed.items() if name != value}
        for value in graph.input:
            if value.name in renamed:
                cast = onnx.helper.make_node(
                    "Cast", [renamed[value.name]], [value.name], to=TensorProto.BFLOAT16
                )
                graph.node.insert(0, cast)
                value.CopyFrom(self._info(renamed[value.name], value.name, TensorProto.FLOAT))
        graph.node.extend(self._tails)
        outputs = {value.name: value for value in graph.output}
        kept = [
            outputs[value] if name == value else self._shown(name, value)
            for value, name in self._exposed.items()
        ]
        del graph.output[:]
        graph.output.extend(kept)
        del graph.value_info[:]
