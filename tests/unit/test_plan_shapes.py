"""Shapes of a plan: those of a run, for inputs of other sizes than the export's as well."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from alignkit.backends import OnnxRuntime
from alignkit.errors import InputError
from alignkit.load.shapes import parse_shape
from alignkit.plan.shapes import ValueShape, bind_shapes, infer_shapes

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'
TWO_INPUTS = (
    HEADER + "g (float[n, 4] x, float[n, m] y) => (float[n, k] z) { z = Concat<axis: int = 1>(x, y) }"
)
ARITHMETIC = (
    HEADER
    + """
g (float[n, c, h, w] x) => (float[a, b] z)
  <int64[1] zero = {0}, int64[1] one = {1}, int64[1] minus = {-1}, int64[2] axes = {2, 3},
   int64[1] two = {2}> {
  shape = Shape(x)
  batch = Slice(shape, zero, one)
  size = Shape<start: int = 2>(x)
  half = Div(size, two)
  left = Sub(size, half)
  cut = Slice(x, half, size, axes)
  target = Concat<axis: int = 0>(batch, minus)
  flat = Reshape(cut, target)
  filled = ConstantOfShape<value: tensor = float[1] {1.5}>(left)
  more = Flatten<axis: int = 0>(filled)
  z = Concat<axis: int = 1>(flat, more)
}
"""
)


def model_of(text: str) -> ModelProto:
    return parser.parse_model(text)


def bound(model: ModelProto, *shapes: str) -> dict[str, tuple[int, ...]]:
    return bind_shapes(model, [parse_shape(text) for text in shapes], "model.onnx")


def test_shapes_that_are_computed_in_the_graph_are_followed(tmp_path: Path) -> None:
    """Every value has the size that ONNX Runtime gives it, at a size the file does not state."""
    model = model_of(ARITHMETIC)
    found = infer_shapes(model, bound(model, "x:1x3x7x10"))
    computed = [name for node in model.graph.node for name in node.output if name != "z"]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in computed)
    values = (
        OnnxRuntime(threads=1).open(model.SerializeToString()).run({"x": np.ones((1, 3, 7, 10), np.float32)})
    )
    assert {name: found[name].dims for name in values} == {name: v.shape for name, v in values.items()}
    assert {name: found[name].nbytes for name in values} == {name: v.nbytes for name, v in values.items()}


def test_a_dimension_of_one_name_has_one_size() -> None:
    """Bound once, it holds for every input; two sizes are refused, and so is a free one, by name."""
    model = model_of(TWO_INPUTS)
    assert bound(model, "y:5x3") == {"x": (5, 4), "y": (5, 3)}
    assert bound(model, "5x4", "5x3") == {"x": (5, 4), "y": (5, 3)}
    with pytest.raises(InputError, match=r"dimension 'n' of model.onnx is given as 5 and as 6"):
        bound(model, "x:5x4", "y:6x3")
    with pytest.raises(InputError, match=r"'y' \[n, m\] of model.onnx has a free dimension 'm' \(axis 1\)"):
        bound(model, "x:5x4")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (["z:5x4"], "has no input 'z'; its inputs are x, y"),
        (["x:5x3"], "'x' is [n, 4] in the file, which 5x3 does not fit"),
        (["x:5"], "'x' is [n, 4] in the file, which 5 does not fit"),
        (["1x4", "1x1", "1x1"], "no input left for the shape 1x1"),
        (["x:1x4", "x:1x4"], "'x' is given two shapes"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: list[str], message: str) -> None:
    """In one line that says which input and what it takes."""
    with pytest.raises(InputError, match=re.escape(message)):
        bound(model_of(TWO_INPUTS), *shapes)


def test_what_depends_on_values_is_unknown() -> None:
    """No size is made up for it, nor for what is computed from it."""
    text = HEADER + "g (float[4] x) => (float[k] z) { i = NonZero(x) t = Transpose(i) z = GatherND(x, t) }"
    found = infer_shapes(model_of(text), {"x": (4,)})
    assert [found[name].nbytes for name in ("i", "t", "z")] == [None, None, None]


def test_an_operator_without_a_schema_is_what_the_file_states() -> None:
    """Names of dimensions stand for the sizes that the inputs give them."""
    text = HEADER.replace('"" : 20', '"" : 20, "other" : 1') + (
        "g (float[n, 4] x) => (float[n, 2] z) <float[n, 8] y> { y = other.Widen(x) z = other.Narrow(y) }"
    )
    found = infer_shapes(model_of(text), {"x": (3, 4)})
    assert (found["y"].dims, found["z"].dims) == ((3, 8), (3, 2))


@pytest.mark.parametrize(
    ("elem", "dims", "nbytes"),
    [
        (TensorProto.FLOAT, (2, 3), 24),
        (TensorProto.BFLOAT16, (3,), 6),
        (TensorProto.BOOL, (3,), 3),
        (TensorProto.INT4, (3,), 2),
        (TensorProto.DOUBLE, (), 8),
        (TensorProto.FLOAT, None, None),
        (TensorProto.STRING, (2,), None),
    ],
)
def test_bytes_of_a_value(elem: int, dims: tuple[int, ...] | None, nbytes: int | None) -> None:
    """Of every kind of element; None where nobody can tell."""
    assert ValueShape(elem, dims).nbytes == nbytes


def test_weights_need_no_data() -> None:
    """A weight that lies outside the file has its shape in it."""
    weight = numpy_helper.from_array(np.zeros((4, 2), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])]
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")], [weight])
    model = helper.make_model(graph)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "nowhere.bin")
    model.graph.initializer[0].ClearField("raw_data")
    assert infer_shapes(model, {"x": (7, 4)})["y"].dims == (7, 2)
