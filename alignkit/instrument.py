"""Instrument: choose taps and attach them to a model with forward hooks.

Operations inside a module's own forward are tapped by a mode, see :mod:`alignkit.operations`, which
the same hooks switch on and off.

A *visitor* is called with every tap as its value passes; what it returns takes the value's
place. The same hooks therefore record (capture), mark (export) and substitute (noise floor).
The hooks exist only while the :class:`Instrument` is entered.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import FrameType, TracebackType
from typing import Any

from torch import Tensor, nn

from alignkit.aliasing import put
from alignkit.arguments import input_order
from alignkit.errors import ModelError, TapError
from alignkit.operations import Operation, OperationMode, OperationScope, Register, unobserved
from alignkit.records import ROOT, Source, Tap, TapId, TapKind
from alignkit.selection import (
    Followed,
    Selection,
    fast_path_modules,
    followed_modules,
    may_notice_hooks,
    scripted_modules,
    select_modules,
)
from alignkit.source import SourceFinder
from alignkit.standin import StandIn
from alignkit.tensors import map_tensors, tensor_leaves, tensor_places

__all__ = [
    "Instrument",
    "Selection",
    "Visitor",
    "explicit_tap",
    "fast_path_modules",
    "is_instrumented",
    "may_notice_hooks",
    "require_plain_module",
    "scripted_modules",
    "select_modules",
    "tap_explicit",
    "visit_tap",
]

Visitor = Callable[[Tap, Tensor], Tensor]

_entered: list[Instrument] = []
"""The instruments that are active, innermost last: an explicit tap goes to the innermost."""


def tap_explicit(value: Tensor, name: str) -> Tensor | None:
    """Hand ``value`` to the active instrument under ``name``; None when none is active."""
    return _entered[-1].tap(value, name) if _entered else None


def is_instrumented() -> bool:
    """Whether an instrument is active."""
    return bool(_entered)


def visit_tap(tap: Tap, value: Tensor) -> Tensor:
    """Show ``value`` to the active instrument, which has no hook there; what is to go on in its place."""
    return _entered[-1].visit(tap, value) if _entered else value


def _is_writable(value: Tensor) -> bool:
    """Whether torch surely lets a forward write into ``value`` in place (not into every view)."""
    return not (value._is_view() or (value.is_leaf and value.requires_grad) or 0 in value.stride())


def explicit_tap(name: str, owner: str = ROOT) -> Tap:
    """The tap of ``debug(x, name)``. Raises :class:`TapError` for a name that a module tap has."""
    if not name or TapId.parse(name).kind is not TapKind.EXPLICIT:
        raise TapError(f"{name!r} cannot name a tap: it is empty or reads like a module's tap.")
    return Tap(TapId(name, kind=TapKind.EXPLICIT), "", owner)


@dataclass(slots=True)
class _Call:
    """One running call of one module."""

    path: str
    index: int
    type_name: str
    module: nn.Module
    source: Source | None
    scope: OperationScope | None  # where its operations are tapped
    resume: int | None  # where the caller's mode stood, to be put back
    swapped: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)


def _pass_on(tap: Tap, value: Tensor) -> Tensor:
    return value


class Instrument:
    """Attach taps on entry, remove them on exit, whatever happened between.

    With ``sources`` each tap tells the line of the user's code that called the module or function.
    ``known`` are the taps of another run with sources: the same operations get the same names, and
    those that it did not see are not tapped.

    Raises :class:`ModelError` for wrappers that run replicas of the model, and :class:`TapError`
    when the selection matches no module.
    """

    def __init__(
        self,
        model: nn.Module,
        selection: Selection,
        visit: Visitor,
        *,
        sources: bool = False,
        known: Mapping[str, Tap] | None = None,
    ) -> None:
        require_plain_module(model)
        self._visit = visit
        self._selection = selection
        self._followed = followed_modules(model, selection)
        register = Register(known.values()) if known is not None else None
        self._finder = SourceFinder() if sources or register else None
        self._mode = OperationMode(self._visit_operation, self._finder, register)
        self._calls: list[_Call] = []
        self._counts: dict[str, int] = {}
        self._explicit: set[str] = set()
        self._hooks = ExitStack()

    def __enter__(self) -> Instrument:
        try:
            for followed in self._followed:
                self._attach(followed)
        except BaseException:
            self._hooks.close()
            raise
        _entered.append(self)
        self._hooks.callback(_entered.remove, self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hooks.close()
        self._mode.leave()
        # The mode refers back to here and the finder to a frame: what a visitor recorded must not wait
        # for the garbage collector.
        self._visit = _pass_on
        if self._finder is not None:
            self._finder.until = None

    def tap(self, value: Tensor, name: str) -> Tensor:
        """An explicit tap. Raises :class:`TapError` when one forward uses a name twice."""
        tap = explicit_tap(name, self._calls[-1].path if self._calls else ROOT)
        if name in self._explicit:
            raise TapError(f"the tap name {name!r} is used twice in one forward; give each its own name.")
        self._explicit.add(name)
        with unobserved():
            return self._visit(replace(tap, source=self._source(sys._getframe(1))), value)

    def visit(self, tap: Tap, value: Tensor) -> Tensor:
        """A tap of a stand-in's own, if it is among the selected."""
        if not self._selection.wants(tap):
            return value
        with unobserved():
            return self._visit(tap, value)

    def _attach(self, followed: Followed) -> None:
        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            return self._before(followed, args, kwargs)

        def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
            return self._after(followed, result)

        module = followed.module
        self._hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        # Called after an exception as well: the caller may catch it and go on.
        handle = module.register_forward_hook(after, with_kwargs=True, always_call=True)
        self._hooks.callback(handle.remove)

    def _before(self, followed: Followed, args: Any, kwargs: Any) -> Any:
        path, module = followed.path, followed.module
        if path == ROOT and not any(call.path == ROOT for call in self._calls):
            self._begin()
            if self._finder is not None:
                self._finder.until = sys._getframe(2)
        resume = self._mode.leave()
        self._sync()
        source = self._source(sys._getframe(2), module)
        index = self._counts.get(path, 0)
        self._counts[path] = index + 1
        scope = OperationScope(path, index, module) if followed.opened else None
        call = _Call(path, index, _type_name(module), module, source, scope, resume)
        self._calls.append(call)
        try:
            return self._swap(call, args, kwargs) if followed.tapped and self._selection.inputs else None
        finally:
            if scope is not None:
                self._mode.enter(scope)

    def _swap(self, call: _Call, args: Any, kwargs: Any) -> Any:
        """Visit what the module is given; None when it is given just that."""
        # By their place among all arguments: where an export passes a mask that eager leaves out, the
        # others keep their names.
        is_root = call.path == ROOT
        order = input_order(call.module, args, kwargs) if is_root else tensor_places((args, kwargs))
        mapped = self._map(call, TapKind.INPUT, (args, kwargs), order)
        call.swapped = [
            (old, new, new._version)
            for old, new in zip(tensor_leaves((args, kwargs)), tensor_leaves(mapped), strict=True)
            if new is not old
        ]
        return mapped if call.swapped else None

    def _after(self, followed: Followed, result: Any) -> Any:
        call = self._finish(followed.module)
        self._sync()
        try:
            return self._hand_back(call, result) if followed.tapped else None
        finally:
            self._sync()
            if call.resume is not None and (scope := self._scope()) is not None:
                self._mode.enter(scope, call.resume)

    def _hand_back(self, call: _Call, result: Any) -> Any:
        """Visit what the module returns; None when it returns just that."""
        mapped = self._map(call, TapKind.MODULE, result)
        tapped = dict(zip(map(id, tensor_leaves(result)), tensor_leaves(mapped), strict=True))
        held = {}
        for old, new, version in call.swapped:
            # The module wrote into its input in place, or returned that very tensor, into which the
            # caller may write: the caller must see either in the tensor that it holds.
            value = tapped.get(id(new), new)
            if value is not new and _is_writable(old):
                held[id(value)] = old
            if new._version != version or id(value) in held:
                put(value, into=old)
            if new._version == version and (scope := self._scope()) is not None:
                scope.copies.settle(old)
        if held:
            mapped = map_tensors(lambda value: held.get(id(value), value), mapped)
        return None if mapped is result else mapped

    def _sync(self) -> None:
        """What was written into a value or the copy that stands for it must be seen in both."""
        if (scope := self._scope()) is not None:
            scope.copies.sync()

    def _scope(self) -> OperationScope | None:
        """The innermost running call, if its operations are tapped."""
        return self._calls[-1].scope if self._calls else None

    def _source(self, frame: FrameType, callee: object = None) -> Source | None:
        return None if self._finder is None else self._finder.find(frame, callee)

    def _caller(self) -> str:
        """The module whose forward called the innermost one."""
        return self._calls[-2].path if len(self._calls) > 1 else ROOT

    def _begin(self) -> None:
        """A new run of the whole model: what an exception left behind is forgotten."""
        self._calls.clear()
        self._counts.clear()
        self._explicit.clear()
        self._mode.leave()
        self._mode.begin()
        begin = getattr(self._visit, "begin", None)
        if begin is not None:
            begin()

    def _finish(self, module: nn.Module) -> _Call:
        """Close the innermost call of ``module`` and those inside it that ended by an exception."""
        self._mode.leave()
        while True:
            self._sync()
            call = self._calls.pop()
            if call.module is module:
                return call

    def _map(self, call: _Call, kind: TapKind, tree: Any, order: Sequence[int] | None = None) -> Any:
        """Visit the tensors of ``tree``; ``order`` renumbers them."""
        positions = itertools.count()
        owner = call.path if kind is TapKind.MODULE else self._caller()

        def visit(value: Tensor) -> Tensor:
            position = next(positions)
            index = position if order is None else order[position]
            tap = Tap(TapId(call.path, call.index, index, kind), call.type_name, owner, call.source)
            with unobserved():
                return self._visit(tap, value)

        return map_tensors(visit, tree)

    def _visit_operation(self, operation: Operation, index: int, value: Tensor) -> Tensor:
        call = self._calls[-1]
        tap = TapId(call.path, call.index, index, TapKind.OP, operation.name, operation.number)
        return self._visit(Tap(tap, call.type_name, call.path, operation.source), value)


def _type_name(module: nn.Module) -> str:
    """The module's class, that of the original where it was unflattened from an exported program."""
    if isinstance(module, StandIn):
        return module.type_name
    unflattened = type(module).__module__ == "torch.export.unflatten"
    original = module.type_name() if unflattened and hasattr(module, "type_name") else None  # type: ignore[operator]
    return str(original).rpartition(".")[2] if original else type(module).__name__


def require_plain_module(model: object) -> None:
    """Raises :class:`ModelError` for what is no module, and for wrappers that run replicas of one."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ModelError(f"the model is wrapped in {type(model).__name__}: pass model.module instead.")
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model must be a torch.nn.Module, not {type(model).__name__}.")
