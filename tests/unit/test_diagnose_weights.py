"""Weights: another version of a parameter is told from the parameter in a form that exporters write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
from torch import nn

from alignkit.diagnose.weights import compare_weights
from alignkit.records import Array, Experiment
from alignkit.tensors import to_numpy
from tests.diagnosis import X, wrong_bench

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


CONV = normal(8, 3, 3, 3)
BIAS = normal(8)
NORM = {
    "bn.weight": 1 + normal(8) / 8,
    "bn.bias": normal(8),
    "bn.running_mean": normal(8),
    "bn.running_var": 1 + normal(8) ** 2,
}
STATE = {
    "conv.weight": CONV,
    "conv.bias": BIAS,
    **NORM,
    "fc.weight": normal(5, 4),
    "qkv.weight": normal(12, 4),
}


def compared(held: Mapping[str, Array], state: Mapping[str, Array] = STATE) -> Experiment:
    """What is said of a segment that reads the weights ``held``."""
    bench = wrong_bench("g (float[3, 4] x) => (float[3, 4] y) { y = Neg(x) }", X, state=lambda: state)
    weights = tuple(onnx.numpy_helper.from_array(value, name) for name, value in held.items())
    return compare_weights(replace(bench, segment=replace(bench.segment, weights=weights)))


def folded(eps: float, state: Mapping[str, Array] = STATE) -> tuple[Array, Array]:
    factor = state["bn.weight"] / np.sqrt(state["bn.running_var"] + np.float32(eps))
    bias = (state["conv.bias"] - state["bn.running_mean"]) * factor + state["bn.bias"]
    return (CONV * factor[:, None, None, None]).astype(np.float32), bias.astype(np.float32)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
@pytest.mark.parametrize("names", [("conv.weight", "conv.bias"), ("onnx_Conv_1", "onnx_Conv_2")])
def test_a_folded_batch_norm_makes_no_stale_weights(names: tuple[str, str], eps: float) -> None:
    """Whether the exporter keeps their names (the default one does) or invents others."""
    found = compared(dict(zip(names, folded(eps), strict=True)))
    assert (found.error, found.reading) == (0.0, "no difference found")


def test_a_norm_as_it_is_created_is_folded_too() -> None:
    """Its factor is the same for each channel, and next to one."""
    state = {
        **STATE,
        **{f"bn.{key}": to_numpy(value) for key, value in nn.BatchNorm2d(8).state_dict().items()},
    }
    weight, bias = folded(1e-5, state)
    assert compared({"conv.weight": weight, "conv.bias": bias}, state).error == 0.0


@pytest.mark.parametrize("factor", [1.01, 0.999, 2.0])
def test_a_weight_that_was_scaled_is_stale_beside_a_norm(factor: float) -> None:
    """No norm of the model explains that factor."""
    found = compared({"conv.weight": CONV * np.float32(factor)})
    assert found.reading == "conv.weight differs"
    assert found.error == pytest.approx(abs(factor - 1) * np.abs(CONV).max(), rel=1e-3)


def test_a_folded_weight_that_was_edited_is_stale() -> None:
    """One channel of it does not fit the norm."""
    weight, _ = folded(1e-5)
    weight[3] *= 1.1
    assert compared({"conv.weight": weight}).error


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(CONV, id="itself"),
        pytest.param(STATE["fc.weight"].T, id="transposed"),
        pytest.param(STATE["qkv.weight"][4:8].T, id="a part of a packed projection"),
        pytest.param(BIAS[None], id="with an axis more"),
    ],
)
def test_a_parameter_in_another_form_is_found_by_its_values(form: Array) -> None:
    """Under a name that the state dict does not know; its neighbour a little off is stale."""
    assert compared({"onnx_1": np.ascontiguousarray(form)}).error == 0.0
    stale = compared({"onnx_1": form + np.float32(0.01)})
    assert stale.error == pytest.approx(0.01, rel=1e-3)
    assert stale.reading.endswith(" differs")


def test_a_half_precision_file_holds_the_same_weights() -> None:
    """They are compared in the file's type: the conversion is no difference, an edit is."""
    half = CONV.astype(np.float16)
    assert compared({"conv.weight": half}).error == 0.0
    assert compared({"conv.weight": half * np.float16(1.1)}).error


def test_a_weight_like_no_parameter_is_not_called_stale() -> None:
    """Nothing says what it should be."""
    assert compared({"onnx_1": normal(7, 9)}).error == 0.0
