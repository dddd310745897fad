"""Precision: the coarsest arithmetic between one tap and the next in a converted file.

A file that was converted to half precision or quantised cannot be as exact as the model it was made
from. What its segments compute in says how exact they can be.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto, TensorProto

from alignkit.graph import MarkedGraph, Slice, slice_graph

_NARROW: Mapping[int, str] = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
_EIGHT_BITS = {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4}
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")
_ORDER = ("int8", "bfloat16", "float16")  # the coarsest first


def find_precisions(marked: MarkedGraph) -> dict[str, str]:
    """Tap -> ``"int8"``, ``"bfloat16"`` or ``"float16"`` where its segment computes in that.

    Taps whose segment computes in full precision are left out.
    """
    if not _may_be_coarse(marked):
        return {}
    stops = {debug.outflow for debug in marked.debugs} | marked.inputs.keys()
    found = {}
    for debug in marked.debugs:
        names = _names_of(marked, slice_graph(marked, [debug.inflow], stops))
        coarsest = next((name for name in _ORDER if name in names), None)
        if coarsest is not None:
            found[debug.tap] = coarsest
    return found


def coarsest_of(precisions: Mapping[str, str]) -> str | None:
    """The coarsest of all segments: an ordinary run cannot be more exact behind it."""
    return next((name for name in _ORDER if name in precisions.values()), None)


def _may_be_coarse(marked: MarkedGraph) -> bool:
    weights = {tensor.data_type for tensor in marked.weights.values()}
    return bool(weights & (_NARROW.keys() | _EIGHT_BITS)) or any(map(_precision_of_node, marked.nodes))


def _names_of(marked: MarkedGraph, part: Slice) -> set[str | None]:
    names = {_precision_of_node(marked.nodes[place]) for place in part.places}
    for value in part.reads:
        if value in marked.weights:
            names.add(_precision_of_type(marked.weights[value].data_type))
        elif value in marked.types:
            names.add(_NARROW.get(marked.types[value].elem))
    return names


def _precision_of_node(node: NodeProto) -> str | None:
    if node.op_type in _QUANTISERS or node.op_type.startswith(("QLinear", "MatMulNBits")):
        return "int8"
    casts = [attribute.i for attribute in node.attribute if attribute.name == "to" and node.op_type == "Cast"]
    return _NARROW.get(casts[0]) if casts else None


def _precision_of_type(elem: int) -> str | None:
    return "int8" if elem in _EIGHT_BITS else _NARROW.get(elem)
