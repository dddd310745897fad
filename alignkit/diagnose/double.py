"""A model rewritten to compute in float64: every narrower weight, constant and cast widened."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from alignkit.graph import subgraphs

_TYPED = {"to", "dtype"}  # attributes of Cast, RandomNormal, EyeLike … that name an element type
_NARROW = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def to_double(model: ModelProto) -> ModelProto:
    """A copy of ``model`` whose float32 and half inputs, outputs, weights and constants are float64.

    Other element types stay as they are. Whether a runtime has the kernels is for it to say.
    """
    double = ModelProto()
    double.CopyFrom(model)
    for function in double.functions:
        _widen_types(function.value_info)
        _widen_nodes(function.node)
    _widen_graph(double.graph)
    return double


def _widen_graph(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen(tensor)
    _widen_types((*graph.input, *graph.output, *graph.value_info))
    _widen_nodes(graph.node)


def _widen_types(values: Iterable[ValueInfoProto]) -> None:
    for value in values:
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE


def _widen_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(node, attribute)
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
        for body in subgraphs(node):
            _widen_graph(body)


def _widen_attribute(node: NodeProto, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen(attribute.t)
    elif attribute.name in _TYPED and attribute.i in _NARROW:
        attribute.i = TensorProto.DOUBLE
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        scalar = attribute.name == "value_float"
        values = np.array(attribute.f if scalar else list(attribute.floats), np.float64)
        attribute.Clear()
        attribute.name, attribute.type = "value", AttributeProto.TENSOR
        attribute.t.CopyFrom(numpy_helper.from_array(values))


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), name))
