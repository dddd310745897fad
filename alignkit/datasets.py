"""Data sets: the samples of a comparison, each made when its turn comes.

A list, a generator, a ``DataLoader``, files, or shapes to fill with random numbers: all become
entries of a name and a way to load the sample, so that one sample is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from alignkit.errors import AlignkitError, CompareError, InputError
from alignkit.load import InputSource, LazyInputs, expand_shapes, open_inputs, random_inputs
from alignkit.load.objects import describe_error
from alignkit.records import Capture, SampleRow
from alignkit.settings import Sample
from alignkit.tensors import map_tensors


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One place in a data set. ``load`` gives its sample, or raises an AlignkitError that says why not.

    ``capture`` is the reference of that sample, where it was captured already. ``is_end``: what the samples
    come from failed here, and whether there would have been more is not known.
    """

    name: str
    load: Callable[[], Sample]
    capture: Capture | None = None
    is_end: bool = False


class DataSet:
    """Samples in order. Iterating makes one after the other, anew each time.

    ``size`` is the number of samples, None where that shows only at the end; ``repeats`` is False for
    what may not give the same samples again, as a generator or a loader that shuffles.
    """

    def __init__(
        self, entries: Callable[[], Iterator[Entry]], size: int | None, *, repeats: bool = True
    ) -> None:
        self.entries = entries
        self.size = size
        self.repeats = repeats

    def uncaptured(self) -> DataSet:
        """The same samples, without the references that were captured of some."""

        def entries() -> Iterator[Entry]:
            return (replace(entry, capture=None) for entry in self.entries())

        return DataSet(entries, self.size, repeats=self.repeats)

    def __iter__(self) -> Iterator[Sample]:
        return (entry.load() for entry in self.entries())

    def __repr__(self) -> str:
        size = "an unknown number of" if self.size is None else self.size
        return f"<DataSet of {size} samples>"


def input_files(*sources: str | Path, split: bool = False) -> DataSet:
    """The samples in files, for ``alignkit.compare(…, inputs=…)``: one file is in memory at a time.

    A source is a ``.npz``, ``.npy``, ``.safetensors`` or ``.pt`` file, a folder of these, or a glob
    pattern; ``arg0``, ``arg1`` … in a file are positional, other names are keyword arguments. With
    ``split`` the first axis of a file's arrays counts samples, which are compared one by one, each
    with a first axis of size 1. Raises :class:`InputError` for a file that is not there or may not be
    read; a damaged one is a row of the report.
    """
    return from_source(open_inputs([str(source) for source in sources], split=split))


def from_source(source: InputSource) -> DataSet:
    """What arguments name, as a data set."""
    return DataSet(lambda: map(_lazy_entry, source), source.size, repeats=source.repeats)


def input_shapes(*shapes: str, seed: int = 0) -> DataSet:
    """Random samples of these shapes, one text per input: ``"x:{1,4}x3x{224,256}x{224,256}"``.

    Alternatives in braces are combined, each with each. Across inputs the same text in braces is the
    same dimension (its first occurrence in one input is the first in another), and a named one
    (``{batch=1,4}``, then ``{batch}``) is the same wherever it stands. Every sample is drawn with
    ``seed`` and named by its shapes. Raises :class:`InputError` for what is no shape, and for more
    than :data:`alignkit.load.shapes.MOST_SHAPES` combinations.
    """
    sweep = expand_shapes(shapes)

    def entries() -> Iterator[Entry]:
        for combination in sweep:
            make = partial(random_inputs, combination, seed)
            yield _lazy_entry(LazyInputs(" ".join(shape.short for shape in combination), make))

    return DataSet(entries, len(sweep))


def _lazy_entry(lazy: LazyInputs) -> Entry:
    return Entry(lazy.name, partial(_load, lazy))


def _load(lazy: LazyInputs) -> Sample:
    inputs = lazy.load()
    return Sample(inputs.args, inputs.kwargs, name=lazy.name or inputs.origin)


def resume(sample: Sample, capture: Capture, queue: Iterator[Entry]) -> Iterator[Entry]:
    """``queue`` from the sample on that was taken from it; handed out once more, it is held no longer."""
    return _resumed([Entry(sample.name, lambda: sample, capture)], queue)


def _resumed(opened: list[Entry], queue: Iterator[Entry]) -> Iterator[Entry]:
    yield opened.pop()
    yield from queue


