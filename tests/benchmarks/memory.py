"""Resident memory of this process: what it is, and the most that it was since a moment one chooses."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_PROC = Path("/proc/self")


def resident_bytes() -> int:
    """Memory that is resident now; where the system does not tell, the most that it ever was."""
    return _status("VmRSS") or _ever()


def peak_bytes() -> int:
    """The most since :func:`reset_peak`; where that cannot be reset, since the process began."""
    return _status("VmHWM") or _ever()


def reset_peak() -> None:
    """Begin anew to watch for the most."""
    if (path := _PROC / "clear_refs").exists():
        path.write_text("5")


def _status(key: str) -> int:
    try:
        lines = (_PROC / "status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def _ever() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
