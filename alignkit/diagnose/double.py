"""A model rewritten to compute in a wider type: every narrower weight, constant and cast widened."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

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
from alignkit.records import Array

_TYPED = {"to", "dtype"}  # attributes of Cast, RandomNormal, EyeLike … that name an element type
_HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def to_double(model: ModelProto) -> ModelProto:
    """A copy of ``model`` whose float32 and half inputs, outputs, weights and constants are float64.

    Other element types stay as they are. Whether a runtime has the kernels is for it to say.
    """
    return _Widening(_HALF | {TensorProto.FLOAT}, TensorProto.DOUBLE).apply(model)


def to_single(model: ModelProto) -> ModelProto:
    """A copy of ``model`` whose half inputs, outputs, weights and constants are float32."""
    return _Widening(_HALF, TensorProto.FLOAT).apply(model)


@dataclass(frozen=True, slots=True)
class _Widening:
    """Element types that are too narrow, and the one that takes their place."""

    narrow: frozenset[int]
    wide: int

    def apply(self, model: ModelProto) -> ModelProto:
        widened = ModelProto()
        widened.CopyFrom(model)
        for function in widened.functions:
            self._types(function.value_info)
            self._nodes(function.node)
        self._graph(widened.graph)
        return widened

    def _graph(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            self._tensor(tensor)
        self._types((*graph.input, *graph.output, *graph.value_info))
        self._nodes(graph.node)

    def _types(self, values: Iterable[ValueInfoProto]) -> None:
        for value in values:
            if value.type.tensor_type.elem_type in self.narrow:
                value.type.tensor_type.elem_type = self.wide

    def _nodes(self, nodes: Iterable[NodeProto]) -> None:
        for node in nodes:
            for attribute in node.attribute:
                self._attribute(node, attribute)
            if node.op_type == "ConstantOfShape" and not node.attribute and TensorProto.FLOAT in self.narrow:
                node.attribute.append(helper.make_attribute("value", self._array(np.zeros(1))))
            for body in subgraphs(node):
                self._graph(body)

    def _attribute(self, node: NodeProto, attribute: AttributeProto) -> None:
        scalars = attribute.name in ("value_float", "value_floats")
        if attribute.type == AttributeProto.TENSOR:
            self._tensor(attribute.t)
        elif attribute.name in _TYPED and attribute.i in self.narrow:
            attribute.i = self.wide
        elif node.op_type == "Constant" and scalars and TensorProto.FLOAT in self.narrow:
            values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            tensor = self._array(np.array(values))
            attribute.Clear()
            attribute.name, attribute.type = "value", AttributeProto.TENSOR
            attribute.t.CopyFrom(tensor)

    def _tensor(self, tensor: TensorProto) -> None:
        if tensor.data_type in self.narrow:
            name = tensor.name
            tensor.CopyFrom(self._array(numpy_helper.to_array(tensor), name))

    def _array(self, values: Array, name: str = "") -> TensorProto:
        dtype = helper.tensor_dtype_to_np_dtype(self.wide)
        return numpy_helper.from_array(np.asarray(values).astype(dtype), name)
