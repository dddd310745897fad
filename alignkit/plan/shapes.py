"""Shapes: type and size of every value of a graph, for inputs of given shapes, without a run.

The nodes are walked once, in order. A node's shapes follow by ONNX's own rule for its operator; small
integers that are computed from shapes and constants are evaluated on the way, since a ``Reshape`` may ask
for them. What no rule tells is what the file states, or unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, prod

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper, numpy_helper

from alignkit.errors import InputError
from alignkit.graph import graph_inputs, subgraphs
from alignkit.load.shapes import InputShape

_SMALL = 1024  # elements: tensors up to this size may be shapes
_NIBBLES = {TensorProto.INT4, TensorProto.UINT4}
_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}

Dims = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ValueShape:
    """``elem`` is a ``TensorProto.DataType``; ``dims`` are None where they are not known."""

    elem: int
    dims: Dims | None

    @property
    def size(self) -> int | None:
        """How many elements."""
        return None if self.dims is None else prod(self.dims)

    @property
    def nbytes(self) -> int | None:
        """Memory of the value; None where the shape is unknown or the elements have no fixed size."""
        if self.dims is None or self.elem in (TensorProto.STRING, TensorProto.UNDEFINED):
            return None
        return ceil(prod(self.dims) / 2) if self.elem in _NIBBLES else prod(self.dims) * self.dtype.itemsize

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The elements as numpy (with ml_dtypes) calls them."""
        return helper.tensor_dtype_to_np_dtype(self.elem)


def bind_shapes(model: ModelProto, shapes: Sequence[InputShape], path: str) -> dict[str, Dims]:
    """The dimensions of every input of ``model``, free ones as ``shapes`` say.

    Shapes without a name go to the inputs in order. A name of a dimension stands for one size wherever it
    occurs. Raises :class:`InputError` for a dimension that stays free, and for a shape that does not fit.
    """
    inputs = graph_inputs(model)
    given = _by_name(shapes, list(inputs), path)
    named: dict[str, int] = {}
    for name, shape in given.items():
        _require_fit(name, inputs[name], shape)
        for dim, size in zip(inputs[name].type.tensor_type.shape.dim, shape.dims, strict=False):
            if dim.dim_param and named.setdefault(dim.dim_param, size) != size:
                raise InputError(
                    f"the dimension {dim.dim_param!r} of {path} is given as {named[dim.dim_param]} and as "
                    f"{size} (for the input {name!r}); give it one size."
                )
    return {name: _bound(name, inputs[name], given.get(name), named, path) for name in inputs}


def _by_name(shapes: Sequence[InputShape], names: list[str], path: str) -> dict[str, InputShape]:
    given: dict[str, InputShape] = {}
    unnamed = iter([name for name in names if name not in {shape.name for shape in shapes}])
    for shape in shapes:
        name = shape.name or next(unnamed, None)
        if name is None or name not in names:
            what = f"no input {name!r}" if name else f"no input left for the shape {shape}"
            raise InputError(f"{path} has {what}; its inputs are {', '.join(names) or 'none'}.")
        if name in given:
            raise InputError(f"the input {name!r} is given two shapes; keep one of them.")
        given[name] = shape
    return given


def _require_fit(name: str, value: ValueInfoProto, shape: InputShape) -> None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return
    stated = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    fits = len(stated) == len(shape.dims) and all(
        s in (None, d) for s, d in zip(stated, shape.dims, strict=True)
    )
    if not fits:
        raise InputError(
            f"the input {name!r} is {_words(value)} in the file, which {_times(shape.dims)} does not fit."
        )


def _bound(
    name: str, value: ValueInfoProto, shape: InputShape | None, named: Mapping[str, int], path: str
) -> Dims:
    if shape is not None:
        return shape.dims
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise InputError(f"the input {name!r} of {path} is no tensor, and no shape can be given to it.")
    if not tensor.HasField("shape"):
        raise InputError(
            f"the shape of the input {name!r} of {path} is not known: give --input-shape {name}:…."
        )
    dims = []
    for axis, dim in enumerate(tensor.shape.dim):
        size = dim.dim_value if dim.HasField("dim_value") else named.get(dim.dim_param)
        if size is None:
            free = repr(dim.dim_param) if dim.dim_param else "without a name"
            raise InputError(
                f"the input {name!r} {_words(value)} of {path} has a free dimension {free} (axis {axis}): "
                f"give it a size with --input-shape {name}:{_example(value)}."
            )
        dims.append(size)
    return tuple(dims)


