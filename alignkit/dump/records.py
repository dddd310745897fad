"""What a dump says of itself and of its taps: frozen, without behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from alignkit.records import Source

SCHEMA = "alignkit.dump/1"

FULL = "full"
STATISTICS = "stats"
TIERS = (FULL, STATISTICS)
"""What is kept of a tensor: all of it, or a few hundred bytes of statistics."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A tensor whose statistics were kept in its place: what they do not say themselves.

    ``dtype`` is numpy's name for it (``bfloat16`` that of ml_dtypes). ``sha256`` is the hexadecimal
    digest of the elements, little-endian and row-major.
    """

    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclass(frozen=True, slots=True)
class DumpedTap:
    """A tap as its dump lists it; only ``name`` is needed.

    ``tensor`` is the tensor's key in the file where that is not the tap's own, since several taps
    saw one tensor. ``owner`` is the module whose code made the value. ``op`` and ``onnx_node`` are
    those of the ONNX node that did. ``reads`` are the taps that the value is computed from, None
    where that is not known. ``absent`` says why there is no tensor. ``kept`` is set in the
    statistics tier.
    """

    name: str
    tensor: str = ""
    module_type: str = ""
    owner: str = ""
    source: Source | None = None
    op: str = ""
    onnx_node: str = ""
    onnx_value: str | None = None
    reads: tuple[str, ...] | None = None
    absent: str = ""
    kept: Kept | None = None


@dataclass(frozen=True, slots=True)
class About:
    """All that a dump says but for its tensors.

    ``taps`` stand in execution order; ``outputs`` are those of them that the model returns.
    ``producer`` is what computed the values, in words, ``origin`` the model it was given.
    """

    tier: str
    producer: str = ""
    origin: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    taps: tuple[DumpedTap, ...] = ()
    inputs: tuple[DumpedTap, ...] = ()
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
