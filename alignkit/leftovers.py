"""Leftovers: temporary folders of runs that were killed, which a later run removes.

A run holds a lock on its folder as long as it lives, in whatever way it ends; a folder that nobody holds,
and that nobody could be just about to lock, is left over.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "alignkit-run-"
"""Names of folders that are locked; without it nothing is ever removed."""

_YOUNG = 60.0  # seconds in which a folder may not be locked yet


def remove_leftovers() -> None:
    """Remove the user's own folders in the one for temporary files that no run holds any more."""
    if sys.platform == "win32":
        return
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                if status.st_uid == os.getuid() and time.time() - status.st_mtime > _YOUNG:
                    _remove(Path(entry.path))


def _remove(folder: Path) -> None:
    with suppress(OSError), locked(folder) as held:
        if held:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold ``folder``; whether its lock, which also children of this process hold, could be had at once."""
    if sys.platform == "win32":
        yield False
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # somebody else's, or a file system without locks
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
