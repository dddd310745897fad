"""Storage: a reference that may be larger than memory, and the temporary files of a comparison.

Tensors stay in memory as long as there is room and go to a file from then on. That file has no name:
the system takes it back when the process ends, in whatever way it does.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from alignkit.errors import StorageError
from alignkit.leftovers import PREFIX, locked, remove_leftovers
from alignkit.records import Array
from alignkit.sizes import size_words

_ALIGNMENT = 64  # bytes: what a kernel may expect of memory that it is given


class _Place(NamedTuple):
    """Where a tensor lies in a :class:`_NamelessFile`."""

    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def piece(self, elements: slice) -> _Place:
        """Where those elements of the flat tensor lie."""
        length = elements.stop - elements.start
        return _Place(self.start + elements.start * self.dtype.itemsize, (length,), self.dtype)


class _NamelessFile:
    """Tensors one behind the other, in the folder for temporary files."""

    _file: IO[bytes] | None = None  # of the class: compilers that trace a hook skip __init__

    def __init__(self) -> None:
        self.size = 0

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()  # what is mapped of it holds

    def write(self, array: Array) -> _Place:
        """Append ``array``; raises :class:`StorageError` where there is no room, or no folder."""
        place = _Place(-(-self.size // _ALIGNMENT) * _ALIGNMENT, array.shape, array.dtype)
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="alignkit-", buffering=0)  # noqa: SIM115
            self._file.seek(place.start)  # a write that failed may have ended anywhere
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise _no_room(error, f"spill {size_words(self.size + array.nbytes)} of the reference") from error
        self.size = place.start + array.nbytes
        return place

    def read(self, place: _Place) -> Array:
        """The tensor at ``place``, read-only; its pages are the file's, given back with the array."""
        length = prod(place.shape) * place.dtype.itemsize
        if not length or self._file is None:
            return np.empty(place.shape, place.dtype)
        inset = place.start % mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(
            self._file.fileno(), inset + length, access=mmap.ACCESS_READ, offset=place.start - inset
        )
        array: Array = np.frombuffer(mapped, np.uint8, length, inset).view(place.dtype).reshape(place.shape)
        return array


class TensorStore(Mapping[str, Array]):
    """Tensors by name, in the order in which they came; in memory up to ``room`` bytes (None: all of them).

    An array that lies in the file is mapped when it is asked for, anew each time.
    """

    def __init__(self, room: int | None = None) -> None:
        self._room = room
        self._kept: dict[str, Array | _Place] = {}
        self._links: dict[str, str] = {}
        self._file = _NamelessFile()

    def has_room(self, nbytes: int) -> bool:
        """Whether a tensor of that size is to be kept in memory."""
        return self._room is None or nbytes <= self._room

    def keep(self, name: str, array: Array) -> None:
        """Hold ``array``, which nobody else will write to."""
        self._kept[name] = array
        if self._room is not None:
            self._room -= array.nbytes

    def spill(self, name: str, array: Array) -> None:
        """Write ``array`` to the file; the caller may do with it what it likes afterwards.

        Raises :class:`StorageError` where there is no room for it.
        """
        self._kept[name] = self._file.write(array)

    def link(self, name: str, known: str) -> None:
        """Let ``name`` stand for the same tensor as ``known``."""
        self._links[name] = self._links.get(known, known)
        self._kept[name] = self._kept[known]

    @property
    def links(self) -> Mapping[str, str]:
        """Name -> the first name of the same tensor; only of those that are not the first."""
        return self._links

    @property
    def spilled_bytes(self) -> int:
        """What lies in the file."""
        return self._file.size

    def pieces(self, name: str, size: int) -> Iterator[tuple[slice, Array]]:
        """See :func:`flat_pieces`."""
        kept = self._kept[name]
        for elements in _slices(prod(kept.shape), size):
            if isinstance(kept, _Place):
                yield elements, self._file.read(kept.piece(elements))
            else:
                yield elements, kept.reshape(-1)[elements]

    def __getitem__(self, name: str) -> Array:
        kept = self._kept[name]
        return self._file.read(kept) if isinstance(kept, _Place) else kept

    def __contains__(self, name: object) -> bool:
        return name in self._kept

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


class Without(Mapping[str, Array]):
    """``values`` as if those in ``hidden`` were not there."""

    def __init__(self, values: Mapping[str, Array], hidden: Collection[str]) -> None:
        self._values = values
        self._names = dict.fromkeys(name for name in values if name not in hidden)

    def pieces(self, name: str, size: int) -> Iterator[tuple[slice, Array]]:
        """See :func:`flat_pieces`."""
        if name not in self._names:
            raise KeyError(name)
        return flat_pieces(self._values, name, size)

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def flat_pieces(values: Mapping[str, Array], name: str, size: int) -> Iterator[tuple[slice, Array]]:
    """The tensor ``name`` of ``values``, flat, ``size`` elements at a time, each piece with its place.

    Of one that lies in a file no more than that piece is in memory.
    """
    if isinstance(values, (TensorStore, Without)):
        return values.pieces(name, size)
    flat = values[name].reshape(-1)
    return ((elements, flat[elements]) for elements in _slices(flat.size, size))


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for exported files, removed afterwards; what killed runs left of theirs goes as well.

    Raises :class:`StorageError` where no folder can be made.
    """
    try:
        remove_leftovers()
        folder = tempfile.TemporaryDirectory(prefix=PREFIX)
    except OSError as error:
        raise _no_room(error, "make a folder for exported files") from error
    with folder as name, locked(Path(name)):
        yield Path(name)


def _no_room(error: OSError, what: str) -> StorageError:
    reason = error.strerror or str(error)
    try:
        where = f" in {tempfile.gettempdir()}"
    except OSError:
        where = ""
    return StorageError(
        f"cannot {what}{where}: {reason[:1].lower()}{reason[1:]}. Make room there, or set TMPDIR to another "
        "folder."
    )
