"""A file's weights are recognised whatever a converter did to them, and another model's are not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

from alignkit.mapping.weights import FileWeights, Stored, identify_weights, recognise_weights
from alignkit.records import Array

RNG = np.random.default_rng(11)
CONV = RNG.standard_normal((8, 4, 3, 3)).astype(np.float32)
LINEAR = RNG.standard_normal((12, 20)).astype(np.float32)
PARAMETERS = {"conv.weight": CONV, "fc.weight": LINEAR, "fc.bias": np.zeros(12, np.float32)}


def file_of(**weights: Array) -> ModelProto:
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(v, n) for n, v in weights.items()])
    return helper.make_model(graph)


def quantised(weight: Array) -> Array:
    return np.round(weight / np.abs(weight).max() * 127).astype(np.int8)


def recognised(model: ModelProto, parameters: Mapping[str, Array] = PARAMETERS) -> FileWeights:
    return recognise_weights(model, parameters, Path())


def identified(model: ModelProto, parameters: Mapping[str, Array] = PARAMETERS) -> dict[str, Stored]:
    return identify_weights(model, parameters, recognised(model, parameters))


@pytest.mark.parametrize(
    ("stored", "parameter"),
    [
        (CONV, "conv.weight"),
        (LINEAR.T.copy(), "fc.weight"),
        (LINEAR.astype(np.float16), "fc.weight"),
        (CONV * RNG.uniform(-2, 2, (8, 1, 1, 1)).astype(np.float32), "conv.weight"),
        (quantised(LINEAR), "fc.weight"),
        (quantised(LINEAR.T), "fc.weight"),
        (LINEAR[[6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]], "fc.weight"),
    ],
    ids=["same", "transposed", "half", "folded", "int8", "int8-transposed", "gates"],
)
def test_a_changed_weight_is_found(stored: Array, parameter: str) -> None:
    """Renamed in every case."""
    found = identified(file_of(w=stored))
    assert {name: stored.parameter for name, stored in found.items()} == {"w": parameter}
    assert recognised(file_of(w=stored)).share_found == 1.0


def test_a_folded_weight_is_told_from_a_copy() -> None:
    """What a Conv with a folded BatchNorm computes is the BatchNorm's value."""
    scaled = CONV * RNG.uniform(0.5, 2, (8, 1, 1, 1)).astype(np.float32)
    found = identified(file_of(w=scaled, c=LINEAR, q=quantised(LINEAR)))
    assert {name for name, stored in found.items() if stored.folded} == {"w"}


def test_strangers_are_not_found() -> None:
    """Same shapes, other numbers."""
    other = file_of(a=RNG.standard_normal(CONV.shape).astype(np.float32), b=LINEAR + 1)
    assert identified(other) == {}
    assert recognised(other).share_found == 0.0


def test_the_share_counts_elements() -> None:
    """A large weight weighs more than a small one."""
    stranger = RNG.standard_normal((10, 48)).astype(np.float32)
    share = recognised(file_of(w=LINEAR, s=stranger)).share_found
    assert share == pytest.approx(240 / (240 + 480))


def test_a_file_without_weights_speaks_against_nothing() -> None:
    """Constants and tiny tensors are no weights."""
    assert recognised(file_of(z=np.zeros(100, np.float32))).share_found == 1.0


def test_a_parameter_with_a_twin_may_be_either() -> None:
    """Exporters store equal parameters once, under the name of one of them."""
    twins = {"a.bias": np.zeros(20, np.float32), "b.bias": np.zeros(20, np.float32), "c.bias": RNG.random(3)}
    stored = file_of(**{"a.bias": twins["a.bias"], "c.bias": twins["c.bias"]})
    found = identified(stored, twins)
    assert found == {"a.bias": Stored("a.bias", twins=("b.bias",)), "c.bias": Stored("c.bias")}
    assert found["a.bias"].modules == {"a", "b"}
