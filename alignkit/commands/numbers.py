"""The numbers that options take: functions from an argument's text to its value, for argparse.

They raise :class:`argparse.ArgumentTypeError`, whose text becomes the one line of the error.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of whole numbers in a range, its ends included."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            upto = "up" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} {upto}")
        return number

    return parse


def parse_bound(text: str) -> float:
    """A number that an error can be held against: finite and not negative."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 up, e.g. 1e-4")
    return number


def parse_tolerance(text: str) -> tuple[str, tuple[float, float]]:
    """``TAP_OR_DTYPE=RTOL,ATOL`` as (name, (rtol, atol))."""
    name, _, pair = text.rpartition("=")
    try:
        rtol, atol = map(parse_bound, pair.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        name = ""
    if not name:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not TAP_OR_DTYPE=RTOL,ATOL with numbers from 0 up, e.g. 'decoder.*=1e-3,1e-5'"
        )
    return name, (rtol, atol)
