"""What kind of file a reference comes in, told by its content and never by its name."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from alignkit.errors import ModelError

_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6, pickled
_SAFETENSORS_HEADER_LIMIT = 100_000_000  # bytes; the format's own
_HEAD = 64


class Kind(Enum):
    """A kind of file that can be a reference."""

    SCRIPT = "TorchScript"
    PROGRAM = "an exported program"
    PICKLE = "a pickle"
    DUMP = "a dump"
    ONNX = "an ONNX graph"


@dataclass(frozen=True, slots=True)
class _File:
    """What is looked at: the first bytes, and the names in the archive if it is one."""

    head: bytes
    members: frozenset[str] = frozenset()


def _is_dump(file: _File) -> bool:
    return file.head[8:9] == b"{" and int.from_bytes(file.head[:8], "little") <= _SAFETENSORS_HEADER_LIMIT


def _is_pickle(file: _File) -> bool:
    plain = file.head.startswith(_LEGACY_TORCH) or re.match(rb"\x80[\x02-\x05]", file.head) is not None
    return plain or "data.pkl" in file.members


_SIGNS: tuple[tuple[Kind, Callable[[_File], bool]], ...] = (
    (Kind.PROGRAM, lambda file: bool({"archive_format", "serialized_exported_program.json"} & file.members)),
    (Kind.SCRIPT, lambda file: "constants.pkl" in file.members),
    (Kind.DUMP, _is_dump),  # before pickle, whose first bytes may also be the length of its header
    (Kind.PICKLE, _is_pickle),
    # A protobuf begins with a field of ModelProto: its number and how it is written.
    (
        Kind.ONNX,
        lambda file: not file.members and file.head[:1] in (b"\x08", b"\x12", b"\x1a", b"\x3a", b"\x42"),
    ),
)
"""The first sign that holds tells the kind."""


def kind_of(path: Path) -> Kind | None:
    """The kind of the file at ``path``; None for one of no known kind, such as Python code.

    Raises :class:`ModelError` when it cannot be read or is empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        members = _members(path) if head.startswith(b"PK") else frozenset[str]()
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path} cannot be read ({error}): cut short or damaged. Write it again.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}. Check the file.") from error
    if not head:
        raise ModelError(f"{path} is empty (0 bytes). Write it again.")
    return next((kind for kind, holds in _SIGNS if holds(_File(head, members))), None)


def _members(path: Path) -> frozenset[str]:
    """The names in a zip, without the folders that lead to them."""
    with zipfile.ZipFile(path) as archive:
        return frozenset(name.rpartition("/")[2] for name in archive.namelist())
