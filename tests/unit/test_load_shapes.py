"""Shapes, random inputs and dynamic axes from their command-line spelling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignkit.errors import InputError
from alignkit.load import InputShape, parse_dynamic, parse_shape, random_inputs
from alignkit.load.shapes import DTYPES


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("1x3x224x224", InputShape(None, (1, 3, 224, 224), "float32")),
        ("x:1x3x224x224", InputShape("x", (1, 3, 224, 224), "float32")),
        ("ids:1x128:int64", InputShape("ids", (1, 128), "int64")),
        ("1x128:int64", InputShape(None, (1, 128), "int64")),
        ("7", InputShape(None, (7,), "float32")),
        ("step:scalar:int64", InputShape("step", (), "int64")),
        ("scalar", InputShape(None, (), "float32")),
        ("input:0:1x2", InputShape("input:0", (1, 2), "float32")),
        ("input.1:2:bool", InputShape("input.1", (2,), "bool")),
        (" x:1x2 ", InputShape("x", (1, 2), "float32")),
    ],
)
def test_parse_shape(text: str, shape: InputShape) -> None:
    """Name and type are optional, the type is float32 by default, names may hold dots and colons."""
    assert parse_shape(text) == shape


@given(
    name=st.none() | st.from_regex(r"[A-Za-z_][\w.]*", fullmatch=True),
    dims=st.lists(st.integers(1, 10**6), max_size=5),
    dtype=st.sampled_from(DTYPES),
)
def test_a_shape_survives_its_spelling(name: str | None, dims: list[int], dtype: str) -> None:
    """``parse_shape(str(shape))`` is the shape."""
    shape = InputShape(name, tuple(dims), dtype)
    assert parse_shape(str(shape)) == shape


@pytest.mark.parametrize("text", ["", "x", "x:", ":1x2", "x:1x", "x:1,2", "x:-1x2", "1x2:", "x:1x2:3d"])
def test_a_text_that_is_no_shape(text: str) -> None:
    """The message quotes the text and shows how to write one."""
    with pytest.raises(InputError) as caught:
        parse_shape(text)
    assert str(caught.value).startswith(f"{text!r} is not a shape; write [name:]dims[:dtype], e.g. x:1x3")


def test_an_unknown_type() -> None:
    """The message names the unknown type and lists the known ones."""
    with pytest.raises(InputError, match=r"'x:1x2:float31'.*'float31'.*choose from float32, float16.*bool\."):
        parse_shape("x:1x2:float31")


def test_a_size_of_zero() -> None:
    """Without elements there is nothing to compare."""
    with pytest.raises(InputError, match=r"'x:1x0' has a size of 0.*sizes start at 1"):
        parse_shape("x:1x0")


def test_names_become_keywords() -> None:
    """Unnamed shapes are positional in order, named ones keyword arguments; the origin tells it all."""
    inputs = random_inputs([parse_shape(text) for text in ("2x3", "mask:1x4:bool", "5:float64")], seed=3)
    assert [tuple(tensor.shape) for tensor in inputs.args] == [(2, 3), (5,)]
    assert [tensor.dtype for tensor in inputs.args] == [torch.float32, torch.float64]
    assert {name: tuple(value.shape) for name, value in inputs.kwargs.items()} == {"mask": (1, 4)}
    assert inputs.origin == "random (seed 3) 2x3:float32 mask:1x4:bool 5:float64"


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_can_be_made(dtype: str) -> None:
    """The tensor has the type that was asked for, and not all values are the same."""
    tensor = random_inputs([InputShape(None, (64,), dtype)]).args[0]
    assert tensor.dtype == getattr(torch, dtype)
    assert len(tensor.double().unique()) > 1


def test_values_lie_where_the_documentation_says() -> None:
    """Floats are standard normal, integers in [0, 100), uint8 in [0, 256), int8 without overflow."""
    dtypes = ("float32", "float64", "int64", "uint8", "int8")
    floats, doubles, ints, pixels, bytes_ = random_inputs(
        [InputShape(None, (20_000,), d) for d in dtypes]
    ).args
    for values in (floats, doubles):
        assert abs(float(values.mean())) < 0.05
        assert abs(float(values.std()) - 1) < 0.05
    assert (int(ints.min()), int(ints.max())) == (0, 99)
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert (int(bytes_.min()), int(bytes_.max())) == (0, 99)


def test_the_bound_of_integers_can_be_set() -> None:
    """A bound of 2 gives zeros and ones; one beyond the type's range is cut to it."""
    assert random_inputs([InputShape(None, (99,), "int64")], integers_below=2).args[0].unique().tolist() == [
        0,
        1,
    ]
    wide = random_inputs([InputShape(None, (9999,), "int8")], integers_below=1000).args[0]
    assert (int(wide.min()), int(wide.max())) == (0, 127)


