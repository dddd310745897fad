"""A capture of the eager run, as a dump."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from alignkit.dump.files import input_key, tap_key
from alignkit.dump.records import About, DumpedTap
from alignkit.environment import describe_environment
from alignkit.records import ROOT, Array, Capture, TapId, TapKind


def describe_capture(
    capture: Capture, inputs: Mapping[str, Array], *, tier: str, origin: str
) -> tuple[About, Iterator[tuple[str, Array]]]:
    """What a dump says of ``capture``, and its tensors; those that several taps saw come once."""
    about = About(
        tier,
        capture.sides.running,
        origin,
        {name: str(version) for name, version in describe_environment().items()},
        tuple(_describe_taps(capture)),
        tuple(DumpedTap(name) for name in inputs),
        tuple(n for i in range(len(capture.outputs)) if (n := str(TapId(ROOT, 0, i))) in capture.taps),
        capture.notes,
    )
    return about, _tensors(capture, inputs)


def _tensors(capture: Capture, inputs: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    yield from ((input_key(name), array) for name, array in inputs.items())
    distinct = (name for name in capture.taps if name in capture.values and name not in capture.same)
    yield from ((tap_key(name), capture.values[name]) for name in distinct)


def _describe_taps(capture: Capture) -> Iterator[DumpedTap]:
    given: dict[tuple[str, int], list[str]] = {}  # call of a module -> taps on what it was given
    for name, tap in capture.taps.items():
        if tap.id.kind is TapKind.INPUT:
            given.setdefault((tap.id.path, tap.id.call), []).append(name)
    for name, tap in capture.taps.items():
        read = given.get((tap.id.path, tap.id.call)) if tap.id.kind is TapKind.MODULE else None
        shared = capture.first(name)
        yield DumpedTap(
            name,
            tensor="" if shared == name else tap_key(shared),
            module_type=tap.module_type,
            owner=tap.owner,
            source=tap.source,
            reads=tuple(read) if read else None,
            absent=capture.untapped.get(name, ""),
        )
