"""The safetensors file under a dump: written piece by piece, read without loading it.

The format is the one of https://huggingface.co/docs/safetensors: eight bytes with the length of a
JSON header, the header, the tensors. Written here and not by its library, for that wants every
tensor in memory at once, and reads bfloat16 and float8 with torch alone.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np

from alignkit.errors import InputError, ReportError
from alignkit.metrics.dtypes import as_dtype
from alignkit.records import Array

METADATA = "__metadata__"

_NUMPY_NAMES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "C64": "complex64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_CODES = {name: code for code, name in _NUMPY_NAMES.items()}
_PADDED_TO = 8  # bytes: where the header ends, so that the widest tensors, which come first, are aligned


def unstorable(array: Array) -> str:
    """Why no safetensors file can hold ``array``; empty when one can."""
    name = array.dtype.name
    if name in _CODES:
        return ""
    return (
        "strings are no numbers" if array.dtype.kind in "OUS" else f"the file format has no type for {name}"
    )


class _Piece(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int
    width: int


class ContainerWriter:
    """Writes tensors as they come; the file gets its name when :meth:`finish` has written all of it.

    Leaving the ``with`` block takes back what is not finished. Raises :class:`ReportError` when the
    file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        run = uuid.uuid4().hex
        self._data_path = path.with_name(f".{path.name}.{run}.data.tmp")
        self._whole_path = path.with_name(f".{path.name}.{run}.tmp")
        self._pieces: dict[str, _Piece] = {}
        self._size = 0
        try:
            self._data: IO[bytes] = self._data_path.open("x+b")
        except OSError as error:
            raise _unwritable(path, error) from error

    def __enter__(self) -> ContainerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()
        for path in (self._data_path, self._whole_path):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def __contains__(self, key: str) -> bool:
        return key in self._pieces

    def add(self, key: str, array: Array) -> None:
        """Write one tensor, of a dtype that :func:`unstorable` has nothing against."""
        data = row_major(array)
        try:
            self._data.write(data.reshape(-1).view(np.uint8).data)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        name = data.dtype.name
        self._pieces[key] = _Piece(_CODES[name], array.shape, self._size, data.nbytes, data.dtype.itemsize)
        self._size += data.nbytes

    def finish(self, metadata: Mapping[str, str]) -> int:
        """Put the header before the tensors, name the file, and return its size in bytes."""
        ordered = sorted(self._pieces.items(), key=lambda item: -item[1].width)
        head = _header(metadata, ordered)
        try:
            with self._whole_path.open("xb") as whole:
                whole.write(len(head).to_bytes(8, "little") + head)
                for _, piece in ordered:
                    self._data.seek(piece.start)
                    _copy(self._data, whole, piece.length)
                size = whole.tell()
            os.replace(self._whole_path, self._path)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        return size


def row_major(array: Array) -> Array:
    """``array``, little-endian and with its elements in order; a copy only where it must be."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)


def _header(metadata: Mapping[str, str], pieces: list[tuple[str, _Piece]]) -> bytes:
    entries: dict[str, Any] = {METADATA: dict(metadata)}
    place = 0
    for key, piece in pieces:
        offsets = [place, place + piece.length]
        entries[key] = {"dtype": piece.dtype, "shape": list(piece.shape), "data_offsets": offsets}
        place = offsets[1]
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    return text + b" " * (-len(text) % _PADDED_TO)


def _copy(source: IO[bytes], target: IO[bytes], length: int) -> None:
    while length:
        piece = source.read(min(length, shutil.COPY_BUFSIZE))  # type: ignore[attr-defined]
        target.write(piece)
        length -= len(piece)


def _unwritable(path: Path, error: OSError) -> ReportError:
    return ReportError(f"cannot write {path}: {(error.strerror or str(error)).lower()}. Name another file.")


class Container:
    """A safetensors file: what its header says, and its tensors as they are asked for.

    Raises :class:`InputError` when the file is not there, is of another kind, or is damaged. Nothing
    is unpickled.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _validate(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self.metadata: dict[str, str] = header.pop(METADATA, {})
        self._entries: dict[str, Any] = header
        self._start = 8 + length

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Array:
        """The tensor, read-only and read from the file as it is used."""
        entry = self._entries[key]
        name = _NUMPY_NAMES.get(entry["dtype"])
        if name is None:
            raise InputError(f"{self.path} holds {key!r} as {entry['dtype']}, which numpy has no type for.")
        dtype = as_dtype(name).newbyteorder("<")
        shape = tuple(entry["shape"])
        if 0 in shape:
            return np.empty(shape, dtype)  # nothing can be mapped
        start, stop = entry["data_offsets"]
        raw = np.memmap(self.path, np.uint8, "r", self._start + start, (stop - start,))
        return raw.view(np.ndarray).view(dtype).reshape(shape)


def _validate(path: Path) -> None:
    """Let the format's own library check the header: every byte covered, no two tensors at one place."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise InputError(f"there is no file {path}; check the path.")
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a dump, which is a file.")
    try:
        with path.open("rb") as file:
            looks_right = file.read(9)[8:] == b"{"
        with safe_open(path, framework="numpy"):
            return
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check the file.") from error
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        if looks_right:
            raise InputError(f"{path} is damaged or cut short ({reason}); capture it again.") from error
        raise InputError(
            f"{path} is not a dump: it is no safetensors file ({reason}). Make one with alignkit capture."
        ) from error
