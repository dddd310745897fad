"""The float64 twin: how exact the reference is, tap by tap.

A copy of the model runs in float64 with the same hooks, and the distance of the reference to it is
rounding: along the whole model or, with every tap's value replaced by the reference, segment by
segment. With a perturbation of one ULP on the replaced values the same run tells how much of an
error a segment makes out of rounding that happened elsewhere (its condition).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alignkit.errors import ModelError, first_line
from alignkit.instrument import Instrument, Selection
from alignkit.metrics import measure_error, ulp
from alignkit.operations import is_at_rest
from alignkit.records import Array, Capture, Noise, Tap
from alignkit.tensors import map_tensors, to_numpy, to_torch


@dataclass(slots=True)
class _NoiseMeter:
    """Visitor that measures each tap of a float64 run against the reference.

    With ``substitute`` it goes on with the reference instead, so that a segment's noise is its
    own; with ``perturb`` the reference goes on changed by that many units in the last place, up
    or down at random.
    """

    reference: Capture
    substitute: bool = False
    perturb: float = 0.0
    noise: dict[str, Noise] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def begin(self) -> None:
        self.noise = {}

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        name = str(tap.id)
        expected = self.reference.values.get(name)
        if expected is None or not value.is_floating_point() or expected.shape != tuple(value.shape):
            return value
        exact = measure_error(to_numpy(value), expected, rtol=0.0, atol=0.0)
        self.noise[name] = Noise(exact.max_abs or 0.0, exact.max_rel or 0.0)
        return self._continue_with(expected, value) if self.substitute else value

    def _continue_with(self, expected: Array, value: Tensor) -> Tensor:
        tensor = to_torch(expected, value).to(value.dtype)
        if self.perturb:
            signs = torch.randint(0, 2, tensor.shape, generator=self.generator).to(tensor) * 2 - 1
            tensor = tensor * (1 + self.perturb * ulp(1.0, expected.dtype) * signs)
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
) -> dict[str, Noise]:
    """Distance of the reference to a float64 run of a deep copy, per floating tap.

    ``substitute=False`` measures the noise accumulated up to a tap, ``True`` that of its own
    segment. Raises :class:`ModelError` when the model cannot be copied or cannot run in float64.
    """
    meter = _NoiseMeter(reference, substitute, perturb)
    try:
        exact = copy.deepcopy(model).double()
        args, kwargs = map_tensors(_to_double, (args, dict(kwargs)))
        instrument = Instrument(exact, selection, meter, known=reference.taps)
        with instrument, torch.no_grad(), torch.random.fork_rng(devices=[]), _Widening():
            exact(*args, **kwargs)
    except Exception as error:
        raise ModelError(f"no float64 run: {type(error).__name__}: {first_line(error)}") from error
    return meter.noise


_NARROW = (torch.float16, torch.bfloat16, torch.float32)
_CASTS = (Tensor.half, Tensor.bfloat16, Tensor.float)


class _Widening(TorchFunctionMode):
    """What the forward itself casts or creates in a narrower type is float64 as well."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_at_rest():  # what a visitor does with a value is no part of the model
            return func(*args, **(kwargs or {}))
        func = Tensor.double if func in _CASTS else func
        named = {name: _widened(value) for name, value in (kwargs or {}).items()}
        return func(*map(_widened, args), **named)


def _widened(argument: Any) -> Any:
    return torch.float64 if isinstance(argument, torch.dtype) and argument in _NARROW else argument


def _to_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value.clone()
