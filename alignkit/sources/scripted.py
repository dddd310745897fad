"""TorchScript as a reference: a traced or scripted module, in memory or from a file.

The user's own module is never run and never changed: it is written out and read back, once as it is and
once to be marked (see :mod:`alignkit.sources.marks`). ``torch.jit.load`` builds a module from compiled
code and unpickles tensors, numbers and strings alone, by an unpickler that knows no Python class.
"""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignkit.errors import ModelError, first_line
from alignkit.instrument import Selection, is_instrumented, visit_tap
from alignkit.marker import define_operator
from alignkit.records import Sides, Tap, TapKind
from alignkit.sources.marks import Marks, mark_graph, widen_graph
from alignkit.standin import StandIn, give_signature

_running: list[ScriptSource] = []
"""Whose marked copy is running, innermost last: its taps are those that the operator names."""


class ScriptSource(StandIn):
    """A TorchScript module that shows what its submodules are given and return."""

    sides = Sides("TorchScript", "ONNX")
    exporter = "torchscript"

    def __init__(self, archive: bytes, *, double: bool = False) -> None:
        super().__init__()
        self._archive = archive
        self._double = double
        self._whole: set[str] = set()  # taps that saw whole numbers, which are left unmarked in an export
        self.train(_is_training(self._plain))
        self.type_name = str(getattr(self._plain, "original_name", ""))
        give_signature(self, _signature(self._plain))

    @cached_property
    def _plain(self) -> Any:
        """The module as it is. A cached property: as an attribute it would be a submodule, with hooks."""
        return _load(self._archive)

    @cached_property
    def _marked(self) -> tuple[Any, Marks]:
        module = _load(self._archive)
        marks = mark_graph(module, lambda tap: True)
        if self._double:
            widen_graph(module)
        return module, marks

    @property
    def notes(self) -> tuple[str, ...]:
        """What the report says of the source."""
        found = ["The reference is a TorchScript module; the TorchScript exporter is the one that takes it."]
        if any(tap.id.kind is TapKind.OP for tap in self._marked[1].taps.values()):
            found.append(
                "No calls of modules are left in it (frozen, or exported before): its operators are seen."
            )
        return tuple(found)

    @property
    def untapped(self) -> Mapping[Tap, str]:
        """Tap -> why its value cannot be seen."""
        return self._marked[1].closed

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run a copy: the marked one where an instrument looks on, else the plain one."""
        module = self._marked[0] if is_instrumented() else self._plain
        if _is_training(module) != self.training:
            module.train(self.training)
        self._shown: dict[tuple[Any, ...], Tensor] = {}
        _running.append(self)
        try:
            with _state_kept(module):
                return module(*args, **kwargs)
        finally:
            _running.pop()
            self._shown = {}

    def show(self, name: str, value: Tensor) -> Tensor:
        """Show ``value`` at a mark of the marked copy; what goes on in its place."""
        tap = self._marked[1].taps[name]
        if tap.id.kind is TapKind.OP and not value.is_floating_point():
            self._whole.add(name)
            return value
        # A mark hands on a view: what several taps saw is one tensor all the same.
        content = value.data_ptr(), value.shape, value.stride(), value.dtype, value._version
        known = self._shown.setdefault(content, value)
        shown = visit_tap(tap, known)
        return value if shown is known else shown

    def to_export(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], selection: Selection | None
    ) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
        """A copy for the TorchScript exporter, which takes positional arguments alone."""
        bound = inspect.signature(self.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        module = _load(self._archive)
        if selection is not None:
            mark_graph(module, lambda tap: selection.wants(tap) and str(tap.id) not in self._whole)
        return module, tuple(bound.arguments.values()), {}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own parameters and buffers."""
        return self._plain.state_dict(*args, **kwargs)

    def double(self) -> ScriptSource:
        """This source, computing in float64."""
        return ScriptSource(self._archive, double=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptSource:
        return ScriptSource(self._archive, double=self._double)


def open_script(module: torch.jit.ScriptModule) -> ScriptSource:
    """A module in memory. Raises :class:`ModelError` where it cannot be written out."""
    buffer = io.BytesIO()
    try:
        torch.jit.save(module, buffer)
    except RuntimeError as error:
        raise ModelError(f"the TorchScript module cannot be copied: {first_line(error)}.") from error
    return ScriptSource(buffer.getvalue())


def open_script_file(path: Path) -> ScriptSource:
    """A file that ``torch.jit.save`` wrote. Raises :class:`ModelError` where it cannot be read."""
    try:
        return ScriptSource(path.read_bytes())
    except (RuntimeError, OSError) as error:
        raise ModelError(
            f"{path} cannot be loaded as TorchScript ({first_line(error)}). Save it again (torch.jit.save)."
        ) from error


def _load(archive: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that TorchScript is, its users know
        return torch.jit.load(io.BytesIO(archive))  # type: ignore[no-untyped-call]


def _is_training(module: Any) -> bool:
    return bool(getattr(module, "training", False))  # a frozen module has lost the flag


def _signature(module: Any) -> inspect.Signature:
    """The forward's own, from its schema."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    empty = inspect.Parameter.empty
    arguments = module.forward.schema.arguments[1:]
    return inspect.Signature(
        [
            inspect.Parameter(a.name, kind, default=a.default_value if a.has_default_value() else empty)
            for a in arguments
        ]
    )


@contextmanager
def _state_kept(module: Any) -> Iterator[None]:
    """The next run starts from the same buffers."""
    before = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, saved in before:
                buffer.copy_(saved)


def _tap(value: Tensor, name: str) -> Tensor:
    """The operator at a mark. Its result is a view, so that writing into either shows in both."""
    # While an exporter runs or traces a copy, nobody looks on.
    shown = _running[-1].show(name, value) if _running else value
    return value.view_as(value) if shown is value else shown


_library = define_operator("tap(Tensor(a) x, str name) -> Tensor(a)", _tap)
