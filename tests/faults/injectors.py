"""Ways to damage one node of a marked file, each ``inject(source, target, which) -> change in words``.

``which`` counts the nodes that the way applies to, in graph order; past the last one it raises
``ValueError``. Those of :mod:`tests.zoo.tamper` are joined by ways that need the node's constants
or neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from tests.zoo.tamper import tamper_node

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Injection:
    """``node`` is the first output of the altered node: the name that stays when node names do not."""

    value: str
    change: str


Injector = Callable[[Path, Path, int], Injection]


class Graph:
    """A loaded file with its constants and readers at hand."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(str(path))
        self.nodes = list(self.model.graph.node)
        self.constants = dict(self._constants())

    def _constants(self) -> Iterator[tuple[str, Array]]:
        for tensor in self.model.graph.initializer:
            yield tensor.name, numpy_helper.to_array(tensor)
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                yield node.output[0], numpy_helper.to_array(node.attribute[0].t)

    def replace(self, node: onnx.NodeProto, index: int, value: Array) -> None:
        """Alter a constant of ``node``: under its own name, unless other nodes read it as well."""
        name = node.input[index]
        tensor = numpy_helper.from_array(np.asarray(value, order="C"), name)
        known = next((t for t in self.model.graph.initializer if t.name == name), None)
        if known is not None and len(self.readers(name)) == 1:
            known.CopyFrom(tensor)
            return
        tensor.name = node.input[index] = f"{name}_damaged"
        self.model.graph.initializer.append(tensor)

    def readers(self, value: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if value in node.input]

    def constant(self, node: onnx.NodeProto, index: int) -> Array | None:
        """The constant that is input ``index`` of ``node``, if there is one."""
        return self.constants.get(node.input[index]) if index < len(node.input) else None

    def reaches(self, node: onnx.NodeProto, op_type: str, steps: int) -> bool:
        """Whether an ``op_type`` reads ``node`` within so many steps."""
        if steps == 0:
            return False
        following = [reader for name in node.output for reader in self.readers(name)]
        return any(n.op_type == op_type or self.reaches(n, op_type, steps - 1) for n in following)


Damage = Callable[[Graph, onnx.NodeProto], "Callable[[], str] | None"]
"""For a node that the way applies to, what damages it and says how; None for others."""


def _inject(damage: Damage, source: Path, target: Path, which: int) -> Injection:
    graph = Graph(source)
    bound = [(node, damage(graph, node)) for node in graph.nodes]
    found = [(node, apply) for node, apply in bound if apply is not None]
    if which >= len(found):
        raise ValueError(f"only {len(found)} nodes of {source.name} can be damaged so.")
    node, apply = found[which]
    change = apply()
    onnx.save(graph.model, str(target))
    return Injection(node.output[0], f"{node.op_type} {node.name!r}: {change}")


def _tampered(how: str, source: Path, target: Path, which: int) -> Injection:
    tampering = tamper_node(source, target, which, how)
    return Injection(tampering.outputs[0], f"{tampering.op} {tampering.node!r}: {tampering.change}")


def _weight_index(graph: Graph, node: onnx.NodeProto) -> int | None:
    """The input of a layer that holds its weight matrix or filter."""
    if node.op_type not in ("Conv", "Gemm", "MatMul", "ConvTranspose"):
        return None
    places = (0, 1) if node.op_type == "MatMul" else (1,)
    weights = {i: graph.constant(node, i) for i in places}
    return next((i for i, w in weights.items() if w is not None and w.ndim > 1 and w.size > 1), None)


