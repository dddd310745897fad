"""A float32 model rewritten to compute in float64: every weight, constant and cast widened."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from alignkit.graph import subgraphs

_TYPED = {"to", "dtype"}  # attributes of Cast, RandomNormal, EyeLike … that name an element type


def to_double(model: ModelProto) -> ModelProto:
    """A copy of ``model`` whose float32 inputs, outputs, weights and constants are float64.

    Other element types stay as they are. Whether a runtime has the kernels is for it to say.
    """
    double = ModelProto()
    double.CopyFrom(model)
    for function in double.functions:
        _widen_nodes(function.node)
    graph = double.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _widen(tensor)
    _widen_nodes(graph.node)
    return double


def _widen_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            _widen_attribute(node, attribute)
        for body in subgraphs(node):
            for tensor in body.initializer:
                _widen(tensor)
            for value in (*body.input, *body.output, *body.value_info):
                if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                    value.type.tensor_type.elem_type = TensorProto.DOUBLE
            _widen_nodes(body.node)


def _widen_attribute(node: NodeProto, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen(attribute.t)
    elif attribute.name in _TYPED and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.DOUBLE
    elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        scalar = attribute.name == "value_float"
        values = np.array(attribute.f if scalar else list(attribute.floats), np.float64)
        attribute.Clear()
        attribute.name, attribute.type = "value", AttributeProto.TENSOR
        attribute.t.CopyFrom(numpy_helper.from_array(values))


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), name))
