"""Runs that show their values by name: an ONNX file in ONNX Runtime, or a dump of a run elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor

from alignkit.backends import OnnxRuntime
from alignkit.binding import NamedArray, bind_inputs
from alignkit.dump import About, Dump, DumpedTap, read_dump
from alignkit.dump.files import tap_key
from alignkit.dump.graph import capture_graph, values_by_tap
from alignkit.dump.records import FULL
from alignkit.errors import InputError
from alignkit.graph import graph_inputs, load_graph
from alignkit.instrument import is_instrumented, visit_tap
from alignkit.paths import told_apart
from alignkit.records import ROOT, Array, Sides, Tap, TapId, TapKind
from alignkit.sources.evaluated import OnnxTwin
from alignkit.standin import StandIn, give_signature
from alignkit.tensors import to_numpy, to_torch

_TAKES_NAMES = inspect.Signature([inspect.Parameter("inputs", inspect.Parameter.VAR_KEYWORD)])
_LIKE = torch.empty(0)


class OnnxSource(StandIn):
    """An ONNX file in ONNX Runtime, graph optimisation off: a tap per floating value, by its ONNX name."""

    def __init__(self, path: Path, settings: OnnxRuntime) -> None:
        super().__init__()
        self._path = path
        self._settings = settings
        self._model = load_graph(path)
        self.inputs = graph_inputs(self._model)
        self._name_sides(Sides(path.name, "ONNX"))
        give_signature(self, _TAKES_NAMES)
        self.eval()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report says of the source."""
        return (f"The reference is {self.sides.reference} in ONNX Runtime, graph optimisation off.",)

    def name_beside(self, deployed: Path) -> None:
        """Call both files by names that tell them apart."""
        self._name_sides(Sides(*told_apart(self._path, deployed)))

    def _name_sides(self, sides: Sides) -> None:
        self.sides = sides
        name = sides.reference
        self.fixed = f"{name} is an ONNX graph, with no code that could be run otherwise or exported"

    def fit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs by name; those given by position in the graph's order."""
        if not kwargs and len(args) == 1 and isinstance(args[0], Mapping):
            return self.fit((), args[0])
        if len(args) > len(self.inputs):
            raise InputError(f"{self._path} takes {len(self.inputs)} inputs, {len(args)} are given.")
        named = {**dict(zip(self.inputs, args, strict=False)), **kwargs}
        for name, value in named.items():
            if not isinstance(value, (Tensor, np.ndarray)):
                raise InputError(f"the input {name!r} of {self._path} is no tensor: give an array.")
        leaves = [NamedArray(n, to_numpy(torch.as_tensor(value))) for n, value in named.items()]
        feeds, lost = bind_inputs(self.inputs, leaves)
        if lost:
            raise InputError(f"{self._path} has no input {lost[0]!r}; it takes {', '.join(self.inputs)}.")
        return (), {name: to_torch(value, _LIKE) for name, value in feeds.items()}

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The file's outputs; its values are shown on the way where an instrument looks on."""
        feeds = {name: to_numpy(value) for name, value in inputs.items()}
        about, found = capture_graph(self._path, feeds, self._settings, tier=FULL)
        wanted = {tap_key(name) for name in about.outputs}
        arrays = {key: array for key, array in found if is_instrumented() or key in wanted}
        return _show(about, arrays)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The file's weights by name."""
        tensors = self._model.graph.initializer
        arrays = ((tensor.name, numpy_helper.to_array(tensor, str(self._path.parent))) for tensor in tensors)
        return {name: to_torch(array, _LIKE) for name, array in arrays if _is_torchs(array)}

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxTwin:
        """The twin that a float64 run is made of."""
        return OnnxTwin(*values_by_tap(self._path))


