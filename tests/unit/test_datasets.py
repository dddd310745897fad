"""Data sets: whatever ``compare`` is given becomes samples that are made one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import alignkit
from alignkit.datasets import DataSet, as_data_set
from alignkit.errors import CompareError, InputError
from alignkit.settings import Sample, same_inputs
from tests.diagnosis import data

EXAMPLE = Sample((data(2, 4),))


def samples_of(inputs: Any, candidate: Any = None) -> list[Sample]:
    return list(as_data_set(EXAMPLE, inputs, candidate))


def test_without_inputs_the_exports_own_are_compared_on() -> None:
    """The example itself, not a copy."""
    (sample,) = samples_of(None)
    assert sample.args[0] is EXAMPLE.args[0]
    assert as_data_set(EXAMPLE, None).size == 1


@pytest.mark.parametrize(
    "inputs",
    [data(2, 4), (data(2, 4), data(2, 4)), {"x": data(2, 4)}, np.ones((2, 4)), Sample((data(2, 4),))],
)
def test_a_tensor_a_tuple_a_dict_and_a_sample_are_one_sample(inputs: Any) -> None:
    """A tuple holds arguments, not samples."""
    assert as_data_set(EXAMPLE, inputs).size == 1
    assert len(samples_of(inputs)) == 1


def test_lists_generators_and_loaders_are_data_sets() -> None:
    """Samples are counted from 0 where they have no name; a loader's lists are positional arguments."""
    images = data(4, 3)
    assert [one.name for one in samples_of([images[:1], Sample((images[1:2],), name="odd")])] == [
        "sample 0",
        "odd",
    ]
    assert as_data_set(EXAMPLE, [images]).size == 1
    generated = as_data_set(EXAMPLE, (image[None] for image in images))
    assert generated.size is None
    assert len(list(generated)) == 4
    loader: Any = DataLoader(TensorDataset(images, torch.arange(4)), batch_size=2)
    assert [len(sample.args) for sample in samples_of(loader)] == [2, 2]
    assert [sample.args[0].shape for sample in samples_of(loader)] == [(2, 3)] * 2


def test_a_generator_makes_a_sample_when_it_is_asked_for() -> None:
    """Not earlier: the one before may be gone by then."""
    made: list[int] = []

    def generate() -> Iterator[torch.Tensor]:
        for index in range(3):
            made.append(index)
            yield data(2, 4)

    entries = as_data_set(EXAMPLE, generate()).entries()
    next(entries)
    assert made == [0]
    next(entries)
    assert made == [0, 1]


def test_an_iterable_that_raises_ends_in_an_entry_that_says_so() -> None:
    """What came before it is not lost."""

    def generate() -> Iterator[torch.Tensor]:
        yield data(2, 4)
        raise OSError("the disk is gone")

    good, last = as_data_set(EXAMPLE, generate()).entries()
    assert good.load().args[0].shape == (2, 4)
    with pytest.raises(InputError, match=r"the inputs raised OSError: the disk is gone.*was not compared"):
        last.load()


@pytest.mark.parametrize("good", [0, 1, 2])
def test_the_error_of_one_side_is_told_and_not_that_the_other_goes_on(good: int) -> None:
    """Whichever side it is, and also where it fails behind its last sample."""
    ours = [data(2, 4), data(2, 4, seed=1)]

    def generate() -> Iterator[torch.Tensor]:
        yield from ours[:good]
        raise OSError("the disk is gone")

    for pair, side in (((ours, generate()), "candidate inputs"), ((generate(), iter(ours)), "inputs")):
        *before, last = as_data_set(EXAMPLE, *pair).entries()
        assert [entry.load().candidate is not None for entry in before] == [True] * good
        with pytest.raises(InputError, match=rf"^the {side} raised OSError: the disk is gone.*compared\.$"):
            last.load()


@pytest.mark.parametrize("text", ["data/*.npz", "x:{1,4}x3", Path("a.npz")])
def test_a_text_is_no_sample(text: str | Path) -> None:
    """Which of the two it may have meant is said."""
    with pytest.raises(InputError, match=r"alignkit\.input_files.*alignkit\.input_shapes"):
        as_data_set(EXAMPLE, text)


def test_nothing_is_refused() -> None:
    """An empty list at once."""
    with pytest.raises(CompareError, match="inputs is empty"):
        as_data_set(EXAMPLE, [])


def test_what_the_deployed_side_is_fed_goes_with_its_sample() -> None:
    """Different numbers are refused: at once where they are known, else at the end."""
    ours, theirs = [data(2, 4), data(2, 4, seed=1)], [data(2, 4, seed=2), data(2, 4, seed=3)]
    paired = samples_of(ours, theirs)
    assert [one.candidate[0][0] is fed for one, fed in zip(paired, theirs, strict=True) if one.candidate] == [
        True,
        True,
    ]
    with pytest.raises(InputError, match="1 candidate inputs for 2 inputs"):
        as_data_set(EXAMPLE, ours, theirs[:1])
    with pytest.raises(InputError, match="differ in their number"):
        samples_of(iter(ours), iter(theirs[:1]))


def test_files_and_shapes_are_data_sets_that_can_be_walked_again(tmp_path: Path) -> None:
    """Files by their path, shapes by themselves, and random numbers the same each time."""
    np.savez(tmp_path / "a.npz", x=np.ones((2, 4), np.float32))
    files = alignkit.input_files(tmp_path)
    assert [one.name for one in files] == [str(tmp_path / "a.npz")]
    shapes = alignkit.input_shapes("x:{1,4}x3", seed=5)
    first, second = list(shapes), list(shapes)
    assert [one.name for one in first] == ["x:1x3", "x:4x3"]
    assert all(map(same_inputs, first, second))
    assert not same_inputs(first[0], next(iter(alignkit.input_shapes("x:1x3", seed=6))))
    assert (shapes.size, repr(shapes)) == (2, "<DataSet of 2 samples>")
    assert isinstance(shapes, DataSet)


def test_same_inputs_are_told_by_their_values() -> None:
    """A copy is the same, another value, shape, type, place or name is not."""
    x = data(2, 4)
    assert same_inputs(Sample((x,), {"k": 2}), Sample((x.clone(),), {"k": 2}))
    others = [
        Sample((x + 1,)),
        Sample((x[:1],)),
        Sample((x.double(),)),
        Sample((), {"x": x}),
        Sample((x, x)),
        Sample((x,), {"k": 3}),
    ]
    assert not any(same_inputs(Sample((x,)), other) for other in others)
    assert not same_inputs(Sample((x,), {"k": 1}), Sample((x,), {"k": True}))
