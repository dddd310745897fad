"""Binding: every graph input gets its tensor, by tap, by name, by order only when nothing else can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, ValueInfoProto, helper

from alignkit.binding import NamedArray, bind_inputs
from alignkit.errors import InputError


def graph(**shapes: Sequence[int | str | None] | None) -> dict[str, ValueInfoProto]:
    """Float graph inputs by name, of the given shapes (None: no shape at all)."""
    return {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }


def leaves(**shapes: tuple[int, ...]) -> list[NamedArray]:
    return [NamedArray(name, np.full(shape, i, np.float32)) for i, (name, shape) in enumerate(shapes.items())]


def fed(feeds: dict[str, Any], given: list[NamedArray]) -> dict[str, str]:
    """Graph input -> name of the very array that it is fed with."""
    names = {id(leaf.value): leaf.name for leaf in given}
    return {name: names[id(value)] for name, value in feeds.items()}


def test_names_bind_whatever_the_order() -> None:
    """The graph's order of inputs is not the call's."""
    given = leaves(x=(2,), y=(2,))
    feeds, lost = bind_inputs(graph(y=[2], x=[2]), given)
    assert fed(feeds, given) == {"x": "x", "y": "y"}
    assert lost == []


def test_a_tap_binds_before_a_name() -> None:
    """What the root's input tap saw at a graph input is a fact; a name may mislead."""
    given = leaves(x=(2,), y=(2,))
    feeds, _ = bind_inputs(graph(x=[2], y=[2]), given, {"x": 1, "y": 0})
    assert fed(feeds, given) == {"x": "y", "y": "x"}


def test_order_binds_what_is_left_when_the_counts_agree() -> None:
    """Names that an exporter invented."""
    given = leaves(x=(2,), scale=(1,), y=(3,))
    feeds, lost = bind_inputs(graph(input_0=[2], scale=[1], input_2=[3]), given)
    assert fed(feeds, given) == {"input_0": "x", "scale": "scale", "input_2": "y"}
    assert lost == []


def test_a_tensor_that_no_input_takes_is_lost_by_name() -> None:
    """An input that the graph does not use vanishes from the file; its value was baked in."""
    given = leaves(x=(2,), count=())
    feeds, lost = bind_inputs(graph(x=[2]), given)
    assert fed(feeds, given) == {"x": "x"}
    assert lost == ["count"]


def test_order_never_guesses_between_more_tensors_than_inputs() -> None:
    """One unknown input and two candidates: an error that lists both sides, not a guess."""
    with pytest.raises(InputError, match=r"'images'.*\(x, count\).*images"):
        bind_inputs(graph(images=[2]), leaves(x=(2,), count=()))


def test_an_input_that_nothing_was_given_for_is_an_error() -> None:
    """And the message says that nothing was given."""
    with pytest.raises(InputError, match=r"'x' matches none of the given inputs .none."):
        bind_inputs(graph(x=[2]), [])


@pytest.mark.parametrize("shape", [(3, 2), (2,), (2, 2, 1), ()])
def test_a_fixed_dimension_that_does_not_fit_is_an_error(shape: tuple[int, ...]) -> None:
    """Both shapes are named, and what to do."""
    with pytest.raises(InputError, match=r"'x' has shape .*takes \[2, 2\].*dynamic axes"):
        bind_inputs(graph(x=[2, 2]), leaves(x=shape))


@pytest.mark.parametrize("dims", [["batch", 2], [None, 2], None])
def test_a_dynamic_dimension_takes_any_size(dims: Any) -> None:
    """Named, unnamed, or no shape stated at all."""
    given = leaves(x=(7, 2))
    assert fed(bind_inputs(graph(x=dims), given)[0], given) == {"x": "x"}


def test_a_graph_without_inputs_is_fed_nothing() -> None:
    """A model whose input was baked in altogether still runs."""
    assert bind_inputs({}, leaves(x=(2,))) == ({}, ["x"])


def test_a_tap_at_something_that_is_no_graph_input_is_ignored() -> None:
    """A tap may observe an input after a cast."""
    given = leaves(x=(2,))
    feeds, _ = bind_inputs(graph(x=[2]), given, {"cast_of_x": 0})
    assert fed(feeds, given) == {"x": "x"}


def test_optional_leaves_are_bound_by_name_alone() -> None:
    """A plain number takes the input of its name, is never guessed by order, and is not missed as lost."""
    number = NamedArray("scale", np.asarray(2.0), optional=True)
    given = [*leaves(x=(2,)), number]
    assert fed(bind_inputs(graph(scale=[], x=[2]), given)[0], given) == {"scale": "scale", "x": "x"}
    assert bind_inputs(graph(x=[2]), given)[1] == []
    assert fed(bind_inputs(graph(other=[2]), given)[0], given) == {"other": "x"}


def test_taps_of_another_model_are_no_index() -> None:
    """A file may hold input taps that the given arguments do not reach."""
    with pytest.raises(InputError, match="'b' matches none of the given inputs"):
        bind_inputs(graph(a=[2], b=[2]), leaves(x=(2,)), {"a": 0, "b": 1})
