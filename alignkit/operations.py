"""Operations: the torch functions that a module's own forward calls, one tap for each result.

While a tapped forward runs, :class:`OperationMode` sees each function that it calls directly; what
torch calls inside that function, or inside a module of its own, stays unseen.

Eager and both exporters run the same forward, so that counting calls per function name gives the
same names. They differ in arithmetic on sizes, which are tensors under the TorchScript tracer alone:
*numbers*, that is integers without dimensions and what is computed from nothing else, are not
counted, nor are calls without a floating result or what they convert a weight to.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._ops import OpOverload, OpOverloadPacket
from torch.overrides import (  # type: ignore[attr-defined]
    TorchFunctionMode,
    _len_torch_function_stack,
    _pop_torch_function_stack,
    _push_on_torch_function_stack,
)

from alignkit.aliasing import Copies, rebind
from alignkit.marker import DOMAIN
from alignkit.records import Source, Tap, TapKind
from alignkit.source import SourceFinder
from alignkit.tensors import map_tensors, tensor_leaves, version_of

_SPECIAL_NAMES = {
    **{f"__{name}__": name for name in ("getitem", "setitem", "neg", "abs")},
    **{
        f"__{side}{special}__": name + ("_" if side == "i" else "")
        for special, name in {
            **{name: name for name in ("add", "sub", "mul", "matmul", "pow", "div")},
            "truediv": "div",
            "floordiv": "floor_divide",
            "mod": "remainder",
        }.items()
        for side in ("", "r", "i")
    },
}
"""How Python's operators are called: as torch calls them, on whichever side the tensor stands."""

_UNNAMED = frozenset(
    (
        "",
        *("alias", "clone", "contiguous", "cpu", "cuda", "detach", "detach_", "requires_grad_"),
        *("empty_like", "new_empty", "new_empty_strided", "resize_", "resize_as_", "set_"),
    )
)
"""Functions that hand on the value they were given, or none but what happens to lie in memory."""

_CONVERSIONS = frozenset(("to", "float", "double", "half", "bfloat16", "type", "type_as"))
"""Functions that give a weight back as it is or a copy of it, depending on the run's dtype."""


@lru_cache(maxsize=4096)
def operation_name(function: Callable[..., Any]) -> str | None:
    """A readable name for a torch function, ``add`` for ``+``; None for what computes no value."""
    if isinstance(function, OpOverload):
        function = function.overloadpacket
    if isinstance(function, OpOverloadPacket) and function._qualified_op_name.startswith(f"{DOMAIN}::"):
        return None  # an explicit tap
    name: str = getattr(function, "__name__", "")
    if name.startswith("__"):
        return _SPECIAL_NAMES.get(name)
    return None if name in _UNNAMED else name


_MODULE_FILE = nn.Module._call_impl.__code__.co_filename
_FUNCTION_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]

_at_rest = 0
"""Above zero while a visitor works: what it calls is no part of any model."""


@contextmanager
def unobserved() -> Iterator[None]:
    """No call inside is tapped, by whatever instrument."""
    global _at_rest
    _at_rest += 1
    try:
        yield
    finally:
        _at_rest -= 1


def is_at_rest() -> bool:
    """Whether a visitor works, see :func:`unobserved`."""
    return _at_rest > 0


