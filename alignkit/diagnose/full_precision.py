"""A segment in full precision: what a conversion put in is taken out again.

Quantisation becomes the identity, integer products become floating ones, half types float32. A weight
takes the model's own value where the file's is no further from it than the conversion rounds;
otherwise it stays what the file says, for then it is another weight.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from alignkit.diagnose.bench import Bench
from alignkit.diagnose.segment import Segment, segment_model
from alignkit.diagnose.weights import folded_forms, forms_of
from alignkit.graph import subgraphs
from alignkit.records import Array

_HALF_TYPES: Mapping[int, float] = {TensorProto.FLOAT16: 2.0**-10, TensorProto.BFLOAT16: 2.0**-7}
_SMALLEST_HALF = 1.1e-7  # converters to float16 lift what is smaller to 1e-7
_STEPS = 1.05  # a rounded weight is half a step away and, at the ends of a range whose zero is rounded, one
_PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


def in_full_precision(bench: Bench) -> tuple[Bench, ...]:
    """``bench`` with its segment in full precision; none for operators that this cannot take apart.

    A quantiser may stand for the activation before it, whose range is its own. So there are two: one in
    which it only cuts off what is negative, if it has no room for that, and one in which it keeps its range.
    Raises ``ValueError`` for scales that are no constants.
    """
    found = (_widened_bench(bench, keep_range=keep_range) for keep_range in (False, True))
    return tuple(one for one in found if one is not None)


def _widened_bench(bench: Bench, *, keep_range: bool) -> Bench | None:
    model = segment_model(bench.marked, bench.segment)
    nodes = list(model.graph.node)
    if any(node.op_type.startswith(("QLinear", "QGemm")) or list(subgraphs(node)) for node in nodes):
        return None
    widening = _Widening({t.name: t for t in model.graph.initializer}, bench.state(), keep_range)
    widened = [new for node in nodes for new in widening.nodes_for(node)]
    value = widening.now(bench.segment.value)
    if value != bench.segment.value:
        widened.append(helper.make_node("Identity", [value], [bench.segment.value], "in_full_precision"))
    weights = tuple(widening.weights())
    types = {
        name: known._replace(elem=TensorProto.FLOAT) if known.elem in _HALF_TYPES else known
        for name, known in bench.marked.types.items()
    }
    segment = Segment(bench.segment.value, tuple(widened), bench.segment.borders, weights)
    return replace(bench, segment=segment, marked=replace(bench.marked, types=types), precision=None)


@dataclass(slots=True)
class _Widening:
    """The file's initializers, the model's state, and under which names values go on.

    With ``keep_range`` a quantiser cuts off what it has no room for, otherwise only what is negative where
    it has none for that at all.
    """

    given: Mapping[str, TensorProto]
    state: Mapping[str, Array]
    keep_range: bool
    names: dict[str, str] = field(default_factory=dict)
    made: dict[str, TensorProto] = field(default_factory=dict)

    def now(self, name: str) -> str:
        """The name of what stands for the value ``name``."""
        while name in self.names:
            name = self.names[name]
        return name

    def nodes_for(self, node: NodeProto) -> Iterator[NodeProto]:
        """What takes the place of ``node``."""
        if node.op_type == "DequantizeLinear" and node.input[0] in self.given:
            self._add(node.output[0], self._dequantised(node))
        elif node.op_type == "DequantizeLinear":
            self.names[node.output[0]] = node.input[0]
        elif node.op_type == "QuantizeLinear":
            yield self._cut_off(node)
        elif node.op_type == "DynamicQuantizeLinear":
            self.names[node.output[0]] = node.input[0]
            self._add(node.output[1], np.float32(1))
        elif node.op_type in _PRODUCTS:
            yield self._product(node)
        else:
            yield self._widened(node)

    def _cut_off(self, node: NodeProto) -> NodeProto:
        scale = self._array(node.input[1])
        zero = self._array(node.input[2]) if len(node.input) > 2 else np.zeros(1, np.uint8)
        if scale is None or zero is None:
            raise ValueError(f"the scale of {node.name!r} is not a constant")
        kind = np.iinfo(zero.dtype) if zero.dtype.kind in "iu" else None
        inputs = [self.now(node.input[0])]
        if kind is None or scale.size > 1 or not (self.keep_range or int(zero.item()) == kind.min):
            return helper.make_node("Identity", inputs, list(node.output), node.name)
        low, high = ((end - int(zero.item())) * float(scale.item()) for end in (kind.min, kind.max))
        for side, end in (("low", low), ("high", high if self.keep_range else np.finfo(np.float32).max)):
            self._add(f"{node.output[0]}_{side}", np.float32(end))
            inputs.append(f"{node.output[0]}_{side}")
        return helper.make_node("Clip", inputs, list(node.output), node.name)

    def weights(self) -> Iterator[TensorProto]:
        """The initializers of the widened segment."""
        yield from self.made.values()
        for name, tensor in self.given.items():
            if name in self.made:
                continue
            if tensor.data_type in _HALF_TYPES:
                stored = numpy_helper.to_array(tensor).astype(np.float32)
                step = np.maximum(np.abs(stored) * _HALF_TYPES[tensor.data_type], _SMALLEST_HALF / _STEPS)
                yield numpy_helper.from_array(self._own(name, stored, step), name)
            else:
                yield tensor

    def _add(self, name: str, value: Array | np.float32) -> None:
        self.made[name] = numpy_helper.from_array(np.asarray(value), name)

    def _array(self, name: str) -> Array | None:
        return numpy_helper.to_array(self.given[name]) if name in self.given else None

    def _dequantised(self, node: NodeProto) -> Array:
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        stored, scale = self._array(node.input[0]), self._array(node.input[1])
        zero = self._array(node.input[2]) if len(node.input) > 2 else None
        if stored is None or scale is None:
            raise ValueError(f"the scale of {node.input[0]!r} is not a constant")
        return self._restored(node.input[0], stored, zero, scale.astype(np.float32), axis)

    def _restored(self, name: str, stored: Array, zero: Array | None, scale: Array, axis: int) -> Array:
        def along(one: Array) -> Array:
            return one.reshape([-1 if i == axis else 1 for i in range(stored.ndim)]) if one.size > 1 else one

        offset = along(zero).astype(np.float64) if zero is not None else 0.0
        step = along(scale).astype(np.float64)
        value = ((stored.astype(np.float64) - offset) * step).astype(np.float32)
        return self._own(name, value, np.broadcast_to(step, value.shape))

    def _own(self, name: str, value: Array, step: Array) -> Array:
        """The model's own weight, where ``value`` is that one rounded to ``step``; of several the one of its
        name or the nearest, for beside a wide step small weights look all alike."""
        flat, steps = value.reshape(-1), _STEPS * np.asarray(step).reshape(-1)
        near: list[tuple[bool, float, Array]] = []
        for key, parameter in self.state.items():
            folded = folded_forms(parameter, value, self.state)
            for form in (*forms_of(parameter, value, self.state, key), *folded):
                if (np.abs(form.reshape(-1)[:64] - flat[:64]) > steps[:64]).any():
                    continue
                apart = np.abs(form.reshape(-1) - flat)
                if (apart <= steps).all():
                    near.append((key != name.removesuffix("_quantized"), float(apart.max(initial=0.0)), form))
        best = min(near, key=lambda one: one[:2], default=None)
        return value if best is None else np.ascontiguousarray(best[2], dtype=np.float32)

    def _product(self, node: NodeProto) -> NodeProto:
        """An integer product as a floating one; the weight stays in units of its scale."""
        weight = node.input[1]
        stored = self._array(weight)
        inputs = [self.now(node.input[0]), self.now(weight)]
        if stored is not None:
            zero = self._array(node.input[3]) if len(node.input) > 3 else None
            scale = self._array(f"{weight.removesuffix('_quantized')}_scale")
            axis = 0 if node.op_type == "ConvInteger" else stored.ndim - 1
            known = scale if scale is not None else np.ones(1, np.float32)
            value = self._restored(weight, stored, zero, known.astype(np.float32), axis)
            if known.size > 1:
                known = known.reshape([-1 if i == axis else 1 for i in range(stored.ndim)])
            self._add(f"{weight}_in_full", (value / known).astype(np.float32))
            inputs[1] = f"{weight}_in_full"
        made = helper.make_node(_PRODUCTS[node.op_type], inputs, list(node.output), node.name)
        made.attribute.extend(node.attribute)
        return made

    def _widened(self, node: NodeProto) -> NodeProto:
        made = NodeProto()
        made.CopyFrom(node)
        made.input[:] = [self.now(name) for name in node.input]
        for attribute in made.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in _HALF_TYPES:
                attribute.i = TensorProto.FLOAT
            elif attribute.HasField("t") and attribute.t.data_type in _HALF_TYPES:
                wide = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(wide, attribute.t.name))
        return made
