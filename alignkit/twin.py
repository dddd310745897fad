"""The float64 twin: how exact the reference is, tap by tap.

A twin of the model runs in float64 with the same hooks, and the distance of the reference to it is
rounding: along the whole model or, with every tap's value replaced by the reference, segment by
segment. With a perturbation of one ULP on the replaced values the same run tells how much of an
error a segment makes out of rounding that happened elsewhere (its condition).

The twin's weights are widened one call at a time, see :mod:`alignkit.widening`. Where one is read in a
way that cannot be seen, the twin is a float64 copy of all of them.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alignkit.errors import ModelError, first_line
from alignkit.instrument import Instrument, Selection
from alignkit.memory import give_back
from alignkit.metrics import measure_error, ulp
from alignkit.records import Array, Capture, Noise, Tap, TapId, TapKind
from alignkit.standin import StandIn
from alignkit.storage import flat_pieces
from alignkit.tensors import map_tensors, to_numpy, to_torch, version_of
from alignkit.widening import ROOM, Widening, to_double, widened_copy

_PIECE = 2**20  # elements


class _Placed(NamedTuple):
    """What took a value's place at ``tap``; ``first`` is the first tap that saw the reference's tensor."""

    tensor: weakref.ref[Tensor]
    version: int | None
    tap: TapId
    first: str


@dataclass(slots=True)
class _NoiseMeter:
    """Visitor that measures each tap of a float64 run against the reference.

    With ``substitute`` it goes on with the reference instead, so that a segment's noise is its
    own; with ``perturb`` the reference goes on changed by that many units in the last place, up
    or down at random. Where memory is ``tight`` what is freed on the way is given back at once.
    ``makers`` are modules that keep nothing of what they return.
    """

    reference: Capture
    widening: Widening
    makers: Collection[str] = ()
    substitute: bool = False
    perturb: float = 0.0
    tight: bool = False
    noise: dict[str, Noise] = field(default_factory=dict)
    _placed: dict[int, _Placed] = field(default_factory=dict)
    _given: dict[int, weakref.ref[Tensor]] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def begin(self) -> None:
        self.noise = {}
        self._placed = {}
        self._given = {}

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        name = str(tap.id)
        expected = self.reference.values.get(name)
        if tap.id.kind is TapKind.INPUT:
            self._given[id(value)] = weakref.ref(value)
        if expected is None or not value.is_floating_point() or expected.shape != tuple(value.shape):
            return value
        value = self.widening.current(value)
        known = self._placed.get(id(value))
        known = known if known is not None and known.tensor() is value else None
        # Whether ``value`` stands for the very tensor of the reference already.
        placed = known is not None and known.version == version_of(value)
        placed = placed and known is not None and known.first == self.reference.first(name)
        if placed and not self.perturb:
            self.noise[name] = Noise(0.0, 0.0)
            return value
        self.noise[name] = self._distance(name, value)
        if self.tight:
            give_back()
        if not self.substitute or placed:
            return value
        return self._continue_with(tap, expected, value, over=self._is_free(tap, value, known))

    def _distance(self, name: str, value: Tensor) -> Noise:
        """How far the reference is from ``value``; a piece at a time, for memory's sake."""
        exact = to_numpy(value, copy=False).reshape(-1)
        noise = Noise(0.0, 0.0)
        for place, expected in flat_pieces(self.reference.values, name, _PIECE):
            found = measure_error(exact[place], expected, rtol=0.0, atol=0.0)
            noise = Noise(max(noise.max_abs, found.max_abs or 0.0), max(noise.max_rel, found.max_rel or 0.0))
        return noise

    def _is_free(self, tap: Tap, value: Tensor, known: _Placed | None) -> bool:
        """Whether surely nobody else holds ``value``: it was just made, or is what a module was given here
        and returns again, written over."""
        if tap.id.kind is not TapKind.MODULE or value._is_view() or not value.is_contiguous():
            return False
        if known is not None:
            was = known.tap
            return was.kind is TapKind.INPUT and (was.path, was.call) == (tap.id.path, tap.id.call)
        given = self._given.get(id(value))
        return tap.id.path in self.makers and (given is None or given() is not value)

    def _continue_with(self, tap: Tap, expected: Array, value: Tensor, *, over: bool) -> Tensor:
        """The reference, in a tensor of its own: whoever holds ``value`` goes on with it as it is."""
        name = str(tap.id)
        tensor = value if over else torch.empty_like(value)
        if tensor.is_contiguous():
            flat = tensor.view(-1)
            for place, piece in flat_pieces(self.reference.values, name, _PIECE):
                flat[place].copy_(to_torch(piece, value, copy=False))
        else:
            tensor.copy_(to_torch(expected, value, copy=False))
        if self.perturb:
            self._move(tensor, self.perturb * ulp(1.0, expected.dtype))
        first = self.reference.first(name)
        self._placed[id(tensor)] = _Placed(weakref.ref(tensor), version_of(tensor), tap.id, first)
        return tensor

    def _move(self, tensor: Tensor, by: float) -> None:
        """Every number up or down by that share of it."""
        for piece in tensor.as_strided((tensor.numel(),), (1,)).split(_PIECE):  # type: ignore[no-untyped-call]
            signs = torch.randint(0, 2, piece.shape, generator=self.generator).mul_(2).sub_(1)
            piece.mul_(signs.to(piece).mul_(by).add_(1))


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

    def run(exact: nn.Module, weights: Collection[Tensor]) -> dict[str, Noise]:
        widening = Widening(weights, ROOM // 8 if tight else ROOM)
        makers = _makers(exact) if selection.inputs else ()
        meter = _NoiseMeter(reference, widening, makers, substitute, perturb, tight)
        given, named = map_tensors(to_double, (args, dict(kwargs)))
        instrument = Instrument(exact, selection, meter, known=reference.taps)
        with instrument, torch.no_grad(), torch.random.fork_rng(devices=[]), widening:
            exact(*given, **named)
        return meter.noise

    try:
        try:
            return run(*widened_copy(model))
        except Exception:
            if isinstance(model, StandIn):
                raise
            return run(copy.deepcopy(model).double(), ())
    except Exception as error:
        raise ModelError(f"no float64 run: {type(error).__name__}: {first_line(error)}") from error


def _makers(model: nn.Module) -> Collection[str]:
    """Torch's own modules without others inside: they return what they computed and keep none of it."""
    named = model.named_modules(remove_duplicate=False)
    return frozenset(
        path
        for path, module in named
        if type(module).__module__.startswith("torch.nn.modules.") and next(module.children(), None) is None
    )
