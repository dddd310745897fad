"""Write and read a dump, in either tier."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from alignkit.dump.container import Container, ContainerWriter, unstorable
from alignkit.dump.header import KEY, header_from_json, header_to_json
from alignkit.dump.records import FULL, STATISTICS, About, DumpedTap, Kept
from alignkit.dump.statistics import Statistics, from_vector, summarise, to_vector
from alignkit.errors import CompareError, InputError, ReportError
from alignkit.metrics import dtype_kind
from alignkit.records import Array

_NO_VALUE = "the run gave no value for it"


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump on disk: ``taps`` and ``inputs`` by name, in its order; tensors are read when asked for."""

    path: Path
    about: About
    taps: Mapping[str, DumpedTap]
    inputs: Mapping[str, DumpedTap]
    container: Container

    @property
    def is_full(self) -> bool:
        """Whether it holds whole tensors."""
        return self.about.tier == FULL

    def tensor(self, entry: DumpedTap) -> Array:
        """The tensor of a tap or an input of a full dump, read-only."""
        return self.container[entry.tensor]

    def statistics(self, entry: DumpedTap) -> Statistics:
        """Statistics of a tap's or an input's tensor, made of it where the dump is a full one.

        Raises :class:`InputError` when those in the file cannot be statistics.
        """
        if entry.kept is None:
            return summarise(self.tensor(entry))
        try:
            found = from_vector(self.container[entry.tensor], entry.kept)
            found.dtype  # noqa: B018  unknown names raise
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.path} is damaged: statistics of {entry.name!r}: {error}; capture it again."
            ) from error
        return found


def tap_key(name: str) -> str:
    """The key of a tap's tensor in the file."""
    return f"tap/{name}"


def input_key(name: str) -> str:
    """The key of an input's tensor in the file."""
    return f"input/{name}"


def write_dump(
    path: str | PathLike[str],
    about: About,
    tensors: Iterable[tuple[str, Array]],
    *,
    force: bool = False,
) -> About:
    """Write a dump and return what it says of itself.

    ``tensors`` are (key, array) pairs, taken one at a time and in any order; in the statistics tier
    only their statistics are written. A tap that no pair belongs to is listed as absent. The file
    gets its name when it is complete. Raises :class:`ReportError` when it is there already (without
    ``force``) or cannot be written, and :class:`CompareError` when no tap has a value.
    """
    target = Path(path)
    check_dump_target(target, force)
    summary = about.tier == STATISTICS
    kept: dict[str, Kept] = {}
    refused: dict[str, str] = {}
    with ContainerWriter(target) as writer:
        for key, array in tensors:
            if reason := _refusal(array, summary):
                refused[key] = reason
            elif summary:
                statistics = summarise(array)
                kept[key] = statistics.kept
                writer.add(key, to_vector(statistics))
            else:
                writer.add(key, array)

        def entered(entry: DumpedTap, key: str) -> DumpedTap:
            key = entry.tensor or key
            if entry.absent or key in writer:
                return replace(entry, kept=kept.get(key))
            return replace(entry, tensor="", absent=refused.get(key, _NO_VALUE))

        about = replace(
            about,
            taps=tuple(entered(tap, tap_key(tap.name)) for tap in about.taps),
            inputs=tuple(entered(value, input_key(value.name)) for value in about.inputs),
        )
        if all(tap.absent for tap in about.taps):
            reason = about.taps[0].absent if about.taps else "there are no taps"
            raise CompareError(f"nothing to dump: no tap has a value ({reason}).")
        writer.finish({KEY: header_to_json(about)})
    return about


def _refusal(array: Array, summary: bool) -> str:
    if not summary or array.dtype.kind in "OUS":
        return unstorable(array)
    return f"{array.dtype.name} elements are no numbers" if dtype_kind(array.dtype) == "other" else ""


def check_dump_target(path: Path, force: bool) -> None:
    """Whether :func:`write_dump` may write to ``path``: asked before long work as well.

    Raises :class:`ReportError` when it may not. Nothing is written.
    """
    if path.is_dir():
        raise ReportError(f"cannot write the dump to {path}: it is a folder. Name a file in it.")
    if os.path.lexists(path) and not force:
        raise ReportError(f"{path} is there already. Name another file, or replace it with --force.")
    if not path.absolute().parent.is_dir():
        raise ReportError(f"cannot write {path}: there is no folder {path.parent}. Make it first.")


def read_dump(path: str | PathLike[str]) -> Dump:
    """Open a dump; its tensors stay on disk.

    Raises :class:`InputError`, in one line, when the file is not there, is no dump, is damaged or has
    a schema that is not known here. Nothing is unpickled.
    """
    target = Path(path)
    container = Container(target)
    if KEY not in container.metadata:
        raise InputError(
            f"{target} is not a dump: a safetensors file without {KEY!r} in its metadata. "
            "Make one with alignkit capture."
        )
    try:
        about = header_from_json(container.metadata[KEY])
        taps = {tap.name: _found(tap, tap_key(tap.name), container, about.tier) for tap in about.taps}
        inputs = {i.name: _found(i, input_key(i.name), container, about.tier) for i in about.inputs}
    except InputError as error:
        raise InputError(f"{target} {error}") from error
    return Dump(target, about, taps, inputs, container)


def _found(entry: DumpedTap, key: str, container: Container, tier: str) -> DumpedTap:
    """``entry`` with its tensor's key, or why the file does not hold together."""
    key = entry.tensor or key
    if entry.absent:
        return entry
    if key not in container:
        raise InputError(f"is not a valid dump: it lists {entry.name!r} but holds no tensor {key!r}.")
    if (tier == STATISTICS) != (entry.kept is not None):
        has = "no shape and dtype" if entry.kept is None else "a shape and a dtype"
        raise InputError(f"is not a valid dump: {entry.name!r} has {has}, its tier is {tier!r}.")
    return replace(entry, tensor=key)
