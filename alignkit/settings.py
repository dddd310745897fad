"""Settings and samples: what a comparison is told, checked before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from alignkit.backends import Backend, OnnxRuntime
from alignkit.budget import Budget, default_budget
from alignkit.instrument import Selection
from alignkit.mapping import TapMapping
from alignkit.records import Tap
from alignkit.tolerance import Tolerances


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a comparison can be told; see :func:`alignkit.compare`."""

    exporter: str = "dynamo"
    export_options: Mapping[str, Any] = field(default_factory=dict)
    run: Backend = field(default_factory=OnnxRuntime)
    candidates: tuple[Backend, ...] = ()  # where there are several: each is ``run`` in its turn
    tolerances: Tolerances = field(default_factory=Tolerances)
    selection: Selection = field(default_factory=Selection)
    noise_floor: bool = True
    pinned: Mapping[str, str] = field(default_factory=dict)  # tap -> ONNX value, as the user knows it
    isolate_export: bool = False  # in a child process: some exports crash the interpreter
    budget: Budget = field(default_factory=default_budget)


@dataclass(frozen=True, slots=True)
class Sample:
    """One set of inputs: what PyTorch is called with, and what the deployed model is fed."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    candidate: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    name: str = ""


def same_inputs(left: Sample, right: Sample) -> bool:
    """Whether the model is called with the same in both, be it in memory of its own."""
    (ours, form), (theirs, other_form) = (tree_flatten((s.args, dict(s.kwargs))) for s in (left, right))
    return form == other_form and all(map(_same_leaf, ours, theirs))


def _same_leaf(left: object, right: object) -> bool:
    if left is right:
        return True
    if not (isinstance(left, Tensor) and isinstance(right, Tensor)):
        return type(left) in (int, float, bool, str) and type(left) is type(right) and left == right
    plain = all(
        one.layout == torch.strided and not one.is_nested and not one.is_quantized for one in (left, right)
    )
    return plain and left.dtype == right.dtype and torch.equal(left, right)


Again = Callable[[Path, Selection, Mapping[str, Tap]], Path]


@dataclass(frozen=True, slots=True)
class Files:
    """``marked`` holds taps; ``plain`` is the file as deployed, None when there is none to run.

    ``again`` exports the tapped model once more, with other taps, which an eager run has met (``known``), and
    returns the path it was given; None where the marked file was not exported here.
    """

    marked: Path
    plain: Path | None
    notes: tuple[str, ...] = ()
    plain_given: bool = False
    example: Sample | None = None  # what the marked file was exported with, where known
    again: Again | None = None
    selection: Selection | None = None  # the taps that the marked file holds, where known
    folder: Path | None = None  # where the marked file's external data lie, if not beside it
    mapping: TapMapping | None = None  # how taps were found in a file that nobody had marked
    doubt: str = ""  # why a given file may not be this model's


def describe_settings(settings: Settings) -> dict[str, Any]:
    """What the report says of the settings."""
    run, tolerances = settings.run, settings.tolerances
    return {
        "exporter": settings.exporter,
        "export_options": {k: repr(v) for k, v in settings.export_options.items()},
        "backend": run.name,
        **run.describe(),
        "rtol": tolerances.rtol,
        "atol": tolerances.atol,
        "tolerances": {k: list(v) for k, v in (tolerances.by_name or {}).items()},
        "noise_floor": settings.noise_floor,
        "include": list(settings.selection.include),
        "exclude": list(settings.selection.exclude),
        "types": list(settings.selection.types),
        "depth": settings.selection.depth,
        "granularity": settings.selection.granularity,
        "max_bytes": settings.budget.total if settings.budget.given else None,
    }
