"""Work of a plan: the closed forms of known layers."""

from __future__ import annotations

from typing import Any

import pytest
from onnx import TensorProto, helper

from alignkit.plan.flops import node_work
from alignkit.plan.records import CONV, DEPTHWISE, PRODUCT, Work
from alignkit.plan.shapes import Dims, ValueShape


def work_of(op: str, *inputs: Dims | None, output: Dims | None, domain: str = "", **attributes: Any) -> Work:
    """The work of one float32 node whose tensors have these dimensions."""
    names = [f"in_{place}" for place in range(len(inputs))]
    shapes = {name: ValueShape(TensorProto.FLOAT, dims) for name, dims in zip(names, inputs, strict=True)}
    shapes["out"] = ValueShape(TensorProto.FLOAT, output)
    return node_work(helper.make_node(op, names, ["out"], domain=domain, **attributes), shapes)


def test_dense_and_grouped_convolutions() -> None:
    """Two operations for each element of the output, channel of its group and place in the kernel."""
    dense = work_of("Conv", (2, 3, 224, 224), (64, 3, 7, 7), output=(2, 64, 112, 112))
    assert dense.flops == {CONV: 2 * (2 * 64 * 112 * 112) * 3 * 49}
    assert dense.moved == 4 * (2 * 3 * 224 * 224 + 64 * 3 * 49 + 2 * 64 * 112 * 112)
    grouped = work_of("Conv", (1, 8, 9, 9), (16, 1, 3, 3), output=(1, 16, 9, 9), group=8)
    assert grouped.flops == {DEPTHWISE: 2 * 16 * 81 * 9}
    wide_groups = work_of("Conv", (1, 32, 9, 9), (32, 16, 3, 3), output=(1, 32, 9, 9), group=2)
    assert wide_groups.flops == {CONV: 2 * 32 * 81 * 16 * 9}


def test_a_transposed_convolution_works_per_element_of_its_input() -> None:
    """Each is multiplied with the kernels of all channels that it goes to."""
    found = work_of("ConvTranspose", (1, 8, 5, 5), (8, 4, 2, 2), output=(1, 4, 10, 10))
    assert found.flops == {CONV: 2 * (8 * 25) * 4 * 4}


@pytest.mark.parametrize(("first", "attributes"), [((5, 7), {}), ((7, 5), {"transA": 1})])
def test_gemm(first: Dims, attributes: dict[str, int]) -> None:
    """Twice rows times columns times depth, whichever way the matrices lie."""
    found = work_of("Gemm", first, (7, 3), (3,), output=(5, 3), **attributes)
    assert found.flops == {PRODUCT: 2 * 5 * 3 * 7}


@pytest.mark.parametrize(
    ("first", "second", "output", "flops"),
    [
        ((5, 7), (7, 3), (5, 3), 2 * 5 * 7 * 3),
        ((2, 4, 5, 7), (2, 4, 7, 3), (2, 4, 5, 3), 2 * 8 * 5 * 7 * 3),
        ((2, 5, 7), (7, 3), (2, 5, 3), 2 * 2 * 5 * 7 * 3),
        ((7,), (7,), (), 2 * 7),
        ((7,), (7, 3), (3,), 2 * 7 * 3),
    ],
)
def test_matmul(first: Dims, second: Dims, output: Dims, flops: int) -> None:
    """Batches, broadcasting and vectors included."""
    assert work_of("MatMul", first, second, output=output).flops == {PRODUCT: flops}


def test_attention_is_two_products() -> None:
    """Scores and their product with the values; few key heads are read by all query heads."""
    found = work_of("Attention", (2, 8, 5, 16), (2, 2, 7, 16), (2, 2, 7, 32), output=(2, 8, 5, 32))
    assert found.flops == {PRODUCT: 2 * 2 * 8 * 5 * 7 * (16 + 32)}
    flat = {"q_num_heads": 8, "kv_num_heads": 2}
    found = work_of("Attention", (2, 5, 128), (2, 7, 32), (2, 7, 64), output=(2, 5, 256), **flat)
    assert found.flops == {PRODUCT: 2 * 2 * 8 * 5 * 7 * (16 + 32)}


def test_einsum_counts_every_combination_of_indices() -> None:
    """With an ellipsis as well."""
    found = work_of("Einsum", (2, 5, 7), (7, 3), output=(2, 5, 3), equation="bij,jk->bik")
    assert found.flops == {PRODUCT: 2 * 2 * 5 * 7 * 3}
    found = work_of("Einsum", (4, 2, 5, 7), (4, 2, 7, 3), output=(4, 2, 5, 3), equation="...ij,...jk->...ik")
    assert found.flops == {PRODUCT: 2 * 8 * 5 * 7 * 3}


def test_recurrent_layers_multiply_both_weights_at_every_step() -> None:
    """Four gates of an LSTM, in each direction."""
    found = work_of("LSTM", (6, 2, 10), (2, 4 * 8, 10), (2, 4 * 8, 8), output=(6, 2, 2, 8), hidden_size=8)
    assert found.flops == {PRODUCT: 2 * 6 * 2 * 2 * 32 * (10 + 8)}


def test_the_rest_is_counted_by_its_bytes() -> None:
    """Read and written; what a table holds beside the rows that are read does not count."""
    assert work_of("Add", (2, 3), (2, 3), output=(2, 3)) == Work({}, 3 * 24, 1)
    assert work_of("Gather", (1000, 8), (2,), output=(2, 8)) == Work({}, 2 * 64, 1)


def test_renaming_a_tensor_costs_nothing() -> None:
    """A reshape moves no data; an operator of that name from elsewhere may."""
    assert work_of("Reshape", (2, 3), (1,), output=(6,)) == Work()
    assert work_of("Reshape", (2, 3), (1,), output=(6,), domain="other").nodes == 1


def test_an_unknown_shape_counts_as_nothing() -> None:
    """And does not stop the plan."""
    assert work_of("MatMul", None, (7, 3), output=None) == Work({}, 4 * 21, 1)
    assert work_of("Conv", (1, 3, 8, 8), (4, 3, 3, 3), output=None).flops == {}


def test_work_adds_up_by_kind() -> None:
    """Sums and multiples keep the kinds apart."""
    total = (Work({CONV: 3}, 10, 1) + Work({PRODUCT: 4, CONV: 1}, 5, 2)) * 2
    assert total == Work({CONV: 8, PRODUCT: 8}, 30, 6)
    assert total.total == 16