def _weight_damage(name: str, change: Callable[[Array], Array | None]) -> Damage:
    """Alter a layer's weight; ``change`` gives None where it cannot."""

    def damage(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
        index = _weight_index(graph, node)
        weight = None if index is None else graph.constant(node, index)
        if index is None or weight is None or (altered := change(weight)) is None:
            return None

        def apply() -> str:
            shown = node.input[index]
            graph.replace(node, index, altered)
            return f"{shown} {name}"

        return apply

    return damage


def _transposed(weight: Array) -> Array | None:
    return np.swapaxes(weight, -1, -2) if weight.shape[-1] == weight.shape[-2] > 1 else None


def _swapped_rows(weight: Array) -> Array | None:
    if weight.shape[0] < 2:
        return None
    order = [1, 0, *range(2, weight.shape[0])]
    return weight[order]


def _one_element(weight: Array) -> Array:
    altered = weight.copy()
    altered.flat[int(np.abs(weight).argmax())] *= -1
    return altered


def _quantised(weight: Array) -> Array | None:
    """As a 4-bit weight-only quantiser would store it: 15 levels over the tensor's range."""
    step = float(np.abs(weight).max()) / 7
    return (np.round(weight / step) * step).astype(weight.dtype) if step else None


def _bias_damage(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
    bias = graph.constant(node, 2) if node.op_type in ("Conv", "Gemm", "ConvTranspose") else None
    if bias is None or not np.any(bias):
        return None

    def apply() -> str:
        graph.replace(node, 2, np.zeros_like(bias))
        return "bias set to zero"

    return apply


def _norm_weight_damage(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
    """Scale of a normalisation layer rolled by one channel."""
    known = ("BatchNormalization", "LayerNormalization", "InstanceNormalization")
    scale = graph.constant(node, 1) if node.op_type in known else None
    if scale is None or scale.size < 2 or float(np.ptp(scale)) == 0.0:
        return None

    def apply() -> str:
        graph.replace(node, 1, np.roll(scale, 1))
        return "scale rolled by one channel"

    return apply


def _attention_scale(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
    """A constant factor in front of a softmax."""
    if node.op_type not in ("Mul", "Div"):
        return None
    index = next((i for i in (0, 1) if (c := graph.constant(node, i)) is not None and c.size == 1), None)
    if index is None or not graph.reaches(node, "Softmax", 4):
        return None
    value = graph.constant(node, index)
    assert value is not None

    def apply() -> str:
        graph.replace(node, index, (value * value.dtype.type(1.5)))
        return f"{float(value):.4g} -> {float(value) * 1.5:.4g}"

    return apply


def _concat_order(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
    if node.op_type != "Concat" or len(node.input) != 2 or any(n in graph.constants for n in node.input):
        return None

    def apply() -> str:
        node.input[:] = [node.input[1], node.input[0]]
        return "its inputs in the other order"

    return apply


def _permutation(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
    """Two axes of a Transpose exchanged; only where both are as long does the shape stay."""
    if node.op_type != "Transpose" or len(node.attribute) != 1 or len(node.attribute[0].ints) < 3:
        return None
    old = list(node.attribute[0].ints)

    def apply() -> str:
        new = [*old[:-2], old[-1], old[-2]]
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("perm", new))
        return f"perm: {old} -> {new}"

    return apply


def _gather_index(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
    """Another row than the one that was selected (the class token, the last state)."""
    index = graph.constant(node, 1) if node.op_type == "Gather" else None
    if index is None or index.size != 1 or index.dtype != np.int64:
        return None

    def apply() -> str:
        graph.replace(node, 1, index + 1)
        return f"index {int(index.item())} -> {int(index.item()) + 1}"

    return apply


def _attribute(op_type: str, name: str, old: Any, new: Any) -> Damage:
    """Set one attribute that has, given or by default, the value ``old``."""

    def damage(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type != op_type or values.get(name, old) != old:
            return None

        def apply() -> str:
            kept = [a for a in node.attribute if a.name != name]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute(name, new)])
            return f"{name}: {old!r} -> {new!r}"

        return apply

    return damage


def _bound_damage(graph: Graph, node: onnx.NodeProto) -> Callable[[], str] | None:
    """The upper bound of a Clip lowered by a quarter."""
    bound = graph.constant(node, 2) if node.op_type == "Clip" else None
    if bound is None or not np.isfinite(bound).all():
        return None

    def apply() -> str:
        graph.replace(node, 2, np.asarray(bound * 0.25, bound.dtype))
        return f"upper bound {float(bound):.3g} -> {float(bound) * 0.25:.3g}"

    return apply


_DAMAGES: Mapping[str, Damage] = {
    "transposed": _weight_damage("transposed", _transposed),
    "rows": _weight_damage("with two rows exchanged", _swapped_rows),
    "element": _weight_damage("with one element negated", _one_element),
    "quantised": _weight_damage("rounded to 15 levels", _quantised),
    "bias": _bias_damage,
    "norm-scale": _norm_weight_damage,
    "attention-scale": _attention_scale,
    "concat": _concat_order,
    "permutation": _permutation,
    "index": _gather_index,
    "coordinates": _attribute("Resize", "coordinate_transformation_mode", b"half_pixel", b"asymmetric"),
    "rounding": _attribute("Resize", "nearest_mode", b"floor", b"ceil"),
    "gelu": _attribute("Gelu", "approximate", b"none", b"tanh"),
    "dilation": _attribute("MaxPool", "dilations", [1, 1], [2, 2]),
    "clip-bound": _bound_damage,
}

INJECTORS: Mapping[str, Injector] = {
    **{
        how: partial(_tampered, how)
        for how in ("weight", "operator", "epsilon", "slope", "axis", "pads", "mode")
    },
    **{name: partial(_inject, damage) for name, damage in _DAMAGES.items()},
}

WEIGHT_WAYS = frozenset(("weight", "transposed", "rows", "element", "quantised", "bias", "norm-scale"))
"""The ways that alter a parameter of the model; all others alter what the graph computes."""
