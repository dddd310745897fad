"""Spoil one node of an exported file, to see whether a comparison finds it.

``tamper_node(source, target, how="weight", seed=3)`` picks one of the nodes that ``how`` applies
to, alters it and nothing else, and says which it was. Nodes inside subgraphs and local functions
are left alone.
"""

from __future__ import annotations

import filecmp
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import external_data_helper, helper, numpy_helper

Choice = Callable[[onnx.NodeProto], bool]
Change = Callable[[Any], Any]

WEIGHT_FACTOR = 1.01
_FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}

# operator -> the input that holds its weights (None: whichever is an initializer)
_WEIGHT_INPUT: Mapping[str, int | None] = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "LSTM": 2,
    "MatMul": None,
}

# operator -> the operator that takes its place: same inputs, same attributes, same output shape
_REPLACEMENTS: Mapping[str, str] = {
    "Relu": "LeakyRelu",
    "Add": "Sub",
    "Sub": "Add",
    "Mul": "Add",
    "Sigmoid": "HardSigmoid",
    "Tanh": "Softsign",
    "Erf": "Tanh",
    "GlobalAveragePool": "GlobalMaxPool",
    "ReduceMean": "ReduceMax",
    "Softmax": "LogSoftmax",
}


@dataclass(frozen=True, slots=True)
class Tampering:
    """What was done: ``change`` says it in words, e.g. ``"epsilon: 1e-05 -> 0.001"``."""

    node: str
    op: str
    outputs: tuple[str, ...]
    change: str


@dataclass(frozen=True, slots=True)
class _File:
    model: onnx.ModelProto
    folder: Path  # that external data are relative to
    initializers: Mapping[str, onnx.TensorProto]
    types: Mapping[str, int]  # value name -> element type, where known

    def is_float(self, value: str) -> bool:
        return self.types.get(value) in _FLOATS


