"""Sizes and rates as users write and read them."""

from __future__ import annotations

import math
import re

from alignkit.errors import InputError

_NUMBER = re.compile(r"(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*(?P<unit>[A-Za-z]*)(?:/s)?")
_PREFIXES = ("", "k", "m", "g", "t", "p")
_BYTES = {
    **{f"{prefix}b": 1000**power for power, prefix in enumerate(_PREFIXES)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate(_PREFIXES) if power},
    "": 1,
}
_FLOPS = {
    f"{prefix}{unit}": 1000**power for power, prefix in enumerate(_PREFIXES) for unit in ("", "flop", "flops")
}


def parse_size(text: str, option: str) -> int:
    """Bytes: a number with a unit (``256MiB``, ``1.5GB``) or without one. Raises :class:`InputError`."""
    return max(
        1, round(_parse(text, _BYTES, f"{option} {text!r} is not a size; write e.g. 256MiB or 1.5GB."))
    )


def parse_flops(text: str, option: str) -> float:
    """Operations per second: ``50G``, ``50GFLOP/s``, ``5e10``. Raises :class:`InputError`."""
    return _parse(text, _FLOPS, f"{option} {text!r} is not a rate; write e.g. 50G or 5e10.")


def _parse(text: str, units: dict[str, int], complaint: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    factor = units.get(match["unit"].lower()) if match else None
    number = float(match["number"]) * factor if match and factor else 0.0
    if not 0 < number < math.inf:
        raise InputError(complaint)
    return number


def size_words(size: float) -> str:
    """Bytes in the largest fitting binary unit, three digits: ``3.06 MiB``."""
    return _scaled(size, 1024, ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB"))


def count_words(count: float, unit: str = "") -> str:
    """A number of ``unit`` in the largest fitting step of thousands: ``3.64 G``, ``3.64 GFLOP``."""
    return _scaled(count, 1000, tuple(f"{prefix}{unit}" for prefix in ("", "k", "M", "G", "T", "P", "E")))


def seconds_words(seconds: float) -> str:
    """``3.2 ms``, ``4.5 s``, ``12 min``, ``3.4 h``, ``2.1 days``."""
    if seconds < 1:
        return f"{_digits(seconds * 1000)} ms"
    for unit, length, limit in (("s", 1, 120), ("min", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{_digits(seconds / length)} {unit}"
    return f"{_digits(seconds / 86400)} days"


def _scaled(amount: float, step: int, units: tuple[str, ...]) -> str:
    power = 0
    while amount >= step and power < len(units) - 1:
        amount, power = amount / step, power + 1
    return f"{_digits(amount)} {units[power]}".rstrip()


def _digits(number: float) -> str:
    """Three significant digits, and all of those before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"
