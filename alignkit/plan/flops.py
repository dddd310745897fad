"""Work: what a node computes and moves, from the shapes around it alone.

Products have a closed form each; everything else is counted by the bytes that it reads and writes, for
those take its time. What only renames a tensor (a reshape, an identity) costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from onnx import NodeProto, helper

from alignkit.plan.records import CONV, DEPTHWISE, PRODUCT, Work
from alignkit.plan.shapes import Dims, ValueShape

_FEW_CHANNELS = 4
_FREE = {
    *("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Shape", "Size", "Constant", "Dropout"),
    *("ConstantOfShape", "Range"),
}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}

_Shapes = Mapping[str, ValueShape]


def node_work(node: NodeProto, shapes: Mapping[str, ValueShape]) -> Work:
    """The work of one node. Where a shape is unknown, what depends on it counts as nothing."""
    if node.op_type in _FREE and node.domain == "":
        return Work()
    moved = sum(_bytes(name, shapes) for name in {*node.input, *node.output} if name)
    if node.op_type in _GATHERING:
        # Of a table only those rows are read that the result holds.
        moved = 2 * sum(_bytes(name, shapes) for name in node.output if name)
    counted = _PRODUCTS.get(node.op_type)
    if counted is None:
        return Work({}, moved, 1)
    try:
        kind, flops = counted(node, shapes)
    except _UnknownShape:
        return Work({}, moved, 1)
    return Work({kind: flops}, moved, 1)


_GATHERING = {"Gather", "GatherElements", "GatherND", "Slice"}


class _UnknownShape(Exception):
    """A shape that a closed form needs is not known."""


def _bytes(name: str, shapes: _Shapes) -> int:
    return (shapes[name].nbytes or 0) if name in shapes else 0


def _dims(name: str, shapes: _Shapes, rank: int | None = None) -> Dims:
    dims = shapes[name].dims if name in shapes else None
    if dims is None or (rank is not None and len(dims) != rank):
        raise _UnknownShape(name)
    return dims


def _attribute(node: NodeProto, name: str, default: int) -> int:
    return next((int(entry.i) for entry in node.attribute if entry.name == name), default)


def _conv(node: NodeProto, shapes: _Shapes) -> tuple[str, float]:
    """``2 · output · channels per group · kernel``; a transposed one takes its input for it."""
    weight = 3 if node.op_type == "QLinearConv" else 1
    kernel = _dims(node.input[weight], shapes)
    kind = DEPTHWISE if kernel[1] <= _FEW_CHANNELS and _attribute(node, "group", 1) > 1 else CONV
    moving = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
    return kind, 2 * prod(_dims(moving, shapes)) * prod(kernel[1:])


def _gemm(node: NodeProto, shapes: _Shapes) -> tuple[str, float]:
    """``2 · rows · columns · depth``."""
    first = _dims(node.input[0], shapes, rank=2)
    depth = first[0] if _attribute(node, "transA", 0) else first[1]
    return PRODUCT, 2 * prod(_dims(node.output[0], shapes)) * depth


def _matmul(node: NodeProto, shapes: _Shapes) -> tuple[str, float]:
    """``2 · output · depth``."""
    first = _dims(node.input[0], shapes)
    if not first:
        raise _UnknownShape(node.input[0])
    return PRODUCT, 2 * prod(_dims(node.output[0], shapes)) * first[-1]


def _einsum(node: NodeProto, shapes: _Shapes) -> tuple[str, float]:
    """Two operations for each combination of indices; an ellipsis counts with the axes that it stands for."""
    equation = next(helper.get_attribute_value(e) for e in node.attribute if e.name == "equation").decode()
    sizes: dict[object, int] = {}
    for term, name in zip(equation.replace(" ", "").split("->")[0].split(","), node.input, strict=True):
        dims = _dims(name, shapes)
        left, dots, right = term.partition("...")
        between = dims[len(left) : len(dims) - len(right)] if dots else ()
        letters = [*left, *(-place for place in range(len(between), 0, -1)), *right]
        if len(letters) != len(dims):
            raise _UnknownShape(name)
        for letter, size in zip(letters, dims, strict=True):
            sizes[letter] = max(sizes.get(letter, 1), size)
    return PRODUCT, 2 * prod(sizes.values())


def _attention(node: NodeProto, shapes: _Shapes) -> tuple[str, float]:
    """Scores and their product with the values: ``2 · batch · queries · keys · (width of q + width of v)``,
    the widths over all heads."""
    query, key, value = (_dims(name, shapes) for name in node.input[:3])
    if len(query) == 4:  # batch, heads, length, width
        batch, heads, queries, width = query
        return PRODUCT, 2 * batch * heads * queries * key[2] * (width + value[3])
    if len(query) != 3 or len(key) != 3:
        raise _UnknownShape(node.input[0])
    heads = _attribute(node, "q_num_heads", _attribute(node, "num_heads", 1))
    kv_heads = _attribute(node, "kv_num_heads", heads)
    batch, queries, width = query
    return PRODUCT, 2 * batch * queries * key[1] * (width + value[2] * heads / kv_heads)


def _recurrent(node: NodeProto, shapes: _Shapes) -> tuple[str, float]:
    """``2 · steps · batch`` times all elements of both weights, those of each direction and gate."""
    steps, batch = _dims(node.input[0], shapes, rank=3)[:2]
    weights = sum(prod(_dims(name, shapes, rank=3)) for name in node.input[1:3])
    return PRODUCT, 2 * steps * batch * weights


_PRODUCTS: Mapping[str, Callable[[NodeProto, _Shapes], tuple[str, float]]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "FusedConv"), _conv),
    **dict.fromkeys(("Gemm", "FusedGemm"), _gemm),
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul"), _matmul),
    **dict.fromkeys(("Attention", "MultiHeadAttention", "GroupQueryAttention"), _attention),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "Einsum": _einsum,
}