def hold_first(
    sample: Sample, capture: Capture, data: DataSet, refused: Sequence[SampleRow], queue: Iterator[Entry]
) -> DataSet:
    """``data``, to be gone through several times: the same samples each time.

    ``sample`` came from ``queue`` behind those that were ``refused``. It is held, with its capture; of what
    may not come again, or not in this order, all samples are.
    """
    held = clone_sample(sample)
    first = Entry(sample.name, lambda: held, capture)

    def again() -> Iterator[Entry]:
        for index, entry in enumerate(data.entries()):
            yield first if index == len(refused) else entry

    if data.repeats:
        return DataSet(again, data.size)
    before = (Entry(row.name, partial(_refuse, row.reason)) for row in refused)
    entries = [*before, first, *map(_held, queue)]
    return DataSet(lambda: iter(entries), len(entries))


def _held(entry: Entry) -> Entry:
    try:
        sample = clone_sample(entry.load())
    except AlignkitError as error:
        return Entry(entry.name, partial(_refuse, str(error)))
    return Entry(entry.name, lambda: sample)


def clone_sample(sample: Sample) -> Sample:
    """``sample`` in memory of its own: an iterable may write the next one where it lies."""
    args, kwargs, candidate = map_tensors(Tensor.clone, (sample.args, dict(sample.kwargs), sample.candidate))
    return replace(sample, args=args, kwargs=kwargs, candidate=candidate)


def as_data_set(example: Sample, inputs: Any, candidate_inputs: Any = None) -> DataSet:
    """What ``compare`` was given as a data set: the export's own inputs, one sample, or several.

    Raises :class:`CompareError` for an empty list, :class:`InputError` for what are no inputs, and where
    the two sides are known to have different numbers of samples.
    """
    data = _given(example if inputs is None else inputs, "inputs")
    if data.size == 0:
        raise CompareError("inputs is empty: give at least one sample.")
    if candidate_inputs is None:
        return data
    fed = _given(candidate_inputs, "candidate_inputs")
    if None not in (data.size, fed.size) and data.size != fed.size:
        raise InputError(f"{fed.size} candidate inputs for {data.size} inputs: give one for each.")
    return DataSet(lambda: _paired(data, fed), data.size, repeats=data.repeats and fed.repeats)


def _given(inputs: Any, where: str) -> DataSet:
    if isinstance(inputs, DataSet):
        return inputs
    if isinstance(inputs, (str, Path)):
        raise InputError(
            f"{where} is {str(inputs)!r}, a text: say alignkit.input_files({str(inputs)!r}) for files, "
            "alignkit.input_shapes(…) for random inputs."
        )
    several = isinstance(inputs, Iterable) and not isinstance(
        inputs, (Tensor, np.ndarray, tuple, Mapping, Sample)
    )
    if not several:
        entry = _entry(inputs, 0)
        return DataSet(lambda: iter([entry]), 1)
    size = len(inputs) if isinstance(inputs, Sequence) else None
    return DataSet(
        lambda: _entries(inputs, where.replace("_", " ")), size, repeats=isinstance(inputs, Sequence)
    )


def _entries(items: Iterable[Any], where: str) -> Iterator[Entry]:
    """One entry per item; where the iterable itself fails, an entry that says so is the last."""
    iterator, place = iter(items), 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # of the user's own code
            reason = f"the {where} raised {describe_error(error)}; what comes behind it was not compared."
            yield Entry(f"sample {place}", partial(_refuse, reason), is_end=True)
            return
        yield _entry(item, place)
        del item  # while the next one is made this one is not held
        place += 1


def _refuse(reason: str) -> Sample:
    raise InputError(reason)


def _entry(item: Any, place: int) -> Entry:
    sample = _sample(item)
    name = sample.name or f"sample {place}"
    return Entry(name, lambda: sample if sample.name else replace(sample, name=name))


def _sample(item: Any) -> Sample:
    if isinstance(item, Sample):
        return item
    if isinstance(item, Mapping):
        return Sample((), dict(item))
    return Sample(as_arguments(item))


def as_arguments(args: Any) -> tuple[Any, ...]:
    """A tuple or list as positional arguments, anything else as the only one."""
    return tuple(args) if isinstance(args, (tuple, list)) else (args,)


def _paired(data: DataSet, fed: DataSet) -> Iterator[Entry]:
    for pair in zip_longest(data.entries(), fed.entries()):
        if failed := next((one for one in pair if one is not None and one.is_end), None):
            yield failed  # the error that ended one side counts, not that the other goes on
            return
        entry, other = pair
        if entry is None or other is None:
            raise InputError("inputs and candidate_inputs differ in their number: give one for each.")
        yield Entry(entry.name, partial(_load_pair, entry, other))


def _load_pair(entry: Entry, other: Entry) -> Sample:
    sample, fed = entry.load(), other.load()
    return replace(sample, candidate=(fed.args, fed.kwargs))
