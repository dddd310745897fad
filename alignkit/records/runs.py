"""Runs: what each side gave at the taps, and how far apart the two are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from alignkit.records.taps import Tap, Verdict

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sides:
    """What a report calls the two sides of a comparison."""

    reference: str = "PyTorch"
    candidate: str = "ONNX"

    @property
    def running(self) -> str:
        """The reference as something that runs."""
        return "eager PyTorch" if self.reference == "PyTorch" else self.reference


@dataclass(frozen=True, slots=True)
class ErrorMetrics:
    """How far a candidate tensor is from its reference; all sums are taken in float64.

    Elements where either side is NaN or infinite are left out of every figure but the counts.
    A figure that does not exist for the data (SQNR of two equal tensors, cosine of a zero
    vector, ULP distance of integers) is ``None``.
    """

    size: int
    mse: float | None
    rmse: float | None
    max_abs: float | None
    mean_abs: float | None
    max_rel: float | None  # max |c - r| / |r| over elements with r != 0
    cosine: float | None
    sqnr_db: float | None  # 10 log10(sum r^2 / sum (c - r)^2)
    ulp_max: int | None
    mismatched: float  # share of elements beyond atol + rtol |r|, non-finite disagreements included
    scale: float  # max |r| over finite elements
    worst_index: tuple[int, ...] | None
    worst_reference: float | int | bool | str | None
    worst_candidate: float | int | bool | str | None
    reference_nan: int
    reference_inf: int
    candidate_nan: int
    candidate_inf: int
    nonfinite_mismatches: int  # elements that are NaN or Inf on one side only, or of opposite sign


@dataclass(frozen=True, slots=True)
class Capture:
    """One eager run. ``values`` maps a tap's name to its array; taps in execution order.

    ``same`` maps a tap to the first one that saw the very same tensor. Arrays may be read from a file
    whenever they are asked for, so that two of one tap need not be one object. ``untapped`` holds the
    reason for taps whose value has no array (nested, sparse or quantized tensors). ``outputs`` are the
    tensor leaves of the model's result; ``confirmed``: in a run without hooks. ``random`` are the taps
    whose own segment draws random numbers. ``sides`` names what was run, and what it is compared with.
    """

    taps: Mapping[str, Tap]
    values: Mapping[str, Array]
    untapped: Mapping[str, str]
    outputs: tuple[Array, ...]
    notes: tuple[str, ...] = ()
    random: frozenset[str] = frozenset()
    confirmed: bool = True
    sides: Sides = Sides()
    same: Mapping[str, str] = field(default_factory=dict)

    def first(self, tap: str) -> str:
        """The first tap that saw the very tensor that ``tap`` saw."""
        return self.same.get(tap, tap)


@dataclass(frozen=True, slots=True)
class Noise:
    """Rounding noise of one tap: largest absolute and relative distance to float64."""

    max_abs: float
    max_rel: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """One run of a probe, or of a part of it: an array per tap, and why other taps have none.

    The arrays hold until the next part but one is run. ``onnx_values`` names the ONNX value that each tap
    observes; ``trivial`` are taps that see nothing but a fed reference, so that they say nothing
    new; ``failed`` are those of the absent whose segment has a kernel that failed on the values it
    was given.
    """

    values: Mapping[str, Array]
    absent: Mapping[str, str]
    onnx_values: Mapping[str, str]
    trivial: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Measurement:
    """How far a candidate tensor is from its reference, or why the two cannot be subtracted.

    ``dtype`` is the coarser of the two sides' dtypes; ``misfit`` is the verdict where there is no
    ``error``, with its ``reason``.
    """

    error: ErrorMetrics | None
    dtype: Any = None
    misfit: Verdict | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole run of a probe, tap by tap, without arrays but those in ``kept``; see :class:`Candidate`."""

    taps: Mapping[str, Measurement]
    absent: Mapping[str, str]
    onnx_values: Mapping[str, str]
    trivial: frozenset[str] = frozenset()
    failed: frozenset[str] = frozenset()
    kept: Mapping[str, Array] = field(default_factory=dict)
