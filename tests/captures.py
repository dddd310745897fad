"""Captures made by hand: arrays by tap, where one array under two names is one tensor."""

from __future__ import annotations

from collections.abc import Mapping

from alignkit.records import Array, Capture, Tap, TapId


def capture_of(
    values: Mapping[str, Array],
    taps: Mapping[str, Tap] | None = None,
    untapped: Mapping[str, str] | None = None,
    outputs: tuple[Array, ...] = (),
) -> Capture:
    """A capture of ``values``, with plain taps of their names where none are given."""
    taps = {name: Tap(TapId.parse(name), "") for name in values} if taps is None else taps
    first: dict[int, str] = {}
    for name, value in values.items():
        first.setdefault(id(value), name)
    same = {name: known for name, value in values.items() if (known := first[id(value)]) != name}
    return Capture(taps, values, untapped or {}, outputs, same=same)
