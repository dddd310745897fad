"""Operators on quantised tensors, taken apart: dequantise, compute, quantise again.

A file in ONNX Runtime's QOperator format has no floating value between two layers, so that no tap could be
found in it. In the same computation spelled out, which is the QDQ format, every layer has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from alignkit.records import Array

_QUANTISED = "_quantized"  # what the quantiser appends to the name of a value
_CONVERTED = "_quant"  # and to that of a node
_PER_CHANNEL_SINCE = 13  # opset in which DequantizeLinear knows an axis
_DROPPED = ("channels_last", "opset")


def expand_quantised(model: ModelProto) -> ModelProto:
    """``model`` with its operators on quantised tensors spelled out; itself where it has none.

    Names of values stay. An operator whose scales are no constants is left as it is.
    """
    if not any(node.op_type in _OPERATORS for node in model.graph.node):
        return model
    expanded = ModelProto()
    expanded.CopyFrom(model)
    spelling = _Spelling(expanded)
    nodes = [new for node in model.graph.node for new in spelling.nodes_for(node)]
    del expanded.graph.node[:]
    expanded.graph.node.extend(nodes)
    expanded.graph.initializer.extend(spelling.made)
    return expanded


@dataclass(frozen=True, slots=True)
class _Operator:
    """A floating operator by another name.

    ``inputs`` are the places of values, each followed by its scale and zero point; ``output`` is the place
    of the result's scale and zero point, ``bias`` that of an integer bias. ``rest`` says that triples of
    inputs go on to the end.
    """

    op_type: str
    inputs: Sequence[int]
    output: int
    bias: int | None = None
    rest: bool = False

    def places(self, count: int) -> Sequence[int]:
        """The places of values among ``count`` inputs."""
        return range(self.inputs[0], count, 3) if self.rest else self.inputs


_OPERATORS: Mapping[str, _Operator] = {
    "QLinearConv": _Operator("Conv", (0, 3), 6, bias=8),
    "QGemm": _Operator("Gemm", (0, 3), 7, bias=6),
    "QLinearConcat": _Operator("Concat", (2,), 0, rest=True),
    **{f"QLinear{name}": _Operator(name, (0, 3), 6) for name in ("MatMul", "Add", "Mul")},
    **{
        f"QLinear{name}": _Operator(name, (0,), 3)
        for name in ("GlobalAveragePool", "AveragePool", "LeakyRelu", "Sigmoid", "Softmax")
    },
}


@dataclass(slots=True)
class _Spelling:
    """The model that is spelled out, and the initializers that this adds."""

    model: ModelProto
    made: list[TensorProto] = field(default_factory=list)
    _weights: dict[str, TensorProto] = field(init=False)
    _names: set[str] = field(init=False)
    _opset: int = field(init=False)
    _count: int = 0

    def __post_init__(self) -> None:
        graph = self.model.graph
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._names = {name for node in graph.node for name in (*node.input, *node.output)}
        self._opset = max(
            (o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")), default=0
        )

    def nodes_for(self, node: NodeProto) -> Iterator[NodeProto]:
        """``node``, or what it does step by step."""
        operator = _OPERATORS.get(node.op_type)
        places = operator.places(len(node.input)) if operator is not None else ()
        if operator is None or not all(self._is_known(node, place) for place in places):
            yield node
            return
        read = []
        for place in places:
            read.append(f"{node.output[0]}_in_{place}")
            yield self._dequantise(node, place, read[-1])
        if operator.bias is not None and len(node.input) > operator.bias and node.input[operator.bias]:
            read.append(f"{node.output[0]}_bias")
            yield self._bias(node, operator.bias, places, read[-1])
        ends = [name for name in node.input[operator.output : operator.output + 2] if name]
        made = self._free(node.output[0]) if ends else node.output[0]
        name = node.name.removesuffix(
            _CONVERTED
        )  # as it was before the conversion: exporters' names tell modules
        computed = helper.make_node(operator.op_type, read, [made], name)
        computed.attribute.extend(a for a in node.attribute if a.name not in _DROPPED)
        computed.metadata_props.extend(node.metadata_props)
        yield computed
        if ends:
            yield helper.make_node(
                "QuantizeLinear", [made, *ends], list(node.output), self._unscoped("quantise")
            )

    def _unscoped(self, purpose: str) -> str:
        """A name that tells no module: what is around an operator is not where its result is."""
        self._count += 1
        return f"alignkit_{purpose}_{self._count}"

    def _is_known(self, node: NodeProto, place: int) -> bool:
        scale = self._array(node.input[place + 1])
        return scale is not None and (scale.size == 1 or self._opset >= _PER_CHANNEL_SINCE)

    def _array(self, name: str) -> Array | None:
        tensor = self._weights.get(name)
        small = tensor is not None and tensor.data_location != TensorProto.EXTERNAL
        return numpy_helper.to_array(tensor) if tensor is not None and small else None

    def _free(self, quantised: str) -> str:
        """The name that the floating value had before it was quantised, unless that is taken."""
        name = quantised.removesuffix(_QUANTISED)
        return f"{quantised}_float" if name in self._names else name

    def _dequantise(self, node: NodeProto, place: int, made: str) -> NodeProto:
        scale = self._array(node.input[place + 1])
        axis = {"QLinearConv": 0, "QGemm": 0 if _transposes(node) else 1}.get(node.op_type, -1)
        several: dict[str, Any] = {"axis": axis} if scale is not None and scale.size > 1 else {}
        inputs = [name for name in node.input[place : place + 3] if name]
        return helper.make_node("DequantizeLinear", inputs, [made], self._unscoped("dequantise"), **several)

    def _bias(self, node: NodeProto, place: int, places: Sequence[int], made: str) -> NodeProto:
        """A bias is held in units of the product of both scales."""
        scales = [self._array(node.input[one + 1]) for one in places]
        product = np.ones(1)
        for scale in scales:  # one per tensor, or one per channel
            product = product if scale is None else product * np.atleast_1d(scale).astype(np.float64)
        scaled = np.asarray(product, np.float32) if product.size > 1 else np.float32(product[0])
        several: dict[str, Any] = {"axis": 0} if product.size > 1 else {}
        self.made.append(numpy_helper.from_array(np.asarray(scaled), f"{made}_scale"))
        inputs = [node.input[place], f"{made}_scale"]
        return helper.make_node("DequantizeLinear", inputs, [made], self._unscoped("dequantise"), **several)


def _transposes(node: NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
