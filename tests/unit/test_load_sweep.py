"""Sweeps of shapes: alternatives in braces, which of them go together, and what is refused."""

from __future__ import annotations

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import InputError
from alignkit.load import expand_shapes, random_inputs
from alignkit.load.sweep import MOST_SHAPES


def shapes_of(*texts: str) -> list[str]:
    """Each combination as one would type it."""
    return [" ".join(shape.short for shape in combination) for combination in expand_shapes(texts)]


def refusal(*texts: str) -> str:
    """Why the texts are refused, in one line."""
    with pytest.raises(InputError) as caught:
        expand_shapes(texts)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_shape_without_braces_is_itself() -> None:
    """What was typed before there were sweeps means the same."""
    assert shapes_of("1x3x224x224") == ["1x3x224x224"]
    assert shapes_of("ids:1x128:int64", "x:2x4:float32") == ["ids:1x128:int64 x:2x4"]


def test_alternatives_of_one_input_are_combined_each_with_each() -> None:
    """Also where the same sizes stand twice: height and width are two dimensions."""
    found = shapes_of("x:{1,4}x3x{224,256}x{224,256}")
    assert len(found) == 8
    assert found[:3] == ["x:1x3x224x224", "x:1x3x224x256", "x:1x3x256x224"]


def test_the_same_alternatives_of_two_inputs_are_one_dimension() -> None:
    """Ids and mask have one batch and one length; the second pair of one is the second of the other."""
    assert shapes_of("ids:{1,4}x{16,128}:int64", "mask:{1,4}x{16,128}:int64") == [
        f"ids:{batch}x{length}:int64 mask:{batch}x{length}:int64" for batch in (1, 4) for length in (16, 128)
    ]
    assert shapes_of("a:{1,2}x{1,2}", "b:{1,2}")[:3] == ["a:1x1 b:1", "a:1x2 b:1", "a:2x1 b:2"]


def test_a_named_dimension_is_the_same_wherever_it_stands() -> None:
    """Also before its sizes are given, and within one input."""
    assert shapes_of("x:{batch}x{s=5,6}x{s}", "y:{batch=1,4}x2") == [
        "x:1x5x5 y:1x2",
        "x:4x5x5 y:4x2",
        "x:1x6x6 y:1x2",
        "x:4x6x6 y:4x2",
    ]


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True), min_size=1, max_size=4))
def test_every_combination_comes_once(sizes: list[list[int]]) -> None:
    """As many as the product of the numbers of alternatives, all different."""
    text = "x:" + "x".join("{" + ",".join(map(str, axis)) + "}" for axis in sizes)
    found = expand_shapes([text])
    assert len(found) == len(set(found)) == prod(map(len, sizes))
    assert all(size in axis for (shape,) in found for size, axis in zip(shape.dims, sizes, strict=True))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["x:{b}x2"], ["'b'", "has no sizes", "{batch=1,4}"]),
        (["x:{}x2"], ["gives no sizes", "{1,4}"]),
        (["x:{1,a}x2"], ["{1,a}", "gives no sizes"]),
        (["x:{b=1,2}x2", "y:{b=1,3}"], ["'b'", "two lists of sizes"]),
        (["x:{1,2"], ["'x:{1,2' is not a shape"]),
        (["x:{0,2}x4"], ["size of 0"]),
        (["x:" + "x".join(["{1,2,3,4}"] * 5)], ["1,024 shapes", f"at most {MOST_SHAPES}"]),
    ],
)
def test_what_is_no_sweep_is_refused(texts: list[str], words: list[str]) -> None:
    """In one line that says what would be one."""
    message = refusal(*texts)
    assert [word for word in words if word not in message] == []


def test_alternatives_that_the_shell_expanded() -> None:
    """Unquoted braces reach the program as two shapes of one input: the line shows how to quote."""
    shapes = [shape for text in ("x:1x3", "x:4x3") for (shape,) in expand_shapes([text])]
    with pytest.raises(InputError, match=r"given two shapes.*'x:\{1,4\}x3'"):
        random_inputs(shapes)
