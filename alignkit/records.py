"""The data that travels through the pipeline: frozen, without behaviour beyond naming.

Every stage takes records and adds one of its own; none fills in blanks of an earlier one.
Arrays are numpy arrays here, so that nothing downstream of the capture needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

ROOT = "(model)"
"""How the root module, whose path is the empty string, is shown."""


class TapKind(str, Enum):
    """What a tap observes."""

    MODULE = "module"  # a value that a module's forward returned
    INPUT = "input"  # a value that a module's forward was given
    OP = "op"  # a value that a torch function returned inside a module's forward
    EXPLICIT = "explicit"  # a value that the user named with debug(x, "name")


class Verdict(str, Enum):
    """What the comparison says of one tap."""

    OK = "ok"
    INTRODUCED = "introduced"  # wrong although everything its segment read was right
    PROPAGATED = "propagated"  # wrong because of what came before
    MISSING = "missing"  # on one side only
    SHAPE = "shape"
    DTYPE = "dtype"
    NONFINITE = "nonfinite"  # NaN or Inf on one side only
    SKIPPED = "skipped"  # could not be compared; the reason says why

    @property
    def is_ok(self) -> bool:
        return self is Verdict.OK

    @property
    def was_compared(self) -> bool:
        return self not in (Verdict.MISSING, Verdict.SKIPPED)


_PATH, _NUMBER = r"(?P<path>(?:[^#]|##)+)", r"0|[1-9][0-9]*"
_MODULE_TAP = re.compile(rf"{_PATH}#(?P<call>{_NUMBER})(?P<input>:in)?\[(?P<index>{_NUMBER})\]")
_OP_TAP = re.compile(
    rf"{_PATH}#(?P<call>{_NUMBER})/(?P<op>[^#]+)#(?P<op_call>{_NUMBER})\[(?P<index>{_NUMBER})\]"
)


@dataclass(frozen=True, slots=True)
class TapId:
    """The identity of a tap, the same in the eager run, in the exported file and in the report.

    ``str()`` gives its name: ``layer1.0.relu#1[0]`` is output 0 of the second call (``#1``) of
    module ``layer1.0.relu``; ``layer1.0.relu#1:in[0]`` is an input of that call;
    ``up#0/interpolate#2[0]`` is the third ``interpolate`` inside it. An explicit tap is its name.
    ``path`` holds the module path (``(model)`` for the root) or the explicit name.
    """

    path: str
    call: int = 0
    index: int = 0
    kind: TapKind = TapKind.MODULE
    op: str = ""
    op_call: int = 0

    def __str__(self) -> str:
        if self.kind is TapKind.EXPLICIT:
            return self.path
        inner = f"/{self.op}#{self.op_call}" if self.kind is TapKind.OP else ""
        port = ":in" if self.kind is TapKind.INPUT else ""
        path = self.path.replace("#", "##")  # so that a module's name cannot read like a call
        return f"{path}#{self.call}{inner}{port}[{self.index}]"

    @classmethod
    def parse(cls, name: str) -> TapId:
        """The inverse of ``str()``; a name of no known form is an explicit tap."""
        if match := _OP_TAP.fullmatch(name):
            return cls(
                match["path"].replace("##", "#"),
                int(match["call"]),
                int(match["index"]),
                TapKind.OP,
                match["op"],
                int(match["op_call"]),
            )
        if match := _MODULE_TAP.fullmatch(name):
            kind = TapKind.INPUT if match["input"] else TapKind.MODULE
            path = match["path"].replace("##", "#")
            return cls(path, int(match["call"]), int(match["index"]), kind)
        return cls(name, kind=TapKind.EXPLICIT)


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
class Source:
    """A line of the user's code: ``location`` is ``file.py:42``, ``text`` the line itself, stripped."""

    location: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap as the eager run met it.

    ``owner`` is the path of the module whose own code made the value: the module itself for what
    it returns, its caller for what it is given.
    """

    id: TapId
    module_type: str
    owner: str = ROOT
    source: Source | None = None  # where the user's code makes the value, where known


@dataclass(frozen=True, slots=True)
class Capture:
    """One eager run. ``values`` maps a tap's name to its array; taps in execution order.

    Taps that saw the same tensor share one array. ``untapped`` holds the reason for taps whose
    value has no array (nested, sparse or quantized tensors). ``outputs`` are the tensor leaves of the
    model's result; ``confirmed``: in a run without hooks. ``random`` are the taps whose own segment
    draws random numbers.
    """

    taps: Mapping[str, Tap]
    values: Mapping[str, Array]
    untapped: Mapping[str, str]
    outputs: tuple[Array, ...]
    notes: tuple[str, ...] = ()
    random: frozenset[str] = frozenset()
    confirmed: bool = True


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
class Coverage:
    """How many taps were compared, and why the others were not (reason -> number of taps)."""

    compared: int
    not_compared: int
    reasons: Mapping[str, int] = field(default_factory=dict)


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
    # repro bundles, written beside the report and no part of its JSON: folder -> file name -> content
    bundles: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
