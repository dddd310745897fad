"""Input files: ``.npz``, ``.npy``, ``.safetensors`` and ``.pt``, told apart by content, not by name.

Nothing here unpickles: object arrays are refused and torch files are read with ``weights_only=True``.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from pathlib import Path

from alignkit.errors import InputError
from alignkit.load.objects import summarise_error

KINDS = ".npz, .npy, .safetensors or .pt"

_NUMPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # the second is an archive without members
_LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6, pickled
_SAFETENSORS_HEADER_LIMIT = 100_000_000  # bytes; the format's own
_SAFE_WAYS = "arrays with numpy.savez(path, name=array) or tensors with torch.save or safetensors"


def read_file(path: Path) -> object:
    """What the file holds: a dict of name -> array or tensor, one array, or what ``torch.save`` was given.

    Raises :class:`InputError` when it is not there, cut short, empty, pickled or of no known kind.
    """
    if not os.path.exists(path):
        raise InputError(f"there is no file {path} (looked in {path.resolve().parent}); check the path.")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; name the {KINDS} files in it.")
    try:
        kind = _kind_of(path)
        return _READERS[kind](path)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; check the file.") from error
    except Exception as error:  # a damaged file can raise anything at all in its parser
        raise InputError(
            f"{path} cannot be read ({summarise_error(error)}): cut short or damaged; write it again."
        ) from error


def _kind_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(32)
        size = os.fstat(file.fileno()).st_size
    if not head:
        raise InputError(f"{path} is empty (0 bytes); write it again.")
    if head.startswith(_NUMPY_MAGIC):
        return "npy"
    if head.startswith(_ZIP_MAGIC):
        return _kind_of_zip(path)
    # before pickle, whose first two bytes may also be the length of a safetensors header
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _SAFETENSORS_HEADER_LIMIT:
        return "safetensors"
    if head.startswith(_LEGACY_TORCH_MAGIC):
        return "torch"
    if re.match(rb"\x80[\x02-\x05]", head):
        raise _pickled(path, "is a pickle")
    raise InputError(
        f"{path} is not a {KINDS} file, going by its content ({size} bytes): of another kind, or cut short; "
        f"save {_SAFE_WAYS}."
    )


def _kind_of_zip(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inside = {name.rpartition("/")[2] for name in names}
    if not names:
        raise InputError(f"{path} is empty: a zip without arrays; save {_SAFE_WAYS}.")
    if "constants.pkl" in inside:
        raise InputError(f"{path} is a TorchScript model, not inputs; save tensors with torch.save.")
    if "data.pkl" in inside:
        return "torch"
    if not all(name.endswith(".npy") for name in names):
        stranger = next(name for name in names if not name.endswith(".npy"))
        if stranger.endswith((".pkl", ".pickle")):
            raise _pickled(path, f"holds the pickle {stranger!r}")
        raise InputError(f"{path} is a zip with {stranger!r} in it, not arrays; save {_SAFE_WAYS}.")
    return "npz"


def _pickled(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} {what}, which is refused because unpickling runs code from the file; save {_SAFE_WAYS}."
    )


def _read_npy(path: Path) -> object:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise _pickled(path, "holds an array of Python objects") from error
        raise


def _read_npz(path: Path) -> object:
    import numpy as np

    arrays = {}
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                arrays[name] = archive[name]
            except ValueError as error:
                if "allow_pickle" in str(error):
                    raise _pickled(path, f"holds {name!r}, an array of Python objects") from error
                raise
            if not isinstance(arrays[name], np.ndarray):  # numpy hands out unknown content as bytes
                raise InputError(f"{path} holds {name!r}, which is not a numpy array; save {_SAFE_WAYS}.")
    return arrays


def _read_safetensors(path: Path) -> object:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise InputError(f"{path} needs safetensors; install it (pip install safetensors).") from error

    return load_file(path, device="cpu")


def _read_torch(path: Path) -> object:
    import torch

    try:
        with path.open("rb") as file:  # given a path, torch.load would go by the suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise
        raise _pickled(path, f"holds a pickled {found[1]}, not only tensors") from error


_READERS = {"npy": _read_npy, "npz": _read_npz, "safetensors": _read_safetensors, "torch": _read_torch}