class DumpSource(StandIn):
    """A dump of one run: every tap by the name it has there, on the inputs stored with it."""

    def __init__(self, dump: Dump) -> None:
        super().__init__()
        self._dump = dump
        self.sides = Sides(_producer(dump), "ONNX")
        self.fixed = f"{dump.path.name} holds one run's values, with no code that could be run or exported"
        give_signature(self, _TAKES_NAMES)
        self.eval()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report says of the source."""
        about = self._dump.about
        made = ", ".join(filter(None, (about.producer, about.origin)))
        notes = [f"The reference is the dump {self._dump.path.name}" + (f" ({made})." if made else ".")]
        if not self._outputs:
            notes.append("The dump does not say which of its taps the model returns: no output was compared.")
        return (*notes, *about.notes)

    @property
    def _outputs(self) -> list[str]:
        taps = self._dump.taps
        return [name for name in self._dump.about.outputs if not taps[name].absent]

    @property
    def untapped(self) -> Mapping[Tap, str]:
        """Tap -> why the dump has no value for it."""
        taps = self._dump.taps.values()
        return {_tap(entry): entry.absent for entry in taps if entry.absent}

    def stored_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What the dumped run was fed."""
        entries = {name: entry for name, entry in self._dump.inputs.items() if not entry.absent}
        if not entries:
            return None
        return (), {name: to_torch(self._dump.tensor(entry), _LIKE) for name, entry in entries.items()}

    def fit(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The stored inputs; others only where the dump has none, since its values belong to its own."""
        stored = self.stored_inputs()
        if stored is None:
            if args:
                raise InputError(
                    f"{self._dump.path} names no inputs: give them by the deployed file's names."
                )
            return (), {name: torch.as_tensor(value) for name, value in kwargs.items()}
        given = {**dict(zip(stored[1], args, strict=False)), **kwargs}
        for name, value in given.items():
            if not isinstance(value, (Tensor, np.ndarray)):
                raise InputError(
                    f"the input {name!r} for {self._dump.path} is no tensor; give an array for it."
                )
        for name, value in given.items():
            own = stored[1].get(name)
            if own is None or not np.array_equal(to_numpy(torch.as_tensor(value)), to_numpy(own)):
                raise InputError(
                    f"{self._dump.path} was made of other inputs than are given; leave them out."
                )
        return stored

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        """The dumped outputs; all values are shown on the way where an instrument looks on."""
        taps = self._dump.taps.values()
        wanted = [e for e in taps if not e.absent and (is_instrumented() or e.name in self._outputs)]
        arrays = {entry.tensor: self._dump.tensor(entry) for entry in wanted}
        return _show(self._dump.about, arrays, self._dump.taps)

    def double(self) -> DumpSource:
        """There is nothing to compute. Raises :class:`InputError`."""
        raise InputError(self.fixed)

    def __deepcopy__(self, memo: dict[int, Any]) -> DumpSource:
        return self


def open_onnx(path: Path, settings: OnnxRuntime) -> OnnxSource:
    """The file at ``path`` as a reference. Raises :class:`OnnxFileError`."""
    unoptimised = OnnxRuntime(
        optimization="disable", threads=settings.threads, custom_op_libraries=settings.custom_op_libraries
    )
    return OnnxSource(path, unoptimised)


def open_dump(path: Path) -> DumpSource:
    """A full dump as a reference. Raises :class:`InputError` for one that holds statistics alone."""
    dump = read_dump(path)
    if not dump.is_full:
        raise InputError(
            f"{path} holds statistics alone, which nothing can be fed with: capture it again without "
            "--stats, or compare it with another dump (alignkit diff)."
        )
    return DumpSource(dump)


def _producer(dump: Dump) -> str:
    """In a report: PyTorch, another producer by its name, or the file."""
    producer = dump.about.producer
    return "PyTorch" if producer == "eager PyTorch" else producer or dump.path.name


def _show(
    about: About, arrays: Mapping[str, Array], found: Mapping[str, DumpedTap] | None = None
) -> tuple[Tensor, ...]:
    """Show every tap that has an array, one tensor for those that share one; give the outputs."""
    tensors: dict[str, Tensor] = {}
    outputs = {}
    for entry in about.taps:
        entry = (found or {}).get(entry.name, entry)
        key = entry.tensor or tap_key(entry.name)
        if entry.absent or key not in arrays or not _is_torchs(arrays[key]):
            continue
        if key not in tensors:
            tensors[key] = to_torch(arrays[key], _LIKE)
        if entry.name in about.outputs:
            outputs[entry.name] = tensors[key]
        tap = _tap(entry)
        if is_instrumented() and _is_shown(tap, arrays[key]):
            visit_tap(tap, tensors[key])
    return tuple(outputs[name] for name in about.outputs if name in outputs)


def _is_torchs(array: Array) -> bool:
    return array.dtype.kind in "fiubc" or array.dtype.name == "bfloat16"


def _is_shown(tap: Tap, array: Array) -> bool:
    """The root is seen by its hooks; integers between are shapes and indices, of which many are alike."""
    if tap.id.path == ROOT and tap.id.kind in (TapKind.INPUT, TapKind.MODULE):
        return False
    return tap.id.kind is not TapKind.EXPLICIT or array.dtype.kind not in "iub"


def _tap(entry: DumpedTap) -> Tap:
    identity = TapId.parse(entry.name)
    # A value that belongs to no module is the place that it names itself.
    owner = entry.owner or (entry.name if identity.kind is TapKind.EXPLICIT else identity.path)
    return Tap(identity, entry.module_type or entry.op, owner, entry.source)
