"""Instrument: choose taps and attach them to a model with forward hooks.

A *visitor* is called with every tap as its value passes; what it returns takes the value's
place. The same hooks therefore record (capture), mark (export) and substitute (noise floor).
The hooks exist only while the :class:`Instrument` is entered.
"""

from __future__ import annotations

import fnmatch
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.errors import ModelError, TapError
from alignkit.records import ROOT, Tap, TapId, TapKind
from alignkit.tensors import labelled_leaves, map_tensors, tensor_leaves

Visitor = Callable[[Tap, Tensor], Tensor]

_FUSED_IN_EAGER = (nn.TransformerEncoderLayer,)
"""Modules whose forward takes another kernel (the fast path) unless it finds no hook inside itself."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which modules are tapped.

    ``include`` and ``exclude`` match module paths: shell globs (``layer1.*``), or regular
    expressions behind ``re:``. ``types`` names module classes (``Conv2d``). ``depth`` bounds the
    number of dots: 1 keeps the root's children. The root is always tapped: its values are the
    model's inputs and outputs. Modules in ``outside`` are seen from outside only.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    depth: int | None = None
    inputs: bool = True
    outside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*self.include, *self.exclude):
            _compile(pattern)

    def selects(self, path: str, module: nn.Module) -> bool:
        if not path:
            return True
        return (
            (self.depth is None or path.count(".") < self.depth)
            and (not self.include or _matches(path, self.include))
            and not _matches(path, self.exclude)
            and (not self.types or _has_type(module, self.types))
        )


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(_compile(pattern).fullmatch(path) for pattern in patterns)


def _compile(pattern: str) -> re.Pattern[str]:
    if not pattern.startswith("re:"):
        return re.compile(fnmatch.translate(pattern))
    try:
        return re.compile(pattern[3:])
    except re.error as error:
        raise TapError(f"selection {pattern!r} is no regular expression: {error}.") from error


def _has_type(module: nn.Module, types: Sequence[str]) -> bool:
    return any(cls.__name__ in types for cls in type(module).__mro__)


_entered: list[Instrument] = []
"""The instruments that are active, innermost last: an explicit tap goes to the innermost."""


def tap_explicit(value: Tensor, name: str) -> Tensor | None:
    """Hand ``value`` to the active instrument under ``name``; None when none is active."""
    return _entered[-1].tap(value, name) if _entered else None


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
    module: nn.Module
    swapped: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)


class Instrument:
    """Attach taps on entry, remove them on exit, whatever happened between.

    Raises :class:`ModelError` for wrappers that run replicas of the model, and
    :class:`TapError` when the selection matches no module.
    """

    def __init__(self, model: nn.Module, selection: Selection, visit: Visitor) -> None:
        require_plain_module(model)
        self._visit = visit
        self._selection = selection
        self._modules = select_modules(model, selection)
        self._calls: list[_Call] = []
        self._counts: dict[str, int] = {}
        self._explicit: set[str] = set()
        self._hooks = ExitStack()

    def __enter__(self) -> Instrument:
        try:
            for path, module in self._modules:
                self._attach(path or ROOT, module)
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

    def tap(self, value: Tensor, name: str) -> Tensor:
        """An explicit tap. Raises :class:`TapError` when one forward uses a name twice."""
        tap = explicit_tap(name, self._calls[-1].path if self._calls else ROOT)
        if name in self._explicit:
            raise TapError(f"the tap name {name!r} is used twice in one forward; give each its own name.")
        self._explicit.add(name)
        return self._visit(tap, value)

    def _attach(self, path: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            return self._before(path, module, args, kwargs)

        def after(module: nn.Module, args: Any, kwargs: Any, result: Any) -> Any:
            return self._after(module, result)

        self._hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        # Called after an exception as well: the caller may catch it and go on.
        handle = module.register_forward_hook(after, with_kwargs=True, always_call=True)
        self._hooks.callback(handle.remove)

    def _before(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if path == ROOT and not any(call.path == ROOT for call in self._calls):
            self._begin()
        call = _Call(path, self._counts.get(path, 0), module)
        self._counts[path] = call.index + 1
        self._calls.append(call)
        if not self._selection.inputs:
            return None
        order = input_order(module, args, kwargs) if path == ROOT else None
        mapped = self._map(call, TapKind.INPUT, (args, kwargs), order)
        call.swapped = [
            (old, new, new._version)
            for old, new in zip(tensor_leaves((args, kwargs)), tensor_leaves(mapped), strict=True)
            if new is not old
        ]
        return mapped if call.swapped else None

    def _after(self, module: nn.Module, result: Any) -> Any:
        call = self._finish(module)
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
                old.copy_(value)
        if held:
            mapped = map_tensors(lambda value: held.get(id(value), value), mapped)
        return None if mapped is result else mapped

    def _caller(self) -> str:
        """The module whose forward called the innermost one."""
        return self._calls[-2].path if len(self._calls) > 1 else ROOT

    def _begin(self) -> None:
        """A new run of the whole model: what an exception left behind is forgotten."""
        self._calls.clear()
        self._counts.clear()
        self._explicit.clear()
        begin = getattr(self._visit, "begin", None)
        if begin is not None:
            begin()

    def _finish(self, module: nn.Module) -> _Call:
        """Close the innermost call of ``module`` and those inside it that ended by an exception."""
        while True:
            call = self._calls.pop()
            if call.module is module:
                return call

    def _map(self, call: _Call, kind: TapKind, tree: Any, order: Mapping[int, int] | None = None) -> Any:
        """Visit the tensors of ``tree``; ``order`` renumbers them (position -> index)."""
        positions = itertools.count()
        type_name = type(call.module).__name__
        owner = call.path if kind is TapKind.MODULE else self._caller()

        def visit(value: Tensor) -> Tensor:
            position = next(positions)
            index = position if order is None else order[position]
            return self._visit(Tap(TapId(call.path, call.index, index, kind), type_name, owner), value)

        return map_tensors(visit, tree)


def named_inputs(module: nn.Module, args: Any, kwargs: Any) -> list[tuple[str, Tensor]]:
    """Tensor arguments in the order of the forward's signature, each with a name.

    ``x`` for an argument that is a tensor, ``x_0``, ``x_mask`` for tensors inside one. The order
    does not depend on how the call spells them: exporters turn keywords into positions.
    """
    return [
        (name, value) for name, value in named_arguments(module, args, kwargs) if isinstance(value, Tensor)
    ]


def named_arguments(module: nn.Module, args: Any, kwargs: Any) -> list[tuple[str, Tensor | float]]:
    """:func:`named_inputs` and, where they stand among them, plain numbers, those left at their default
    too: the TorchScript exporter makes each of them a graph input."""
    named: list[tuple[str, Tensor | float]] = []
    for label, value in _bind(module, args, kwargs).items():
        if type(value) in (int, float):
            named.append((label, value))
        else:
            named += [("_".join([label, *path]), leaf) for path, leaf in labelled_leaves(value)]
    return named


def _bind(module: nn.Module, args: Any, kwargs: Any) -> dict[str, Any]:
    try:
        signature = inspect.signature(module.forward)
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        bound = call.arguments
    except (TypeError, ValueError):
        # A forward without a signature, or a call that does not fit it: keep the call's order.
        return {**{f"arg{i}": value for i, value in enumerate(args)}, **kwargs}
    flat: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            flat.update({f"{name}_{i}": item for i, item in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            flat.update(value)
        else:
            flat[name] = value
    return flat


def input_order(module: nn.Module, args: Any, kwargs: Any) -> dict[int, int]:
    """Position of each tensor in ``(args, kwargs)`` -> its index in :func:`named_inputs`."""
    waiting: dict[int, list[int]] = {}
    for index, (_, value) in enumerate(named_inputs(module, args, kwargs)):
        waiting.setdefault(id(value), []).append(index)
    return {
        position: waiting[id(value)].pop(0) for position, value in enumerate(tensor_leaves((args, kwargs)))
    }


def select_modules(model: nn.Module, selection: Selection) -> list[tuple[str, nn.Module]]:
    """The tapped modules by path, the root (path ``""``) first. Shared modules appear once."""
    closed = (*selection.outside, *scripted_modules(model))
    chosen = [
        (path, module)
        for path, module in model.named_modules()
        if selection.selects(path, module) and not _inside(path, closed)
    ]
    if len(chosen) == 1 and (selection.include or selection.types):
        wanted = f"include={list(selection.include)}, types={list(selection.types)}"
        raise TapError(f"no module matches {wanted}; there are {_some_modules(model)}.")
    return chosen


def _some_modules(model: nn.Module) -> str:
    named = [f"{path} ({type(module).__name__})" for path, module in model.named_modules() if path]
    return ", ".join(named[:5]) + (", …" if len(named) > 5 else "") if named else "none below the root"


def fast_path_modules(model: nn.Module) -> tuple[str, ...]:
    """Submodules that take another kernel unless they find no hook inside themselves."""
    return tuple(
        path
        for path, module in model.named_modules()
        if path and isinstance(module, _FUSED_IN_EAGER) and not module.training
    )


def scripted_modules(model: nn.Module) -> tuple[str, ...]:
    """Outermost submodules that are scripted, and so run without Python hooks."""
    scripted: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path and isinstance(module, torch.jit.ScriptModule) and not _inside(path, scripted):
            scripted = (*scripted, path)
    return scripted


def _inside(path: str, outer: Sequence[str]) -> bool:
    return any(path == module or path.startswith(module + ".") for module in outer)


def require_plain_module(model: object) -> None:
    """Raises :class:`ModelError` for what is no module, and for wrappers that run replicas of one."""
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ModelError(f"the model is wrapped in {type(model).__name__}: pass model.module instead.")
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model must be a torch.nn.Module, not {type(model).__name__}.")
