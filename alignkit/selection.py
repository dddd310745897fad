"""Selection: which modules of a model are tapped, and in which the operations as well."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import CodeType, FunctionType

import torch
from torch import nn

from alignkit.errors import TapError
from alignkit.records import ROOT, Tap, TapKind
from alignkit.standin import StandIn

GRANULARITIES = ("module", "op")

_FUSED_IN_EAGER = (nn.TransformerEncoderLayer,)
"""Modules whose forward takes another kernel (the fast path) unless it finds no hook inside itself."""


_HOOK_NAMES = {"_forward_hooks", "_forward_pre_hooks", "_global_forward_hooks", "has_torch_function"}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which modules are tapped, and in which the operations as well.

    ``include`` and ``exclude`` match module paths: shell globs (``layer1.*``), or regular
    expressions behind ``re:``. ``types`` names module classes (``Conv2d``). ``depth`` bounds the
    number of dots: 1 keeps the root's children. The root is always tapped: its values are the
    model's inputs and outputs. Modules in ``outside`` are seen from outside only.

    With ``granularity="op"`` the operations that a tapped module's own forward calls are tapped too;
    ``zoom`` names modules (by path, the root as ``(model)``) for which that holds in any case.
    Forwards of torch's own modules are never looked into.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    depth: int | None = None
    inputs: bool = True
    outside: tuple[str, ...] = ()
    granularity: str = "module"
    zoom: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise TapError(f"no granularity {self.granularity!r}; known: {', '.join(GRANULARITIES)}.")
        for pattern in (*self.include, *self.exclude):
            _compile(pattern)

    def selects(self, path: str, module: nn.Module) -> bool:
        return not path or (self._selects_path(path) and (not self.types or _has_type(module, self.types)))

    def wants(self, tap: Tap) -> bool:
        """Whether a tap that no hook serves is selected."""
        path = tap.id.path
        if path == ROOT:
            return True
        return self._selects_path(path, deep=tap.id.kind is not TapKind.EXPLICIT) and (
            not self.types or tap.module_type in self.types
        )

    def _selects_path(self, path: str, *, deep: bool = True) -> bool:
        """``deep``: it is a path of modules and not just a name."""
        return (
            (self.depth is None or not deep or path.count(".") < self.depth)
            and (not self.include or _matches(path, self.include))
            and not _matches(path, self.exclude)
        )

    def opens(self, path: str, module: nn.Module) -> bool:
        """Whether the operations of ``module``'s own forward are tapped."""
        wanted = (path or ROOT) in self.zoom or (self.granularity == "op" and self.selects(path, module))
        # A mode that is on while a module of `outside` runs would change that module's path.
        return wanted and not _is_torchs_own(module) and not any(_inside(o, (path,)) for o in self.outside)


def _matches(path: str, patterns: Sequence[str]) -> bool:
    return any(_compile(pattern).fullmatch(path) for pattern in patterns)


def _compile(pattern: str) -> re.Pattern[str]:
    if not pattern.startswith("re:"):
        return re.compile(fnmatch.translate(pattern))
    try:
        return re.compile(pattern[3:])
    except re.error as error:
        raise TapError(f"selection {pattern!r} is no regular expression: {error}.") from error


def _is_torchs_own(module: nn.Module) -> bool:
    return (getattr(module.forward, "__module__", None) or "").startswith("torch.")


def _has_type(module: nn.Module, types: Sequence[str]) -> bool:
    return any(cls.__name__ in types for cls in type(module).__mro__)


def select_modules(model: nn.Module, selection: Selection) -> list[tuple[str, nn.Module]]:
    """The tapped modules by path, the root (path ``""``) first. Shared modules appear once."""
    closed = (*selection.outside, *scripted_modules(model))
    chosen = [
        (path, module)
        for path, module in model.named_modules()
        if selection.selects(path, module) and not _inside(path, closed)
    ]
    if len(chosen) == 1 and (selection.include or selection.types) and not isinstance(model, StandIn):
        wanted = f"include={list(selection.include)}, types={list(selection.types)}"
        raise TapError(f"no module matches {wanted}; there are {_some_modules(model)}.")
    return chosen


@dataclass(frozen=True, slots=True)
class Followed:
    """A module with hooks. ``tapped``: its values are; ``opened``: the operations of its forward are.

    One that is neither is followed so that its operations do not count as its caller's.
    """

    path: str
    module: nn.Module
    tapped: bool
    opened: bool


def followed_modules(model: nn.Module, selection: Selection) -> list[Followed]:
    """Every module that gets hooks, the root first."""
    tapped = {path for path, _ in select_modules(model, selection)}
    closed = (*selection.outside, *scripted_modules(model))
    modules = {path: module for path, module in model.named_modules() if not _inside(path, closed)}
    if unknown := [path for path in selection.zoom if path not in {ROOT, *dict(model.named_modules())}]:
        raise TapError(f"no module {unknown[0]!r} to look into; there are {_some_modules(model)}.")
    opened = {path for path, module in modules.items() if selection.opens(path, module)}
    return [
        Followed(path or ROOT, module, path in tapped, path in opened)
        for path, module in modules.items()
        if path in tapped or not opened.isdisjoint(_outer_paths(path))
    ]


def _outer_paths(path: str) -> list[str]:
    """``a.b`` -> ``["", "a", "a.b"]``."""
    return ["", *accumulate(path.split("."), lambda outer, name: f"{outer}.{name}")]


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


def may_notice_hooks(model: nn.Module) -> bool:
    """Whether the code of a module mentions hooks or overrides: it may compute otherwise under them.

    Looked at are the methods of its classes and what they call of their own file.
    """
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    own = (vars(kind).values() for kind in classes if issubclass(kind, nn.Module) and kind is not nn.Module)
    waiting = [member for members in own for member in members if isinstance(member, FunctionType)]
    seen: set[CodeType] = set()
    while waiting:
        function = waiting.pop()
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        names = _names_in(function.__code__)
        if names & _HOOK_NAMES:
            return True
        called = (function.__globals__.get(name) for name in names)
        waiting += [
            other
            for other in called
            if isinstance(other, FunctionType) and other.__module__ == function.__module__
        ]
    return False


def _names_in(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def scripted_modules(model: nn.Module) -> tuple[str, ...]:
    """Outermost submodules that are scripted, and so run without Python hooks."""
    scripted: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if path and isinstance(module, torch.jit.ScriptModule) and not _inside(path, scripted):
            scripted = (*scripted, path)
    return scripted


def _inside(path: str, outer: Sequence[str]) -> bool:
    return any(not module or path == module or path.startswith(module + ".") for module in outer)
