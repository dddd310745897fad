"""A model in float64 whose weights stay as narrow as they are in memory.

The copy shares the memory of the model's weights, each of which is widened for the call that reads it: a
float64 copy of all of them would take twice that memory.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alignkit.operations import is_at_rest
from alignkit.standin import StandIn

_NARROW = (torch.float16, torch.bfloat16, torch.float32)


def widened_copy(model: nn.Module) -> tuple[nn.Module, Collection[Tensor]]:
    """A copy in float64 but for some weights, which :class:`Widening` is to widen: these are parameters of
    the copy that lie where the model's own lie, and must not be written into."""
    if isinstance(model, StandIn):
        return copy.deepcopy(model).double(), ()
    shared = {
        id(weight): nn.Parameter(weight.data, weight.requires_grad)
        for weight in model.parameters()
        if weight.dtype in _NARROW and type(weight) is nn.Parameter and not weight.is_inference()
    }
    twin = copy.deepcopy(model, dict[int, Any](shared))
    # No call inside scripted code can be seen; its copy has weights of its own.
    scripted = {
        id(p) for m in twin.modules() if isinstance(m, torch.jit.ScriptModule) for p in m.parameters()
    }
    weights = {id(p): p for p in twin.parameters() if p.dtype in _NARROW and id(p) not in scripted}
    wide: dict[int, tuple[Tensor, Tensor]] = {}  # what was widened is kept, or its id could be another's

    def widen(value: Tensor) -> Tensor:
        if id(value) in weights or not value.is_floating_point():
            return value
        return wide.setdefault(id(value), (value, value.double()))[1]

    # As ``double()`` does it, which modules may have their own way of.
    twin._apply(widen)  # type: ignore[no-untyped-call]
    return twin, weights.values()


_CASTS = (Tensor.half, Tensor.bfloat16, Tensor.float)
_LOOKUPS = (torch.embedding, nn.functional.embedding)  # exact in any type
_FACTS = {
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride, Tensor.is_contiguous, Tensor.is_floating_point),
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "device", "layout", "requires_grad")),
}
"""What is asked of a weight and does not depend on its type."""
_TYPE = Tensor.dtype.__get__  # type: ignore[attr-defined]
_MEMORY = (Tensor.data.__get__, Tensor.data.__set__)  # type: ignore[attr-defined]
ROOM = 64 * 2**20  # bytes of weights in float64, for those that are read again and again
_CONVOLUTIONS = {
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default),
}
_PIECE = 8 * 2**20  # bytes of what a float64 convolution makes of its input, and of its result, at a time


class Widening(TorchFunctionMode):
    """What a forward reads of ``weights``, casts or creates in a narrower type is float64.

    What it writes into a weight is written into the wide one, which then stays; all others are let go
    where they take more than ``room`` bytes together.
    """

    def __init__(self, weights: Collection[Tensor], room: int = ROOM) -> None:
        super().__init__()
        self._weights = {id(weight): weight for weight in weights}
        self._room = room
        self._wide: dict[int, Tensor] = {}
        self._held = 0  # bytes
        self._laid_open: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_at_rest() or func in _FACTS:  # what a visitor does with a value is no part of the model
            return func(*args, **kwargs)
        if func == _TYPE and self._is_weight(args[0]):
            return torch.float64
        if func in _LOOKUPS and self._is_plain_lookup(func, args, kwargs):
            return to_double(func(*args, **kwargs))
        if func in _MEMORY:
            self._laid_open.add(id(args[0]))
        func = Tensor.double if func in _CASTS else func
        named = {name: self._widened(value) for name, value in kwargs.items()}
        call = partial(_convolve, func) if func in _CONVOLUTIONS else func
        return call(*map(self._widened, args), **named)

    def current(self, value: Tensor) -> Tensor:
        """What stands for ``value``: for a weight the wide one, for all else itself."""
        return self._double(value) if self._is_weight(value) else value

    def _is_weight(self, value: object) -> bool:
        return id(value) in self._weights

    def _is_plain_lookup(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether rows are read of a weight that nothing was or is written into."""
        tables = [id(value) for value in (*args, *kwargs.values()) if self._is_weight(value)]
        renormed = kwargs.get("max_norm", args[3] if func is not torch.embedding and len(args) > 3 else None)
        return bool(tables) and renormed is None and not any(map(self._is_written, tables))

    def _is_written(self, key: int) -> bool:
        return key in self._wide and (key in self._laid_open or self._wide[key]._version > 0)

    def _widened(self, argument: Any) -> Any:
        if isinstance(argument, torch.dtype):
            return torch.float64 if argument in _NARROW else argument
        if self._is_weight(argument):
            return self._double(argument)
        if type(argument) in (list, tuple):
            return type(argument)(map(self._widened, argument))
        return argument

    def _double(self, weight: Tensor) -> Tensor:
        found = self._wide.get(id(weight))
        if found is None:
            self._let_go(self._room - weight.numel() * torch.float64.itemsize)
            found = self._wide[id(weight)] = weight.detach().double()
            self._held += found.nbytes
        return found

    def _let_go(self, room: int) -> None:
        """Until the rest takes no more than ``room``, the oldest first; not what was written into."""
        if self._held <= max(0, room):
            return
        for key in [key for key in self._wide if not self._is_written(key)]:
            self._held -= self._wide.pop(key).nbytes
            if self._held <= room:
                break


def _convolve(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A convolution, a few samples of the batch at a time: torch has no kernel for float64 that needs no
    matrix of all windows of all that it is given."""
    signature = dict(zip(("input", "weight"), args, strict=False)) | kwargs
    given, weight = signature["input"], signature["weight"]
    # Of one sample, about: the windows' elements, or the result's.
    elements = max(weight[:1].numel(), weight.shape[0]) * given[:1, :1].numel()
    step = max(1, _PIECE // max(1, elements * given.element_size()))
    if given.dim() != weight.dim() or given.shape[0] <= step:
        return function(*args, **kwargs)
    rest = args[1:], {name: value for name, value in kwargs.items() if name != "input"}
    pieces = (function(piece, *rest[0], **rest[1]) for piece in given.split(step))
    first = next(pieces)
    shape = given.shape[0], *first.shape[1:]
    result = first.new_empty_strided(shape, (first[0].numel(), *first.stride()[1:]))
    for place, piece in enumerate(itertools.chain((first,), pieces)):
        result[place * step : (place + 1) * step] = piece
    return result


def to_double(value: Tensor) -> Tensor:
    """``value`` in float64, whole numbers as they are; never the tensor itself."""
    return value.to(torch.float64, copy=True) if value.is_floating_point() else value.clone()
