"""Several inputs: files, folders and patterns as samples that are loaded when their turn comes."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from alignkit.errors import InputError
from alignkit.load.arguments import LazyInputs, ModelInputs
from alignkit.load.files import KINDS
from alignkit.load.inputs import (
    is_file,
    names_iterator,
    rows_of,
    sample_from_file,
    samples_of_object,
    walk_object,
)

_SUFFIXES = (".npz", ".npy", ".safetensors", ".pt")

Check = Callable[[ModelInputs], None]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one argument names: ``walk`` begins anew at each call; ``size`` is None where it is not known.

    ``repeats``: each walk surely gives the same samples.
    """

    size: int | None
    walk: Callable[[], Iterator[LazyInputs]]
    repeats: bool = True


class InputSource:
    """The samples that arguments name, in order; iterating walks through them anew.

    ``size`` is None where the number of samples shows only at the end. ``check`` may refuse a sample.
    """

    def __init__(self, parts: Sequence[_Part], check: Check | None = None) -> None:
        self._parts = parts
        self._check = check
        sizes = [part.size for part in parts if part.size is not None]
        self.size = sum(sizes) if len(sizes) == len(parts) else None
        self.repeats = all(part.repeats for part in parts)

    def __iter__(self) -> Iterator[LazyInputs]:
        for part in self._parts:
            yield from map(self._checked, part.walk())

    def checked_by(self, check: Check) -> InputSource:
        """The same samples, each held against ``check`` when it is loaded."""
        return InputSource(self._parts, check)

    def _checked(self, lazy: LazyInputs) -> LazyInputs:
        return LazyInputs(lazy.name, partial(_load_checked, lazy, self._check)) if self._check else lazy


def open_inputs(sources: Sequence[str], *, split: bool = False) -> InputSource:
    """The samples of files, of all files in a folder, of those that a pattern matches, and of objects.

    Raises :class:`InputError` at once for a name that is not there, may not be read or matches nothing; what
    is in a file shows when its turn comes. With ``split`` see :func:`~alignkit.load.inputs.rows_of`.
    """
    return InputSource([_open(part, split) for source in sources for part in _expand(source)])


def given_inputs(samples: Sequence[tuple[str, Callable[[], ModelInputs]]]) -> InputSource:
    """Samples by name, each with what makes it."""
    lazy = [LazyInputs(name, make) for name, make in samples]
    return InputSource([_Part(len(lazy), lambda: iter(lazy))])


def _open(part: str, split: bool) -> _Part:
    if not is_file(part):
        found = samples_of_object(part)
        if found is None:
            if names_iterator(part):  # what has gone by does not come again
                held = list(_one_by_one(part, walk_object(part)))
                return _Part(len(held), lambda: iter(held))
            return _Part(None, lambda: _one_by_one(part, walk_object(part)), repeats=False)
        return _Part(len(found), lambda: _one_by_one(part, iter(found)))
    _require_readable(part)
    if split:
        return _Part(None, lambda: _one_by_one(part, rows_of(part)))
    return _Part(1, lambda: iter([LazyInputs(part, partial(sample_from_file, part))]))


def _expand(source: str) -> list[str]:
    """The files that a folder holds or a pattern matches; any other source as it is."""
    if os.path.isdir(source):
        found = sorted(str(path) for path in Path(source).iterdir() if path.suffix in _SUFFIXES)
        if not found:
            raise InputError(f"the folder {source} holds no {KINDS} file; name another.")
        return found
    if os.path.exists(source) or not glob.has_magic(source):
        return [source]
    found = sorted(path for path in glob.glob(source, recursive=True) if os.path.isfile(path))
    if not found:
        where = Path.cwd()
        raise InputError(f"no file matches {source} (looked from {where}); check the pattern.")
    return found


def _require_readable(path: str) -> None:
    if not os.path.exists(path):
        where = Path(path).resolve().parent
        raise InputError(f"there is no file {path} (looked in {where}); check the path.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: permission denied; check the file.")


def _one_by_one(part: str, samples: Iterator[ModelInputs]) -> Iterator[LazyInputs]:
    """Samples that come one from the other; where they end in an error, that is the last."""
    while True:
        try:
            sample = next(samples, None)
        except InputError as error:
            yield LazyInputs(part, partial(_refuse, str(error)))
            return
        if sample is None:
            return
        yield LazyInputs(sample.origin, partial(_given, sample))


def _given(sample: ModelInputs) -> ModelInputs:
    return sample


def _refuse(reason: str) -> ModelInputs:
    raise InputError(reason)


def _load_checked(lazy: LazyInputs, check: Check) -> ModelInputs:
    sample = lazy.load()
    check(sample)
    return sample
