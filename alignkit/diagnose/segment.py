"""The ONNX nodes between the taps: what computes one tap's value out of others' values."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, external_data_helper, helper

from alignkit.graph import MarkedGraph, TensorType, slice_graph
from alignkit.source import line_in_trace

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


@dataclass(frozen=True, slots=True)
class Segment:
    """Everything that computes ``value`` out of ``borders``.

    ``borders`` maps a graph value to the tap whose reference it stands for, or to the graph input
    it is. ``weights`` are the initializers that the nodes read.
    """

    value: str
    nodes: tuple[NodeProto, ...]
    borders: Mapping[str, str]
    weights: tuple[TensorProto, ...]


def find_segment(marked: MarkedGraph, tap: str, known: Collection[str]) -> Segment:
    """The segment that ends at ``tap`` and starts at graph inputs, weights and the taps in ``known``.

    It is empty when the file does not hold the tap.
    """
    start = next((debug.inflow for debug in marked.debugs if debug.tap == tap), "")
    cuts = {debug.outflow: debug.tap for debug in marked.debugs if debug.tap in known}
    ends = {**{name: name for name in marked.inputs}, **cuts}
    found = slice_graph(marked, [start] if start else [], ends)
    return Segment(
        start,
        tuple(marked.nodes[place] for place in found.places),
        {name: source for name, source in ends.items() if name in found.reads},
        tuple(tensor for name, tensor in marked.weights.items() if name in found.reads),
    )


def telling_nodes(segment: Segment) -> list[NodeProto]:
    """The segment's nodes without those that only prepare constants, unless nothing else remains."""
    nodes = [node for node in segment.nodes if node.op_type not in ("Constant", "Identity")]
    return nodes or list(segment.nodes)


def main_operator(segment: Segment, *, of_shape: bool = False) -> str:
    """The operator of the node that gives the segment's value, or, unless it is asked for the shape's, of the
    one that computes what that node only brings into another shape. Empty for a segment without nodes."""
    makers = {name: node for node in segment.nodes for name in node.output if name}
    if (node := makers.get(segment.value)) is None:
        return ""
    while not of_shape and node.op_type in _RESHAPES and (before := makers.get(node.input[0])) is not None:
        node = before
    return node.op_type


def segment_model(marked: MarkedGraph, segment: Segment) -> ModelProto:
    """The segment as a model of its own, its weights' data inside."""
    weights = []
    for tensor in segment.weights:
        inline = TensorProto()
        inline.CopyFrom(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            external_data_helper.load_external_data_for_tensor(inline, str(marked.folder))
            inline.data_location = TensorProto.DEFAULT
            del inline.external_data[:]
        weights.append(inline)
    graph = helper.make_graph(
        segment.nodes,
        "segment",
        [_info(name, marked.types.get(name)) for name in segment.borders],
        [_info(segment.value, marked.types.get(segment.value))],
        weights,
    )
    return helper.make_model(
        graph,
        opset_imports=marked.model.opset_import,
        ir_version=marked.model.ir_version,
        functions=list(marked.model.functions),
    )


def _info(name: str, known: TensorType | None) -> onnx.ValueInfoProto:
    elem = known.elem if known is not None else TensorProto.FLOAT
    rank = known.rank if known is not None else None
    return helper.make_tensor_value_info(name, elem, None if rank is None else [None] * rank)


def describe_node(node: NodeProto) -> str:
    """``Resize "/up/Resize" mode="cubic"``: its domain when it is not ONNX's own, and its attributes."""
    domain = f"{node.domain}::" if node.domain else ""
    attributes = [f"{a.name}={_shown(a)}" for a in node.attribute if a.type not in _UNSHOWN]
    return " ".join([f'{domain}{node.op_type} "{node.name}"', *attributes])


_UNSHOWN = (AttributeProto.TENSOR, AttributeProto.GRAPH, AttributeProto.GRAPHS, AttributeProto.TENSORS)
_SHOWN_ITEMS = 8


def _shown(attribute: AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return f'"{value.decode(errors="replace")}"'
    if attribute.type in (AttributeProto.FLOATS, AttributeProto.INTS):
        items = [_number(item) for item in list(value)[:_SHOWN_ITEMS]]
        return f"[{', '.join(items)}{', …' if len(value) > _SHOWN_ITEMS else ''}]"
    return _number(value) if isinstance(value, (int, float)) else "…"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


_RULE = "pkg.onnxscript.rewriter.rule_name"
_SCOPES = "pkg.torch.onnx.name_scopes"
_TRACE = "pkg.torch.onnx.stack_trace"


def origin_notes(nodes: Sequence[NodeProto]) -> tuple[str, ...]:
    """What the exporter itself noted of the nodes, where it did: the rewrite rules that made them, and
    where in the model it saw the last one, with the line of the user's code."""
    rules = {
        entry.value: node.op_type for node in nodes for entry in node.metadata_props if entry.key == _RULE
    }
    notes = [f"the exporter's rewrite rule {rule} made the {op}" for rule, op in rules.items()]
    for node in nodes[-1:]:
        noted = {entry.key: entry.value for entry in node.metadata_props}
        inner = [name for name in re.split(r"\W*'\W*", noted.get(_SCOPES, "").strip("[]")) if name]
        line = line_in_trace(noted.get(_TRACE, ""))
        places = [f"in {' > '.join(inner)}"] if inner else []
        places += [f"at {line.location}{': ' if line.text else ''}{line.text}"] if line else []
        notes += [f"the exporter noted the {node.op_type} {', '.join(places)}"] if places else []
    return tuple(notes)
