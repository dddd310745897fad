"""A converted segment without its rounding: what it then computes is what the model does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from alignkit.diagnose.unrounded import without_rounding
from alignkit.run import RunSettings, Session

X = np.linspace(-2, 3, 8, dtype=np.float32).reshape(2, 4)
HEADER = '<ir_version: 10, opset_import: ["" : 20]>'
PAIR = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"


def run(model: onnx.ModelProto) -> np.ndarray:
    return np.asarray(Session(model.SerializeToString(), RunSettings()).run({"x": X})["y"])


def parse(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEADER + text)


def test_static_quantisation_keeps_its_range_and_loses_its_steps() -> None:
    """Converters leave a ReLU to the range of what follows: what clips still does, unless told otherwise."""
    model = parse(f"g (float[2,4] x) => (float[2,4] y) <float s = {{0.01}}, uint8 z = {{0}}> {{ {PAIR} }}")
    exact, free = without_rounding(model), without_rounding(model, clips=False)
    assert exact is not None
    assert free is not None
    assert run(exact) == pytest.approx(np.clip(X, 0, 2.55), abs=1e-6)
    assert run(free) == pytest.approx(X, abs=1e-6)
    assert np.abs(run(model) - np.clip(X, 0, 2.55)).max() > 1e-3


def test_a_huge_scale_swallows_nothing() -> None:
    """An attention mask gives a scale of 1e36: beside its zero point all else would be lost."""
    model = parse(f"g (float[2,4] x) => (float[2,4] y) <float s = {{1e36}}, uint8 z = {{127}}> {{ {PAIR} }}")
    exact = without_rounding(model)
    assert exact is not None
    assert run(exact) == pytest.approx(X, rel=1e-5)


def test_integer_products_become_products() -> None:
    """Dynamic quantisation: the activations lose their steps, the stored weights keep theirs."""
    model = parse(
        """g (float[2,4] x) => (float[2,1] y)
        <uint8[4,1] w = {1, 2, 3, 130}, uint8 wz = {128}> {
            q, s, z = DynamicQuantizeLinear(x)
            p = MatMulInteger(q, w, z, wz)
            f = Cast<to: int = 1>(p)
            y = Mul(f, s)
        }"""
    )
    exact = without_rounding(model)
    assert exact is not None
    weights = np.array([[1], [2], [3], [130]]) - 128.0
    assert run(exact) == pytest.approx(X @ weights, rel=1e-5)


def test_weights_keep_what_they_were_rounded_to() -> None:
    """Per channel, and read as the numbers that the file holds."""
    model = parse(
        """g (float[2,4] x) => (float[2,2] y)
        <int8[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}, float[2] s = {0.5, 2.0}, int8[2] z = {0, 1}> {
            d = DequantizeLinear<axis: int = 1>(w, s, z)
            y = MatMul(x, d)
        }"""
    )
    exact = without_rounding(model)
    assert exact is not None
    weights = (np.arange(1, 9).reshape(4, 2) - [0, 1]) * [0.5, 2.0]
    assert run(exact) == pytest.approx(X @ weights, rel=1e-5)


def test_half_precision_becomes_single() -> None:
    """Half precision stores 50000 as 49984, the exact segment as it is."""
    model = parse(
        """g (float[2,4] x) => (float[2,4] y) <float w = {50000.0}> {
            h = Cast<to: int = 10>(x)
            k = Cast<to: int = 10>(w)
            m = Mul(h, k)
            y = Cast<to: int = 1>(m)
        }"""
    )
    exact = without_rounding(model)
    assert exact is not None
    assert np.abs(run(model) - X * 5e4).max() > 10
    assert run(exact) == pytest.approx(X * 5e4, rel=1e-6)


def test_full_precision_is_left_alone() -> None:
    """Where nothing rounds there is nothing to try."""
    assert without_rounding(parse("g (float[2,4] x) => (float[2,4] y) { y = Tanh(x) }")) is None
