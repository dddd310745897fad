"""The float64 version of a model: everything narrower is widened, wherever it stands."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, parser

from alignkit.backends.onnxruntime import OnnxRuntime, Session
from alignkit.diagnose.double import to_double

X = np.linspace(-2, 2, 4, dtype=np.float32)
HEADER = '<ir_version: 10, opset_import: ["" : 20, "f" : 1]>'

MODELS = {
    "cast": "g (int64[4] i, float[4] x) => (float[4] y) { c = Cast<to: int = 1>(i) y = Add(c, x) }",
    "half cast": "g (float[4] x) => (float[4] y) { h = Cast<to: int = 10>(x) y = Cast<to: int = 1>(h) }",
    "constant": """g (float[4] x) => (float[4] y) {
        c = Constant<value: tensor = float[1] {0.1}>() y = Mul(c, x) }""",
    "scalar": "g (float[4] x) => (float[4] y) { c = Constant<value_float: float = 0.1>() y = Mul(c, x) }",
    "list": """g (float[4] x) => (float[4] y) {
        c = Constant<value_floats: floats = [0.1, 0.2, 0.3, 0.4]>() y = Mul(c, x) }""",
    "default": """g (float[4] x) => (float[4] y) {
        s = Constant<value_ints: ints = [4]>() z = ConstantOfShape(s) y = Add(z, x) }""",
    "filled": """g (float[4] x) => (float[4] y) {
        s = Constant<value_ints: ints = [4]>()
        z = ConstantOfShape<value: tensor = float[1] {0.1}>(s) y = Add(z, x) }""",
    "weight": "g (float[4] x) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { y = Mul(x, w) }",
    "body": """g (float[4] x, bool[1] b) => (float[4] y) {
        y = If(b) <
          then_branch = yes () => (float[4] t) <float[1] w = {0.1}> { t = Mul(x, w) },
          else_branch = no () => (float[4] e) {
            c = Constant<value_float: float = 0.3>() e = Sub(x, c) }
        > }""",
    "nested body": """g (float[4] x, bool[1] b) => (float[4] y) {
        y = If(b) <
          then_branch = yes () => (float[4] t) {
            t = If(b) <
              then_branch = yes2 () => (float[4] t2) {
                c = Constant<value_float: float = 0.3>() t2 = Sub(x, c) },
              else_branch = no2 () => (float[4] e2) { e2 = Neg(x) }
            > },
          else_branch = no () => (float[4] e) { e = Neg(x) }
        > }""",
    "function": """g (float[4] x) => (float[4] y) { y = f.tenth(x) }
        <domain: "f", opset_import: ["" : 20]>
        tenth (x) => (y) <float[4] y, float c> { c = Constant<value_float: float = 0.1>() y = Mul(c, x) }""",
}


def feeds_of(model: onnx.ModelProto, dtype: type) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    values = {"x": X.astype(dtype), "i": np.array([1, 2, 3, 4]), "b": np.array([True])}
    return {value.name: values[value.name] for value in model.graph.input}


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS.keys())
def test_the_model_runs_in_float64_and_computes_the_same(text: str) -> None:
    """To float32's digits, with float64 going in and coming out; the original is left as it is."""
    model = parser.parse_model(HEADER + text)
    before = model.SerializeToString()
    double = to_double(model)
    assert model.SerializeToString() == before
    run = OnnxRuntime(optimization="disable", threads=1)
    single = Session(before, run).run(feeds_of(model, np.float32))["y"]
    wide = Session(double.SerializeToString(), run).run(feeds_of(double, np.float64))["y"]
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, single, rtol=2e-3 if "10" in text else 1e-6)


def test_a_constants_digits_beyond_float32_are_not_invented() -> None:
    """float32 0.1 stays the number that it is."""
    double = to_double(parser.parse_model(HEADER + MODELS["scalar"]))
    value = Session(double.SerializeToString(), OnnxRuntime()).run({"x": np.ones(4)})["y"]
    assert value.tolist() == [float(np.float32(0.1))] * 4


def test_half_types_are_widened_and_integers_are_not() -> None:
    """bfloat16 and float16 inputs become float64; an int64 stays."""
    text = "g (bfloat16[4] x, float16[4] h, int64[4] i) => (bfloat16[4] y) { y = Neg(x) }"
    double = to_double(parser.parse_model(HEADER + text))
    types = [value.type.tensor_type.elem_type for value in double.graph.input]
    assert types == [TensorProto.DOUBLE, TensorProto.DOUBLE, TensorProto.INT64]


def test_a_model_without_narrow_numbers_is_left_as_it_is() -> None:
    """So that the caller can tell that there is nothing to learn from it."""
    model = parser.parse_model(HEADER + "g (int64[4] x) => (int64[4] y) { y = Neg(x) }")
    assert to_double(model) == model
