"""The reference as the mapping sees it: tensors rather than taps, and which module reads which."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from alignkit.mapping.fingerprint import Fingerprint, fingerprint, is_simple, kind_of
from alignkit.records import ROOT, Array, Capture, Tap, TapKind


@dataclass(frozen=True, slots=True)
class Recorded:
    """One tensor of the reference and every tap that saw exactly it."""

    index: int
    taps: tuple[str, ...]
    values: Mapping[str, Array] = field(repr=False)
    print: Fingerprint

    @property
    def value(self) -> Array:
        """Its array, which may be read from a file for it."""
        return self.values[self.taps[0]]


@dataclass(frozen=True, slots=True)
class Recording:
    """All recorded tensors, in execution order, and the flow between them.

    ``of_tap`` maps a tap to its tensor's index. ``reads`` and ``makes`` map a module call to the
    tensors that it was given and that it returned.
    """

    tensors: tuple[Recorded, ...]
    of_tap: Mapping[str, int]
    taps: Mapping[str, Tap]
    reads: Mapping[tuple[str, int], tuple[int, ...]]
    makes: Mapping[tuple[str, int], tuple[int, ...]]
    parents: frozenset[str]

    def makers(self, index: int) -> list[tuple[str, int]]:
        """The module calls that returned a tensor."""
        return self._calls(index, TapKind.MODULE)

    def readers(self, index: int) -> list[tuple[str, int]]:
        """The module calls that were given a tensor."""
        return self._calls(index, TapKind.INPUT)

    def made_of(self, index: int) -> list[int]:
        """What the modules without modules inside that made a tensor were given; not what was passed on."""
        calls = (call for call in self.makers(index) if self.is_leaf(call))
        return list(dict.fromkeys(i for call in calls for i in self.reads.get(call, ()) if i != index))

    def is_leaf(self, call: tuple[str, int]) -> bool:
        """Whether a module has no module inside that was tapped."""
        return call[0] not in self.parents

    def _calls(self, index: int, kind: TapKind) -> list[tuple[str, int]]:
        ids = [self.taps[name].id for name in self.tensors[index].taps]
        return list(dict.fromkeys((tap.path, tap.call) for tap in ids if tap.kind is kind))


def read_recording(reference: Capture) -> Recording:
    """Group the taps of ``reference`` by the tensor they saw; what is no number array is left out."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in reference.taps:
        value = reference.values.get(name)
        if value is not None and value.size and kind_of(value.dtype):
            groups.setdefault(_identity(value, reference.first(name)), []).append(name)
    tensors = []
    for index, names in enumerate(groups.values()):
        print_ = fingerprint(reference.values[names[0]])
        tensors.append(Recorded(index, tuple(names), reference.values, print_))
    of_tap = {name: tensor.index for tensor in tensors for name in tensor.taps}
    return Recording(
        tuple(tensors),
        of_tap,
        reference.taps,
        _flow(reference.taps, of_tap, TapKind.INPUT),
        _flow(reference.taps, of_tap, TapKind.MODULE),
        frozenset(_parents(tap.id.path for tap in reference.taps.values())),
    )


def _parents(paths: Iterable[str]) -> Iterator[str]:
    yield ROOT
    for path in paths:
        while path := path.rpartition(".")[0]:
            yield path


def _identity(value: Array, first: str) -> tuple[object, ...]:
    """Equal numbers are one tensor, but for those that identify nothing: many dead layers give zeros."""
    if is_simple(value):
        return (first,)
    content = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    return value.shape, value.dtype.name, hashlib.sha256(content.data).digest()


def _flow(
    taps: Mapping[str, Tap], of_tap: Mapping[str, int], kind: TapKind
) -> dict[tuple[str, int], tuple[int, ...]]:
    flow: dict[tuple[str, int], tuple[int, ...]] = {}
    for name, index in of_tap.items():
        tap = taps[name].id
        if tap.kind is kind:
            call = tap.path, tap.call
            flow[call] = (*flow.get(call, ()), index)
    return flow
