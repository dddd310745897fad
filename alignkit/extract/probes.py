"""Probes: the models that are cut out of a marked file, for a runtime to load.

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
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.utils import Extractor

from alignkit.errors import OnnxFileError
from alignkit.graph import (
    Debug,
    MarkedGraph,
    Slice,
    TensorType,
    captured_names,
    graph_inputs,
    inputs_of,
    slice_graph,
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
