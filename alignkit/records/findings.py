"""Findings: the rows of a report, the culprits, and the report's data as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from alignkit.records.runs import Array, ErrorMetrics
from alignkit.records.taps import TapKind, Verdict


@dataclass(frozen=True, slots=True)
class ErrorHistogram:
    """Distribution of ``|candidate - reference|`` at one tap, in decades.

    ``counts[i]`` elements have an error in ``[10**edges[i], 10**edges[i + 1])``; ``zeros``
    elements have none.
    """

    tap: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    zeros: int


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One tap in the report.

    ``noise_ratio`` is ``introduced.max_abs`` over the ``noise_floor``, ``relative_ratio`` is
    ``introduced.max_rel`` over the reference's own relative rounding.
    """

    tap: str
    module: str
    kind: TapKind
    module_type: str
    shape: tuple[int, ...] | None
    dtype: str | None
    onnx_value: str | None
    verdict: Verdict
    reason: str = ""
    propagated: ErrorMetrics | None = None
    introduced: ErrorMetrics | None = None
    noise_floor: float | None = None
    noise_ratio: float | None = None
    relative_ratio: float | None = None
    propagated_noise: float | None = None
    tolerance: str = ""  # the rule that judged this row, in words
    mapped_by: str | None = None  # how the value was found in a file without taps, and how surely
    precision: str | None = None  # what the file computes this in, where that is coarser than the model
    source: str | None = None  # "file.py:42"


@dataclass(frozen=True, slots=True)
class OutputRow:
    """One model output: ``plain`` from the file as deployed, ``probed`` from the propagated probe."""

    name: str
    tap: str
    shape: tuple[int, ...] | None
    dtype: str | None
    verdict: Verdict
    reason: str = ""
    plain: ErrorMetrics | None = None
    probed: ErrorMetrics | None = None
    observer_effect: bool = False
    noise_floor: float | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """One question asked of a culprit: ``error`` is max |result - reference| there.

    ``error`` is None when the experiment could not run; the reading then says why.
    """

    name: str
    error: float | None
    reading: str

    def __str__(self) -> str:
        figure = "" if self.error is None else f" (max |error| {self.error:.3g})"
        return f"{self.name}: {self.reading}{figure}"


@dataclass(frozen=True, slots=True)
class Culprit:
    """A place where error is introduced, with its cause as far as it is known.

    ``op`` is the ONNX operator, ``operation`` the torch function of the user's ``source`` line.
    ``output_share`` is the share of the model outputs' error that disappears when the reference is
    fed in at this tap alone: 1 where it is the only root, near 0 where later layers forget it.
    ``repro`` is the bundle's folder inside the saved report.
    """

    tap: str
    module: str
    op: str
    cause: str
    confidence: str  # "high", "medium" or "low"
    evidence: tuple[str, ...]
    advice: str
    onnx_nodes: tuple[str, ...]
    source: str | None = None  # "file.py:42"
    repro: str | None = None
    source_line: str | None = None  # the text of that line
    operation: str = ""
    experiments: tuple[Experiment, ...] = ()
    output_share: float | None = None


@dataclass(frozen=True, slots=True)
class SensitivityRow:
    """One layer that the file computes at a lower precision than the model does, and what that costs.

    The levels are SQNRs in dB: of what the layer introduces by itself, and of all up to it. ``output_share``
    is the share of the worst output's squared error that this layer's own error makes; it can be a little
    below 0 where errors cancel, and is None where it was not measured. ``nodes`` are the names of the
    ONNX nodes to leave out of the conversion.
    """

    tap: str
    module: str
    op: str
    precision: str
    introduced_db: float
    propagated_db: float | None = None
    output_share: float | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many taps were compared, and why the others were not (reason -> number of taps)."""

    compared: int
    not_compared: int
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Glance:
    """One tap of one of several candidates, in brief."""

    verdict: Verdict
    introduced_max_abs: float | None = None
    noise_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class CandidateRow:
    """One of several candidates that were compared with one reference: a backend, or the file after a pass.

    ``culprit`` and ``cause`` are those of its first culprit, ``output_error`` is max |error| of its outputs.
    ``aligned`` is None for one that could not be compared, and ``reason`` says why; of another it says what
    of it could not be. ``layers`` says of each tap what became of it.
    """

    name: str
    aligned: bool | None
    compared: int = 0
    taps: int = 0
    culprit: str | None = None
    cause: str | None = None
    worst_tap: str | None = None
    worst_ratio: float | None = None
    output_error: float | None = None
    reason: str = ""
    layers: Mapping[str, Glance] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One sample of a data set.

    ``aligned`` is None for one that could not be compared, and ``reason`` says why; of an aligned one it
    says what is worth a note. ``tap`` is the first that introduces error or, where none does, the first
    that differs; ``worst_ratio`` the largest noise ratio, at ``worst_tap``. ``output_error`` is the largest
    max |error| of an output. ``shapes``: input -> its shape.
    """

    name: str
    aligned: bool | None
    tap: str | None = None
    worst_tap: str | None = None
    worst_ratio: float | None = None
    output_error: float | None = None
    reason: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Range:
    """A figure over samples: its mean, its largest value, and the sample that has it."""

    mean: float
    worst: float
    worst_sample: str


@dataclass(frozen=True, slots=True)
class Spread:
    """One tap over the samples of a data set in which it was compared: ``compared`` of them.

    In ``differs`` of them its value is not the reference's, in ``introduces`` of them its own segment
    is to blame. ``propagated`` and ``introduced`` are of max |error|; a figure is None where it was never
    measured. ``noise_ratio`` is an upper bound for samples that no noise floor had to be measured for.
    """

    tap: str
    compared: int
    differs: int
    introduces: int
    propagated: Range | None = None
    introduced: Range | None = None
    noise_ratio: Range | None = None


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything a report says; renderers take this and nothing else."""

    aligned: bool
    culprits: Sequence[Culprit]
    layers: Sequence[LayerRow]
    outputs: Sequence[OutputRow]
    coverage: Coverage
    notes: Sequence[str] = ()
    histograms: Sequence[ErrorHistogram] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds
    candidates: Sequence[CandidateRow] = ()  # where several were compared; the report shows one of them
    sensitivity: Sequence[SensitivityRow] = ()  # of a file in lower precision, the most costly layer first
    samples: Sequence[SampleRow] = ()  # of a data set; the report shows one of them, its settings say which
    spreads: Sequence[Spread] = ()  # a data set's figures per tap
    # inputs, written beside the report and no part of its JSON: file name -> input -> array
    kept_inputs: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    # repro bundles, written beside the report and no part of its JSON: folder -> file name -> content
    bundles: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