def _words(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    names = (str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
    return f"[{', '.join(names)}]"


def _example(value: ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "x".join(str(d.dim_value) if d.HasField("dim_value") else "1" for d in dims)


def _times(dims: Dims) -> str:
    return "x".join(map(str, dims)) or "scalar"


def infer_shapes(model: ModelProto, inputs: Mapping[str, Dims]) -> dict[str, ValueShape]:
    """Every value of the main graph of ``model``, whose local functions are inlined, when its inputs have
    the dimensions ``inputs``. Weights may be shells without data."""
    walk = _Walk(model, _stated(model, inputs))
    for tensor in model.graph.initializer:
        walk.know(tensor.name, ValueShape(tensor.data_type, tuple(tensor.dims)), tensor)
    for name, value in graph_inputs(model).items():
        walk.know(name, ValueShape(value.type.tensor_type.elem_type, inputs[name]))
    for node in model.graph.node:
        walk.visit(node)
    return walk.found


def _stated(model: ModelProto, inputs: Mapping[str, Dims]) -> dict[str, ValueShape]:
    """What the file says of its values, with the sizes that the inputs give to names of dimensions."""
    graph, named = model.graph, {}
    for name, value in graph_inputs(model).items():
        dims = value.type.tensor_type.shape.dim
        named.update(
            {dim.dim_param: size for dim, size in zip(dims, inputs[name], strict=False) if dim.dim_param}
        )
    return {
        value.name: _shape_of(value.type, named)
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type
    }


def _shape_of(kind: TypeProto, named: Mapping[str, int]) -> ValueShape:
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return ValueShape(tensor.elem_type, None)
    dims = [
        dim.dim_value if dim.HasField("dim_value") else named.get(dim.dim_param) for dim in tensor.shape.dim
    ]
    known = [size for size in dims if size is not None]
    return ValueShape(tensor.elem_type, tuple(known) if len(known) == len(dims) else None)


@dataclass(slots=True)
class _Walk:
    """What is known so far: shapes, the types as ONNX writes them, and the data of small constants."""

    model: ModelProto
    stated: Mapping[str, ValueShape]
    found: dict[str, ValueShape] = field(default_factory=dict)
    types: dict[str, TypeProto] = field(default_factory=dict)
    data: dict[str, TensorProto] = field(default_factory=dict)
    schemas: dict[tuple[str, str], onnx.defs.OpSchema | None] = field(default_factory=dict)

    def know(self, name: str, shape: ValueShape, tensor: TensorProto | None = None) -> None:
        """Note a value, and its data where they are here and small."""
        self.found[name] = shape
        if shape.dims is not None and shape.elem != TensorProto.UNDEFINED:
            self.types[name] = helper.make_tensor_type_proto(shape.elem, shape.dims)
            here = tensor is not None and tensor.data_location != TensorProto.EXTERNAL
            if tensor is not None and here and prod(shape.dims) <= _SMALL:
                self.data[name] = tensor

    def visit(self, node: NodeProto) -> None:
        """Note the outputs of a node."""
        inferred = self._infer(node)
        for name in filter(None, node.output):
            shape = inferred.get(name) or ValueShape(TensorProto.UNDEFINED, None)
            self.know(name, self.stated.get(name, shape) if shape.dims is None else shape)
        for name, tensor in self._evaluate(node).items():
            self.know(name, ValueShape(tensor.data_type, tuple(tensor.dims)), tensor)

    def _infer(self, node: NodeProto) -> dict[str, ValueShape]:
        read = [name for name in node.input if name]
        schema = self._schema(node)
        if schema is None or next(subgraphs(node), None) or any(name not in self.types for name in read):
            return {}
        try:
            outputs = onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in read},
                {name: self.data[name] for name in read if name in self.data},
                opset_imports=list(self.model.opset_import),
                ir_version=self.model.ir_version,
            )
        except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
            return {}  # a shape that depends on values, or a rule that this version lacks
        return {name: _shape_of(kind, {}) for name, kind in outputs.items()}

    def _schema(self, node: NodeProto) -> onnx.defs.OpSchema | None:
        key = node.op_type, node.domain
        if key not in self.schemas:
            versions = {entry.domain: entry.version for entry in self.model.opset_import}
            version = versions.get(node.domain, versions.get("ai.onnx", 1) if not node.domain else 1)
            known = onnx.defs.has(node.op_type, node.domain)
            self.schemas[key] = onnx.defs.get_schema(node.op_type, version, node.domain) if known else None
        return self.schemas[key]

    def _evaluate(self, node: NodeProto) -> dict[str, TensorProto]:
        """The outputs themselves, where they are few numbers and follow from shapes and constants."""
        if node.op_type in ("Shape", "Size") and not node.domain:
            return self._evaluate_shape(node)
        if any(name not in self.data for name in node.input if name) or node.op_type in _RANDOM:
            return {}
        shapes = [self.found[name] for name in node.output if name]
        if node.domain or next(subgraphs(node), None) or not all(_is_small(shape) for shape in shapes):
            return {}
        return self._compute(node)

    def _evaluate_shape(self, node: NodeProto) -> dict[str, TensorProto]:
        shape = self.found.get(node.input[0])
        if shape is None or shape.dims is None:
            return {}
        limits = {entry.name: entry.i for entry in node.attribute}
        dims = shape.dims[limits.get("start", 0) : limits.get("end", len(shape.dims))]
        numbers = np.array(dims if node.op_type == "Shape" else prod(shape.dims), np.int64)
        return {node.output[0]: numpy_helper.from_array(numbers, node.output[0])}

    def _compute(self, node: NodeProto) -> dict[str, TensorProto]:
        from onnx.reference import ReferenceEvaluator

        feeds = {name: numpy_helper.to_array(self.data[name]) for name in node.input if name}
        opsets = {entry.domain: entry.version for entry in self.model.opset_import}
        try:
            values = ReferenceEvaluator(node, opsets=opsets).run(None, feeds)
        except Exception:  # the evaluator raises whatever its numpy code does: then the data stay unknown
            return {}
        named: Iterable[tuple[str, object]] = zip(node.output, values, strict=False)
        return {
            name: numpy_helper.from_array(np.asarray(value), name)
            for name, value in named
            if name and isinstance(value, (np.ndarray, np.generic)) and np.asarray(value).size <= _SMALL
        }


def _is_small(shape: ValueShape) -> bool:
    return shape.size is not None and shape.size <= _SMALL
