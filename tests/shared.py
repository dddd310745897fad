"""Files that several tests read, each made once, by whichever process of a test run needs it first."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

FOLDER = "ALIGNKIT_TEST_FILES"
"""The environment variable that tells the workers of a test run where they all keep such files."""


def shared_file(name: str, make: Callable[[Path], object]) -> Path:
    """The file that ``make(path)`` writes, and what it writes beside it; to be read and never changed.

    ``name`` stands for all that goes into it, and is the file's own name without its suffix.
    """
    folder = _folder() / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_name(f"{name}.part")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished / f"{name}.onnx")
            unfinished.rename(folder)
    return folder / f"{name}.onnx"


def copy_file(source: Path, target: Path) -> Path:
    """A copy of an ONNX file, and of the weights beside it, for who writes to it or to its folder."""
    shutil.copyfile(source, target)
    weights = source.with_name(f"{source.name}.data")
    if weights.exists():
        shutil.copyfile(weights, target.with_name(weights.name))  # the file knows them by that name
    return target


@cache
def _folder() -> Path:
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER])
    folder = tempfile.mkdtemp(prefix="alignkit-files-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