def test_half_types_are_the_same_values_rounded() -> None:
    """A model in float16 or bfloat16 is fed the float32 values, rounded."""
    single, half, brain = (
        random_inputs([InputShape(None, (50,), dtype)], seed=1).args[0]
        for dtype in ("float32", "float16", "bfloat16")
    )
    assert torch.equal(single.half(), half)
    assert torch.equal(single.bfloat16(), brain)


def test_the_seed_decides() -> None:
    """The same seed gives the same values, another seed others, and two inputs are not alike."""
    shapes = [InputShape(None, (8,)), InputShape(None, (8,))]
    one, same, other = random_inputs(shapes, 1), random_inputs(shapes, 1), random_inputs(shapes, 2)
    assert torch.equal(one.args[0], same.args[0])
    assert not torch.equal(one.args[0], other.args[0])
    assert not torch.equal(one.args[0], one.args[1])


def test_the_global_random_state_is_left_alone() -> None:
    """Neither read nor moved: values do not depend on it, and it is the same afterwards."""
    shapes = [InputShape(None, (8,), dtype) for dtype in DTYPES]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = random_inputs(shapes)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(one.args[0], random_inputs(shapes).args[0])


def test_two_shapes_for_one_name() -> None:
    """The second one would silently replace the first."""
    with pytest.raises(InputError, match="'x' is given two shapes; keep one"):
        random_inputs([InputShape("x", (1,)), InputShape("x", (2,))])


@pytest.mark.parametrize("dims", [(10**9, 10**9), (10**30,), (2**40, 2**10)])
def test_a_shape_that_no_memory_holds(dims: tuple[int, ...]) -> None:
    """Too large a shape is one line with the shape in it, not torch's own error."""
    with pytest.raises(InputError, match=r"no tensor x:.* can be made .*choose a smaller shape") as caught:
        random_inputs([InputShape("x", dims)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range(seed: int) -> None:
    """The message gives the range."""
    with pytest.raises(InputError, match=r"cannot seed .*from 0 to"):
        random_inputs([InputShape(None, (1,))], seed)


def test_an_empty_range_of_integers() -> None:
    """There is no integer in [0, 0)."""
    with pytest.raises(InputError, match=r"\[0, 0\).*at least 1"):
        random_inputs([InputShape(None, (1,), "int64")], integers_below=0)


@pytest.mark.parametrize(
    ("texts", "dynamic"),
    [
        ([], {}),
        (["x:0"], {"x": {0: "x_dim0"}}),
        (["x:0=batch,2=height"], {"x": {0: "batch", 2: "height"}}),
        (["x:0=batch", "y:0=batch"], {"x": {0: "batch"}, "y": {0: "batch"}}),
        (["x:0=batch", "x:1"], {"x": {0: "batch", 1: "x_dim1"}}),
        (["input:0:1=n"], {"input:0": {1: "n"}}),
        (["input.1:0"], {"input.1": {0: "input_1_dim0"}}),
        (["0:2"], {"0": {2: "_0_dim2"}}),
        (["x: 0=a, 1=b"], {"x": {0: "a", 1: "b"}}),
    ],
)
def test_parse_dynamic(texts: list[str], dynamic: dict[str, dict[int, str]]) -> None:
    """Axes with names and without, several inputs, several texts for one, odd input names."""
    assert parse_dynamic(texts) == dynamic


def test_generated_names_are_identifiers() -> None:
    """The exporters accept nothing else as the name of a dimension."""
    for name in ("x", "input.1", "0", "a-b", "über", "x y"):
        (axes,) = parse_dynamic([f"{name}:0"]).values()
        assert axes[0].isidentifier()


@pytest.mark.parametrize("text", ["", "x", "x:", ":0", "x:a", "x:-1", "x:0,", "x:0=a;1=b:c", "x:batch=0"])
def test_a_text_that_names_no_axes(text: str) -> None:
    """The message quotes the text, says that axes count from 0 and shows both forms."""
    with pytest.raises(InputError) as caught:
        parse_dynamic([text])
    message = str(caught.value)
    assert message.startswith(f"{text!r} does not say which axes are dynamic")
    assert "axes counted from 0" in message
    assert "x:0 or x:0=batch,2=height" in message


@pytest.mark.parametrize("text", ["x:0=", "x:0=batch size", "x:0=1n", "x:0=a=b"])
def test_a_dimension_that_is_no_identifier(text: str) -> None:
    """The message quotes the name and says what one looks like."""
    with pytest.raises(InputError, match="cannot name a dimension; use letters, digits and _"):
        parse_dynamic([text])


@pytest.mark.parametrize("texts", [["x:0=a,0=b"], ["x:0", "x:0=batch"]])
def test_an_axis_given_twice(texts: list[str]) -> None:
    """Two names for one axis are refused, in one text and across texts."""
    with pytest.raises(InputError, match="axis 0 of 'x' is made dynamic twice"):
        parse_dynamic(texts)
