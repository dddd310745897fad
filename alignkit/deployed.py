"""The file as deployed: what it is fed, and what its outputs are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from alignkit.arguments import named_arguments
from alignkit.backends import Backend, KernelError, OnnxRuntime, Session
from alignkit.binding import NamedArray, bind_inputs
from alignkit.errors import BackendError
from alignkit.graph import MarkedGraph, graph_inputs, load_without_weights
from alignkit.records import ROOT, Array, TapId, TapKind
from alignkit.settings import Files, Sample
from alignkit.tensors import to_numpy

NOT_RUNNING = "The file as deployed does not run"
"""How the note begins that says why."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """What the file as deployed gave: its outputs in order, or why there are none."""

    outputs: tuple[Array | None, ...] | None
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failure: str = ""


@dataclass(slots=True)
class DeployedFile:
    """The file as deployed, ready to be run; ``reuse`` keeps its session for the next sample."""

    files: Files
    backend: Backend
    reuse: bool = False
    _ready: tuple[Mapping[str, Any], Session] | None = None

    def run(self, leaves: list[NamedArray], marked: MarkedGraph, *, twice: bool = True) -> Deployed:
        """The outputs for one sample; run ``twice``, since a run can be stateful."""
        if self.files.plain is None:
            note = "The file was compared through its taps only; it was not run as deployed."
            return Deployed(None, notes=(note,))
        inputs = self._ready[0] if self._ready else graph_inputs(load_without_weights(self.files.plain))
        feeds = _bind(inputs, leaves, marked)
        try:
            session = self._ready[1] if self._ready else self.backend.open(self.files.plain)
            self._ready = (inputs, session) if self.reuse else None
            first = session.run(feeds)
            second = session.run(feeds) if twice else {}
        except BackendError as error:
            if self.files.plain_given:
                raise
            return _without_outputs(error, self.files.plain, feeds)
        notes = []
        if any(
            first[name].tobytes() != value.tobytes() for name, value in second.items() if _is_array(value)
        ):
            notes.append("Two runs of the deployed file on the same input differ: it is random or stateful.")
        outputs = tuple(value if _is_array(value) else None for value in first.values())
        return Deployed(outputs, tuple(first), tuple(notes))


def _without_outputs(error: BackendError, plain: Path, feeds: Mapping[str, Array]) -> Deployed:
    note = f"{NOT_RUNNING}: {error}"
    if not isinstance(error, KernelError) or error.conclusive:
        return Deployed(None, notes=(note,), failure=note)
    if error.while_running and _fails_elsewhere(plain, feeds):
        note += "; ONNX Runtime cannot run it, either"
        return Deployed(None, notes=(note,), failure=note)
    return Deployed(None, notes=(note,))


def _fails_elsewhere(plain: Path, feeds: Mapping[str, Array]) -> bool:
    """Whether a failure that may be the backend's own is the file's: ONNX Runtime meets one as well."""
    try:
        OnnxRuntime().open(plain).run(feeds)
    except KernelError as error:
        return error.conclusive
    except BackendError:
        return True
    return False


def deployed_feeds(plain: Path, leaves: list[NamedArray], marked: MarkedGraph) -> Mapping[str, Array]:
    """The inputs of the file at ``plain`` by name; those of the marked file tell which tensor is which."""
    return _bind(graph_inputs(load_without_weights(plain)), leaves, marked)


def _bind(inputs: Mapping[str, Any], leaves: list[NamedArray], marked: MarkedGraph) -> Mapping[str, Array]:
    by_tap = inputs_by_tap(marked) if inputs.keys() == marked.inputs.keys() else None
    return bind_inputs(inputs, leaves, by_tap)[0]


def _is_array(value: object) -> bool:
    return hasattr(value, "tobytes")


def candidate_leaves(model: nn.Module, sample: Sample) -> list[NamedArray]:
    """The tensors that the deployed side is fed, by name."""
    args, kwargs = sample.candidate or (sample.args, sample.kwargs)
    arguments = named_arguments(model, args, kwargs)
    own = dict(named_arguments(model, sample.args, sample.kwargs))
    tensors = [
        NamedArray(name, to_numpy(_as_read(value, own.get(name))))
        for name, value in arguments
        if isinstance(value, Tensor)
    ]
    numbers = [
        NamedArray(name, np.asarray(value), optional=True)
        for name, value in arguments
        if not isinstance(value, Tensor)
    ]
    return [*tensors, *numbers]  # in this order: input taps count the tensors alone


def _as_read(value: Tensor, own: object) -> Tensor:
    """Numbers of another precision reach the graph in the one it declares, and are judged at that."""
    floating = isinstance(own, Tensor) and own.is_floating_point() and value.is_floating_point()
    return value.to(own.dtype) if floating and isinstance(own, Tensor) else value


def inputs_by_tap(marked: MarkedGraph) -> dict[str, int]:
    """Graph input -> index of the argument that the root's input tap saw there."""
    found = {}
    for debug in marked.debugs:
        tap = TapId.parse(debug.tap)
        if tap.path == ROOT and tap.kind is TapKind.INPUT and tap.call == 0:
            found[debug.inflow] = tap.index
    return found
