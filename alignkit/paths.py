"""Files by names that are short and still tell them apart."""

from __future__ import annotations

import os
from pathlib import Path


def told_apart(one: Path, other: Path) -> tuple[str, str]:
    """The names of two files, with as many of the folders above them as it takes where they are the same."""
    ours, theirs = (Path(os.path.abspath(path)).parts for path in (one, other))
    for count in range(1, max(len(ours), len(theirs)) + 1):
        if ours[-count:] != theirs[-count:]:
            return str(Path(*ours[-count:])), str(Path(*theirs[-count:]))
    return one.name, other.name
