"""The memory that a comparison may take for tensors, and how it is shared out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from alignkit.sizes import size_words

PART_BYTES = 128 * 2**20
"""Values of one part of a run: enough to make the cost of a session small, few enough to be written to
memory that is at hand. Fresh memory can cost more than the arithmetic that fills it."""

PART_TAPS = 256
"""Taps of one part of a run: each node of a session costs the more, the more there are. ONNX Runtime makes
one for 1,000 taps in 13 times what one for 250 takes, and those below hardly count."""

_SHARE = 0.5  # of what is free, where the user says nothing
_PARTS = 8  # what one part in flight takes: its values twice, what it is fed, what it is measured against
_GROUP = Path("/sys/fs/cgroup")
_UNKNOWN = 8 * 2**30  # where the system does not tell what is free


@dataclass(frozen=True, slots=True)
class Budget:
    """``total`` bytes for the tensors that are held at one time; ``given`` by the user, or a default.

    A single tensor that is larger than its share is held all the same, one at a time.
    """

    total: int
    given: bool = False

    @property
    def part_bytes(self) -> int:
        """Bytes of the values that one part of a run gives."""
        return min(PART_BYTES, self.weight_bytes)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that one part reads."""
        return max(1, self.total // _PARTS)

    @property
    def held_bytes(self) -> int:
        """Bytes of the reference that stay in memory; what is beyond goes to a temporary file."""
        return max(0, self.total - _PARTS * self.part_bytes)

    @property
    def overlaps(self) -> bool:
        """Whether one part may be measured while the next one runs."""
        return self.part_bytes == PART_BYTES


def default_budget() -> Budget:
    """Half of the memory that is free now."""
    return Budget(int(_SHARE * free_memory()))


def free_memory() -> int:
    """Bytes that this process could still take without others being swapped out, as far as that is told."""
    told = [size for size in (_available(), _left_to_group()) if size is not None]
    return min(told, default=_UNKNOWN)


def _available() -> int | None:
    """Of the machine: what is available on Linux, elsewhere all that there is."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" not in names:
            return None
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    sizes = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def _left_to_group() -> int | None:
    """Of the control group that a container runs in; None where it has no limit."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used + _droppable()) if limit.isdigit() else None


def _droppable() -> int:
    """What the group's count holds of files that were read, and the system drops when memory is asked for."""
    try:
        lines = (_GROUP / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)


def too_small(total: int, largest: int, tap: str) -> str:
    """What to say of a budget that the largest tap does not fit."""
    return (
        f"the budget of {size_words(total)} is smaller than the largest tap: {tap!r} takes "
        f"{size_words(largest)}. Give at least --max-memory {largest}."
    )