def tamper_node(
    source: Path, target: Path, which: int | Choice | None = None, how: str = "weight", *, seed: int = 0
) -> Tampering:
    """Write ``source`` to ``target`` with one node altered in the way that ``how`` names.

    ``how`` is a key of ``HOW``. Among the nodes it applies to, in graph order, ``which`` is an index
    or a predicate; where that leaves several, ``seed`` picks one. External data are copied when
    ``target`` lies in another folder. Raises ``ValueError`` when ``how`` is unknown or no node fits.
    """
    if how not in HOW:
        raise ValueError(f"no way {how!r} to tamper with a node; there are {', '.join(HOW)}.")
    file = _load(source)
    candidates = [node for node in file.model.graph.node if HOW[how].applies(file, node)]
    node = _choose(candidates, which, seed, f"{how!r} in {source.name}")
    operator = node.op_type
    change = HOW[how].apply(file, node)
    node.name = node.name or f"tampered_{operator}"
    _save(file, target)
    return Tampering(node.name, operator, tuple(node.output), change)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to tamper: where it applies, and what does it (altering the node, returning words)."""

    applies: Callable[[_File, onnx.NodeProto], bool]
    apply: Callable[[_File, onnx.NodeProto], str]


def _choose(
    candidates: list[onnx.NodeProto], which: int | Choice | None, seed: int, wanted: str
) -> onnx.NodeProto:
    if callable(which):
        candidates = [node for node in candidates if which(node)]
    if not candidates or (isinstance(which, int) and which >= len(candidates)):
        raise ValueError(f"no such node for {wanted}: {len(candidates)} would do.")
    return candidates[which] if isinstance(which, int) else random.Random(seed).choice(candidates)


def _has_weight(file: _File, node: onnx.NodeProto) -> bool:
    return _weight_index(file, node) is not None


def _weight_index(file: _File, node: onnx.NodeProto) -> int | None:
    if node.op_type not in _WEIGHT_INPUT:
        return None
    fixed = _WEIGHT_INPUT[node.op_type]
    positions = range(len(node.input)) if fixed is None else [fixed]
    return next((i for i in positions if node.input[i] in file.initializers), None)


def _scale_weight(file: _File, node: onnx.NodeProto) -> str:
    """Gives the node a scaled copy of its own: other nodes may share the weight."""
    index = _weight_index(file, node)
    assert index is not None
    tensor = onnx.TensorProto()
    tensor.CopyFrom(file.initializers[node.input[index]])
    if external_data_helper.uses_external_data(tensor):
        external_data_helper.load_external_data_for_tensor(tensor, str(file.folder))
    values = numpy_helper.to_array(tensor)
    old, new = tensor.name, f"{tensor.name}_tampered"
    scaled = (values * values.dtype.type(WEIGHT_FACTOR)).astype(values.dtype)
    file.model.graph.initializer.append(numpy_helper.from_array(scaled, new))
    node.input[index] = new
    return f"{old} times {WEIGHT_FACTOR}"


def _is_replaceable(file: _File, node: onnx.NodeProto) -> bool:
    return node.op_type in _REPLACEMENTS and not node.domain and file.is_float(node.output[0])


def _replace_operator(file: _File, node: onnx.NodeProto) -> str:
    old, node.op_type = node.op_type, _REPLACEMENTS[node.op_type]
    return f"{old} -> {node.op_type}"


def _attribute_way(attribute: str, default: Any, change: Change, *operators: str) -> _Way:
    """Change one attribute of ``operators`` wherever ``change`` gives another value than before."""

    def value(node: onnx.NodeProto) -> Any:
        found = next((item for item in node.attribute if item.name == attribute), None)
        return default if found is None else helper.get_attribute_value(found)

    def applies(_: _File, node: onnx.NodeProto) -> bool:
        return node.op_type in operators and change(value(node)) != value(node)

    def apply(_: _File, node: onnx.NodeProto) -> str:
        old, new = value(node), change(value(node))
        kept = [item for item in node.attribute if item.name != attribute]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(attribute, new)])
        return f"{attribute}: {_shown(old)} -> {_shown(new)}"

    return _Way(applies, apply)


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shifted(pads: list[int]) -> list[int]:
    """The same padding in sum, hence the same output shape, but one pixel moved to the far side."""
    half = len(pads) // 2
    if not half or min(pads[:half]) < 1:
        return pads
    return [begin - 1 for begin in pads[:half]] + [end + 1 for end in pads[half:]]


def _other_mode(mode: bytes) -> bytes:
    return {b"cubic": b"linear", b"linear": b"nearest", b"nearest": b"linear"}[mode]


HOW: Mapping[str, _Way] = {
    "weight": _Way(_has_weight, _scale_weight),
    "operator": _Way(_is_replaceable, _replace_operator),
    "epsilon": _attribute_way(
        "epsilon",
        1e-5,
        lambda epsilon: epsilon * 1000,
        "BatchNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
    ),
    "alpha": _attribute_way("alpha", 1.0, lambda alpha: alpha * WEIGHT_FACTOR, "Gemm", "Elu", "Celu"),
    "slope": _attribute_way("alpha", 0.2, lambda alpha: alpha * 1.5, "HardSigmoid"),
    "axis": _attribute_way("axis", -1, lambda axis: 0 if axis != 0 else -1, "Softmax", "LogSoftmax"),
    "pads": _attribute_way("pads", [], _shifted, "Conv", "MaxPool", "AveragePool"),
    "mode": _attribute_way("mode", b"nearest", _other_mode, "Resize"),
}


def _load(path: Path) -> _File:
    model = onnx.load(str(path), load_external_data=False)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    return _File(model, path.parent, initializers, dict(_element_types(model)))


def _element_types(model: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        yield value.name, value.type.tensor_type.elem_type


def _save(file: _File, target: Path) -> None:
    """Weights that were external stay so, in files of the same names beside ``target``."""
    graph = file.model.graph
    used = set(_used_values(graph))
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for location in sorted(_external_locations(file.model)):
        _copy(file.folder / location, target.parent / location)
    onnx.save(file.model, str(target))


def _copy(source: Path, target: Path) -> None:
    if target.exists() and not filecmp.cmp(source, target, shallow=False):
        raise FileExistsError(f"{target} holds another model's weights; choose another folder.")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _used_values(graph: onnx.GraphProto) -> Iterator[str]:
    """The values read by the graph's nodes and by subgraphs, and its outputs."""
    yield from (value.name for value in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _used_values(subgraph)


def _external_locations(model: onnx.ModelProto) -> set[str]:
    return {
        entry.value
        for tensor in model.graph.initializer
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
