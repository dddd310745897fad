"""A converted segment rewritten to compute without rounding: no quantiser rounds or clips, no type is narrow.

``QuantizeLinear`` becomes ``x / scale`` in floating point and ``DequantizeLinear`` its inverse; zero
points, which only move the range, are left out; integer products become products of such numbers. Weights
keep the rounding that they were stored with. The range's ends clip as before where that is wanted:
converters leave a ReLU to them. What such a segment computes differs from the converted one by precision
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from alignkit.diagnose.double import to_single
from alignkit.records import Array

_PREFIX = "alignkit_exact_"
_NARROW = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
_STEPS = 255.0
_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


def without_rounding(model: ModelProto, *, clips: bool = True) -> ModelProto | None:
    """``model`` in exact arithmetic, float32; None where nothing in it rounds to fewer bits.

    ``model`` holds its weights' data. ``clips``: static quantisers still limit what they are given to their
    range. Operators that quantise inside themselves (``QLinearConv``, a runtime's own) stay as they are.
    """
    if not (_holds_narrow(model) or any(node.op_type in _REWRITES for node in model.graph.node)):
        return None
    exact = ModelProto()
    exact.CopyFrom(model)
    rewriter = _Rewriter({tensor.name: tensor for tensor in model.graph.initializer}, clips)
    nodes = [made for node in model.graph.node for made in rewriter.rewrite(node)]
    del exact.graph.node[:], exact.graph.value_info[:]
    exact.graph.node.extend(nodes)
    exact.graph.initializer.extend(rewriter.made)
    return to_single(exact)


def _holds_narrow(model: ModelProto) -> bool:
    graph = model.graph
    stated = {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    casts = {attribute.i for node in graph.node for attribute in node.attribute if attribute.name == "to"}
    return bool((stated | casts | {tensor.data_type for tensor in graph.initializer}) & _NARROW)


class _Rewriter:
    """Rewrites one graph's nodes in order; ``made`` are weights that it computed."""

    def __init__(self, stored: Mapping[str, TensorProto], clips: bool) -> None:
        self.made: list[TensorProto] = []
        self._stored = stored
        self._clips = clips
        self._exact: set[str] = set()  # values in units of their scale, without a zero point
        self._count = 0

    def rewrite(self, node: NodeProto) -> Iterator[NodeProto]:
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None:
            yield from rewrite(self, node)
            return
        if self._exact.intersection(node.input):
            self._exact.update(node.output)  # moved about, as by a Reshape
        yield node

    def quantize(self, node: NodeProto) -> Iterator[NodeProto]:
        self._exact.add(node.output[0])
        limits = self._limits(node) if self._clips else ()
        names = [*(self._name() for _ in limits), node.output[0]]
        yield helper.make_node("Div", list(node.input[:2]), [names[0]])
        for op_type, limit, given, made in zip(("Max", "Min"), limits, names, names[1:], strict=False):
            bound = self._name()
            self.made.append(numpy_helper.from_array(np.array(limit, np.float32), bound))
            yield helper.make_node(op_type, [given, bound], [made])

    def _limits(self, node: NodeProto) -> tuple[float, ...]:
        """The ends of the range that the quantised type has, counted from the zero point."""
        if len(node.input) < 3 or not node.input[2]:
            return (0.0, _STEPS)
        if node.input[2] not in self._stored:
            return ()
        zero = numpy_helper.to_array(self._stored[node.input[2]])
        if zero.size != 1 or zero.dtype.kind not in "iu":
            return ()
        ends = np.iinfo(zero.dtype)
        return float(ends.min - int(zero.item())), float(ends.max - int(zero.item()))

    def dequantize(self, node: NodeProto) -> Iterator[NodeProto]:
        if all(name in self._stored for name in node.input if name):
            arrays = [numpy_helper.to_array(self._stored[name]) for name in node.input if name]
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            self.made.append(numpy_helper.from_array(_dequantized(arrays, axis), node.output[0]))
            return
        whole = self._name()
        yield from self._without_zero(node, 0, 2, whole)
        yield helper.make_node("Mul", [whole, node.input[1]], [node.output[0]])

    def quantize_dynamically(self, node: NodeProto) -> Iterator[NodeProto]:
        """The range is the one the operator is defined to take: that of the values, with zero in it."""
        value, (made, scale, zero) = node.input[0], node.output
        high, top, low, drop, depth, width, steps = (self._name() for _ in range(7))
        yield helper.make_node("Constant", [], [steps], value_float=_STEPS)
        yield helper.make_node("ReduceMax", [value], [high], keepdims=0)
        yield helper.make_node("ReduceMin", [value], [low], keepdims=0)
        for op_type, inputs, output in (
            ("Relu", [high], top),
            ("Neg", [low], drop),
            ("Relu", [drop], depth),
            ("Add", [top, depth], width),
            ("Div", [width, steps], scale),
            ("Div", [depth, scale], zero),
            ("Div", [value, scale], made),
        ):
            yield helper.make_node(op_type, inputs, [output])
        self._exact.add(made)

    def multiply(self, node: NodeProto) -> Iterator[NodeProto]:
        left, right = self._name(), self._name()
        yield from self._without_zero(node, 0, 2, left)
        yield from self._without_zero(node, 1, 3, right)
        made = helper.make_node(_PRODUCTS[node.op_type], [left, right], [node.output[0]])
        made.attribute.extend(node.attribute)
        yield made

    def _without_zero(self, node: NodeProto, value: int, zero: int, made: str) -> Iterator[NodeProto]:
        """A number in units of its scale, as a floating one."""
        has_zero = len(node.input) > zero and node.input[zero] and node.input[value] not in self._exact
        wide, offset = self._name() if has_zero else made, self._name()
        yield helper.make_node("Cast", [node.input[value]], [wide], to=TensorProto.FLOAT)
        if has_zero:
            yield helper.make_node("Cast", [node.input[zero]], [offset], to=TensorProto.FLOAT)
            yield helper.make_node("Sub", [wide, offset], [made])

    def _name(self) -> str:
        self._count += 1
        return f"{_PREFIX}{self._count}"


def _dequantized(arrays: Sequence[Array], axis: int) -> Array:
    """``(value - zero) * scale``, per channel along ``axis`` where the scale is a vector."""
    value, scale, *zero = (array.astype(np.float64) for array in arrays)
    shape = [-1 if i == axis % max(value.ndim, 1) else 1 for i in range(value.ndim)] if scale.ndim else []
    shifted = value - zero[0].reshape(shape) if zero else value
    return (shifted * scale.reshape(shape)).astype(np.float32)


_REWRITES: Mapping[str, Callable[[_Rewriter, NodeProto], Iterator[NodeProto]]] = {
    "QuantizeLinear": _Rewriter.quantize,
    "DequantizeLinear": _Rewriter.dequantize,
    "DynamicQuantizeLinear": _Rewriter.quantize_dynamically,
    "MatMulInteger": _Rewriter.multiply,
    "ConvInteger": _Rewriter.multiply,
}