def is_inside_autograd_function() -> bool:
    """Whether the running forward has called a ``torch.autograd.Function``, one node to an exporter."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != _MODULE_FILE:
        if frame.f_code is _FUNCTION_APPLY:
            return True
        frame = frame.f_back
    return False


def writes_in_place(name: str, kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is known to write into one of its arguments, by its name or its keywords."""
    return name == "setitem" or name.endswith("_") or "out" in kwargs or bool(kwargs.get("inplace"))


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a torch function: ``number`` tells it from others of that name in its scope."""

    name: str
    number: int
    source: Source | None


class Register:
    """The numbers that a run's operations have, to be given to the same calls of another run.

    A call is the same when it is the n-th of its name *on its line*. What only the other run calls,
    in a branch for the exporter or before a cache was filled, therefore shifts no number.
    """

    def __init__(self, taps: Iterable[Tap]) -> None:
        self._numbers: dict[tuple[str, int, str, str], list[int]] = {}
        for tap in taps:
            if tap.id.kind is TapKind.OP and tap.source is not None:
                key = (tap.id.path, tap.id.call, tap.id.op, tap.source.location)
                numbers = self._numbers.setdefault(key, [])
                if tap.id.op_call not in numbers:
                    numbers.append(tap.id.op_call)

    def number(self, scope: OperationScope, name: str, source: Source | None) -> int | None:
        """The number of the call that is just made; None for one that the other run did not make."""
        location = source.location if source is not None else ""
        count = scope.count((name, location))
        numbers = self._numbers.get((scope.path, scope.call, name, location), [])
        return numbers[count] if count < len(numbers) else None


@dataclass(slots=True)
class OperationScope:
    """One running call of a module whose operations are tapped."""

    path: str
    call: int
    module: nn.Module
    counts: dict[object, int] = field(default_factory=dict)
    copies: Copies = field(default_factory=Copies)

    def count(self, what: object) -> int:
        """How often that was counted before."""
        self.counts[what] = self.counts.get(what, -1) + 1
        return self.counts[what]

    def holds(self, value: Tensor) -> bool:
        """Whether ``value`` is a weight or a buffer, which is never replaced."""
        return isinstance(value, nn.Parameter) or any(value is own for own in self.module.buffers(False))

    def taps(self, value: Tensor) -> bool:
        """Whether a result is one to tap."""
        return _is_floating(value) and not self.holds(value)


OperationVisit = Callable[[Operation, int, Tensor], Tensor]
"""Takes the operation, the index of its result and the result; returns what goes on in its place."""


class OperationMode(TorchFunctionMode):
    """Visits the results of every torch function that is called while a scope is entered."""

    def __init__(self, visit: OperationVisit, finder: SourceFinder | None, register: Register | None) -> None:
        super().__init__()
        self._visit = visit
        self._finder = finder
        self._register = register
        self._scope: OperationScope | None = None
        self._numbers: dict[int, Tensor] = {}  # kept alive, or an id could become another tensor's

    def begin(self) -> None:
        """Forget the run before."""
        self._numbers.clear()

    def enter(self, scope: OperationScope, position: int | None = None) -> None:
        """Go on the stack of modes: on top, or back to where :meth:`leave` took the mode from."""
        height = _len_torch_function_stack()
        position = height if position is None else position
        above = [_pop_torch_function_stack() for _ in range(position, height)]
        _push_on_torch_function_stack(self)
        _push_all(above)
        self._scope = scope

    def leave(self) -> int | None:
        """Off the stack, wherever in it; the position it had, None if it was not there.

        A child of torch's own must not see the mode: it would take another path than without one.
        """
        if self._scope is None:
            return None
        self._scope = None
        above = []
        while (mode := _pop_torch_function_stack()) is not self:
            above.append(mode)
        position = _len_torch_function_stack()
        _push_all(above)
        return position

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        scope = self._scope
        if scope is None or _at_rest:
            return func(*args, **kwargs)
        scope.copies.sync()
        name = operation_name(func)
        if name is None or is_inside_autograd_function():
            return func(*args, **kwargs)
        if not writes_in_place(name, kwargs):
            return self._run(scope, name, func, args, kwargs)
        # Written into is what the model would write into, not the copy that stands for it.
        args, kwargs = scope.copies.to_originals((args, kwargs))
        return scope.copies.to_copies(self._run(scope, name, func, args, kwargs))

    def _run(self, scope: OperationScope, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        tensors = tensor_leaves((args, kwargs))
        before = [version_of(value) for value in tensors]
        result = func(*args, **kwargs)
        if all(self._is_number(value) for value in tensors):
            self._numbers |= {id(value): value for value in tensor_leaves(result) if value.dim() == 0}
            return result
        if name in _CONVERSIONS and scope.holds(tensors[0]):
            return result
        written = [t for t, version in zip(tensors, before, strict=True) if version_of(t) != version]
        if name == "setitem":
            self._tap(scope, name, args[0], tensors, written)
            return result
        return self._tap(scope, name, result, tensors, written)

    def _is_number(self, value: Tensor) -> bool:
        return value.dim() == 0 and (not _is_floating(value) or id(value) in self._numbers)

    def _tap(
        self, scope: OperationScope, name: str, result: Any, given: list[Tensor], written: list[Tensor]
    ) -> Any:
        if not any(scope.taps(value) for value in tensor_leaves(result)):
            return result
        operation = self._identify(scope, name)
        if operation is None:
            return result
        positions = itertools.count()

        def visit(value: Tensor) -> Tensor:
            index = next(positions)
            if not scope.taps(value):
                return value
            with unobserved():
                new = self._visit(operation, index, value)
            if new is value:
                return value
            if any(value is other for other in written):
                rebind(new, into=value)
                return value
            if value._is_view() or any(value is other for other in given):
                scope.copies.add(value, new)
            return new

        return map_tensors(visit, result)

    def _identify(self, scope: OperationScope, name: str) -> Operation | None:
        source = self._finder.find(sys._getframe(1)) if self._finder is not None else None
        number = self._register.number(scope, name, source) if self._register else scope.count(name)
        return None if number is None else Operation(name, number, source)


def _is_floating(value: Tensor) -> bool:
    """Floating or complex, and a tensor of its own: inside ``vmap`` there are only slices of one."""
    return (value.is_floating_point() or value.is_complex()) and not is_functorch_wrapped_tensor(value)


def _push_all(modes: list[Any]) -> None:
    """Back onto the stack, last popped first."""
    for mode in reversed(modes):
        _push_on_torch_function_stack(mode)
