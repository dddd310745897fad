"""The float64 twin: how exact the reference is, tap by tap.

A twin of the model runs in float64 with the same hooks, and the distance of the reference to it is
rounding: along the whole model or, with every tap's value replaced by the reference, segment by
segment. With a perturbation of one ULP on the replaced values the same run tells how much of an
error a segment makes out of rounding that happened elsewhere (its condition).

The twin shares the model's weights, each of which is widened for the call that reads it: a float64 copy
of all of them would take twice their memory.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alignkit.errors import ModelError, first_line
from alignkit.instrument import Instrument, Selection
from alignkit.memory import give_back
from alignkit.metrics import measure_error, ulp
from alignkit.operations import is_at_rest
from alignkit.records import Array, Capture, Noise, Tap
from alignkit.standin import StandIn
from alignkit.tensors import map_tensors, to_numpy, to_torch


@dataclass(slots=True)
class _NoiseMeter:
    """Visitor that measures each tap of a float64 run against the reference.

    With ``substitute`` it goes on with the reference instead, so that a segment's noise is its
    own; with ``perturb`` the reference goes on changed by that many units in the last place, up
    or down at random. Where memory is ``tight`` what is freed on the way is given back at once.
    """

    reference: Capture
    substitute: bool = False
    perturb: float = 0.0
    tight: bool = False
    noise: dict[str, Noise] = field(default_factory=dict)
    _placed: dict[int, tuple[weakref.ref[Tensor], int | None, str]] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def begin(self) -> None:
        self.noise = {}
        self._placed = {}

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        name = str(tap.id)
        expected = self.reference.values.get(name)
        if expected is None or not value.is_floating_point() or expected.shape != tuple(value.shape):
            return value
        placed = self._is_placed(name, value)
        if placed and not self.perturb:
            self.noise[name] = Noise(0.0, 0.0)
            return value
        exact = measure_error(to_numpy(value, copy=False), expected, rtol=0.0, atol=0.0)
        self.noise[name] = Noise(exact.max_abs or 0.0, exact.max_rel or 0.0)
        if self.tight:
            give_back()
        return self._continue_with(name, expected, value) if self.substitute and not placed else value

    def _is_placed(self, name: str, value: Tensor) -> bool:
        """Whether ``value`` stands for the very tensor of the reference already."""
        known, version, first = self._placed.get(id(value), (None, None, ""))
        same = known is not None and known() is value and version == value._version
        return same and first == self.reference.first(name)

    def _continue_with(self, name: str, expected: Array, value: Tensor) -> Tensor:
        # Written over, a value needs no second place; whoever else holds it holds the reference then.
        fresh = self.perturb or not self.tight or value._is_view() or not value.is_contiguous()
        tensor = torch.empty_like(value, memory_format=torch.contiguous_format) if fresh else value
        tensor.copy_(to_torch(expected, value, copy=False))
        if self.perturb:
            signs = torch.randint(0, 2, tensor.shape, generator=self.generator).to(tensor) * 2 - 1
            tensor = tensor * (1 + self.perturb * ulp(1.0, expected.dtype) * signs)
        self._placed[id(tensor)] = weakref.ref(tensor), tensor._version, self.reference.first(name)
        return tensor


def measure_noise(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    selection: Selection,
    reference: Capture,
    *,
    substitute: bool,
    perturb: float = 0.0,
    tight: bool = False,
) -> dict[str, Noise]:
    """Distance of the reference to a float64 run of the model's twin, per floating tap.

    ``substitute=False`` measures the noise accumulated up to a tap, ``True`` that of its own
    segment. Raises :class:`ModelError` when the model cannot be copied or cannot run in float64.
    """
    meter = _NoiseMeter(reference, substitute, perturb, tight)
    try:
        exact = _twin_of(model)
        args, kwargs = map_tensors(_to_double, (args, dict(kwargs)))
        instrument = Instrument(exact, selection, meter, known=reference.taps)
        with instrument, torch.no_grad(), torch.random.fork_rng(devices=[]), _Widening(exact):
            exact(*args, **kwargs)
    except Exception as error:
        raise ModelError(f"no float64 run: {type(error).__name__}: {first_line(error)}") from error
    return meter.noise


def _twin_of(model: nn.Module) -> nn.Module:
    """A copy in float64 but for the weights, which it shares and :class:`_Widening` widens."""
    twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    if isinstance(twin, StandIn):
        return twin.double()
    wide: dict[int, Tensor] = {}
    for module in twin.modules():
        if isinstance(module, torch.jit.ScriptModule):
            module.double()  # no call inside can be seen; its copy has weights of its own
            continue
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = wide.setdefault(id(buffer), _to_double(buffer))
    return twin


_NARROW = (torch.float16, torch.bfloat16, torch.float32)
_CASTS = (Tensor.half, Tensor.bfloat16, Tensor.float)
_LOOKUPS = (torch.embedding, nn.functional.embedding)  # exact in any type
_HELD = 64 * 2**20  # bytes of weights in float64, for those that are read again and again
_CONVOLUTIONS = {
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.conv3d.default),
}
_COLUMNS = 8 * 2**20  # bytes of the matrix that a float64 convolution makes of its input


class _Widening(TorchFunctionMode):
    """What a forward reads of the weights, casts or creates in a narrower type is float64."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._weights = {id(p): p for p in model.parameters() if p.dtype in _NARROW}
        self._wide: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_at_rest():  # what a visitor does with a value is no part of the model
            return func(*args, **kwargs)
        if func in _LOOKUPS or getattr(func, "__name__", "") == "__get__":
            result = func(*args, **kwargs)
            return self._widened_result(result) if any(map(self._is_weight, args)) else result
        func = Tensor.double if func in _CASTS else func
        named = {name: self._widened(value) for name, value in kwargs.items()}
        call = partial(_convolve, func) if func in _CONVOLUTIONS else func
        return call(*map(self._widened, args), **named)

    def _is_weight(self, value: object) -> bool:
        return id(value) in self._weights

    def _widened(self, argument: Any) -> Any:
        if isinstance(argument, torch.dtype):
            return torch.float64 if argument in _NARROW else argument
        if self._is_weight(argument):
            return self._double(argument)
        if type(argument) in (list, tuple):
            return type(argument)(map(self._widened, argument))
        return argument

    @staticmethod
    def _widened_result(result: Any) -> Any:
        if isinstance(result, torch.dtype):
            return torch.float64
        return _to_double(result) if isinstance(result, Tensor) else result

    def _double(self, weight: Tensor) -> Tensor:
        found = self._wide.get(id(weight))
        if found is None:
            found = weight.detach().double()
            self._wide[id(weight)] = found
            while len(self._wide) > 1 and sum(one.nbytes for one in self._wide.values()) > _HELD:
                del self._wide[next(iter(self._wide))]
        return found


def _convolve(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A convolution, a few samples of the batch at a time: torch has no kernel for float64 that needs no
    matrix of all windows of all that it is given."""
    signature = dict(zip(("input", "weight"), args, strict=False)) | kwargs
    given, weight = signature["input"], signature["weight"]
    windows = weight[0].numel() * given[:1, :1].numel() * given.element_size()  # of one sample, about
    step = max(1, _COLUMNS // max(1, windows))
    if given.dim() != weight.dim() or given.shape[0] <= step:
        return function(*args, **kwargs)
    rest = args[1:], {name: value for name, value in kwargs.items() if name != "input"}
    pieces = (function(piece, *rest[0], **rest[1]) for piece in given.split(step))
    first = next(pieces)
    result = first.new_empty(given.shape[0], *first.shape[1:])
    for place, piece in enumerate(itertools.chain((first,), pieces)):
        result[place * step : (place + 1) * step] = piece
    return result


def _to_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value.clone()
