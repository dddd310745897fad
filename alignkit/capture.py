"""Capture: what plain eager PyTorch computes, one array per tap, and how exact that is.

Three eager runs share the hooks of :mod:`alignkit.instrument`:

- :func:`capture_reference` records every tap;
- :func:`measure_noise` repeats the run in float64 and records how far the reference is from it,
  either along the whole model or, with every tap's value replaced by the reference, segment by
  segment: the rounding noise that each segment itself makes;
- with a perturbation of one ULP on the replaced values, the same run tells how much of an error a
  segment makes out of rounding that happened elsewhere (its condition).
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from alignkit.errors import AlignkitError, ModelError
from alignkit.instrument import Instrument, Selection, fast_path_modules
from alignkit.metrics import measure_error, ulp
from alignkit.records import Array, Capture, Noise, Tap
from alignkit.tensors import map_tensors, tensor_leaves, to_numpy, to_torch, unrecordable, version_of
from alignkit.tolerance import TORCH_TESTING
from alignkit.untouched import model_untouched


class Recorder:
    """Visitor that records every tap once per run; equal tensors share storage.

    A tap's tensor is copied, for a later in-place operation would otherwise rewrite the record.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget the run before: only the latest run of the model counts."""
        self.taps: dict[str, Tap] = {}
        self.values: dict[str, Array] = {}
        self.untapped: dict[str, str] = {}
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, Array]] = {}

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        name = str(tap.id)
        self.taps[name] = tap
        if reason := unrecordable(value):
            self.untapped[name] = reason
        else:
            self.values[name] = self._store(value)
        return value

    def _store(self, value: Tensor) -> Array:
        version = version_of(value)
        known = self._seen.get(id(value))
        if known is not None and known[0]() is value and known[1] == version is not None:
            return known[2]
        array = to_numpy(value)
        if version is not None:
            self._seen[id(value)] = (weakref.ref(value), version, array)
        return array


def capture_reference(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], selection: Selection
) -> Capture:
    """Run ``model`` eagerly and record every tap.

    The run is made twice, without and with hooks: the reference is what plain eager computes.
    Modules whose fast path the hooks switch off are tapped inside only as long as that changes
    nothing but rounding. Parameters, buffers, training flags and the RNG are
    afterwards as before. Raises :class:`ModelError` when the forward raises.
    """
    plain = _run(model, args, kwargs)
    recorder, hooked = _run_hooked(model, args, kwargs, selection)
    fast = fast_path_modules(model)
    if fast and not _close(plain, hooked):
        recorder, hooked = _run_hooked(model, args, kwargs, replace(selection, outside=fast))
        notes = [f"{path} was tapped from outside only: hooks switch its fast path off." for path in fast]
    elif _same(plain, hooked):
        notes = []
    else:
        notes = ["Hooks change which kernel eager takes here, by no more than rounding."] if fast else []
    stable = _same(plain, hooked) or bool(fast) or _same(plain, _run(model, args, kwargs))
    if not stable:
        notes.append("Two eager runs on the same input and seed differ: the model is random or stateful.")
    return Capture(recorder.taps, recorder.values, recorder.untapped, plain, stable, tuple(notes))


def _run_hooked(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], selection: Selection
) -> tuple[Recorder, tuple[Array, ...]]:
    recorder = Recorder()
    with Instrument(model, selection, recorder, sources=True):
        return recorder, _run(model, args, kwargs)


def _same(left: tuple[Array, ...], right: tuple[Array, ...]) -> bool:
    """Bit for bit."""
    return len(left) == len(right) and all(
        a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(left, right, strict=True)
    )


def _close(left: tuple[Array, ...], right: tuple[Array, ...]) -> bool:
    """Within the tolerances of ``torch.testing``."""
    return len(left) == len(right) and all(
        a.shape == b.shape and a.dtype == b.dtype and _mismatched(a, b) == 0.0
        for a, b in zip(left, right, strict=True)
    )


def _mismatched(left: Array, right: Array) -> float:
    rtol, atol = TORCH_TESTING.get(left.dtype.name, (0.0, 0.0))
    return measure_error(left, right, rtol=rtol, atol=atol).mismatched


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Array, ...]:
    with model_untouched(model), torch.no_grad():
        try:
            # In-place operations on the inputs must not reach the user's tensors.
            args, kwargs = map_tensors(Tensor.clone, (args, dict(kwargs)))
            result = model(*args, **kwargs)
        except AlignkitError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model's forward raises {type(error).__name__}: {_first_line(error)}. "
                "Check the inputs with a plain model(*args, **kwargs) call."
            ) from error
        return tuple(to_numpy(leaf) for leaf in tensor_leaves(result) if not unrecordable(leaf))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["(no message)"])[0]


class _ReplayRecorder(Recorder):
    """Records the taps in ``keep``, and goes on with the reference, so that no segment disturbs another."""

    def __init__(self, reference: Capture, keep: Collection[str]) -> None:
        super().__init__()
        self._reference = reference
        self._keep = keep

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        name = str(tap.id)
        if name in self._keep:
            super().__call__(tap, value)
        expected = self._reference.values.get(name)
        if expected is None or expected.shape != tuple(value.shape):
            return value
        return to_torch(expected, value).to(value.dtype)


def capture_replayed(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    selection: Selection,
    reference: Capture,
    way: str,
    keep: Collection[str],
) -> Mapping[str, Array]:
    """What eager computes at the taps in ``keep``, each segment fed with the reference, run in another way.

    ``way`` is one of :data:`WAYS`: an exporter's name (with the flags set that it sets while it
    traces), ``"eval"`` (every module in evaluation mode) or ``"reseeded"`` (another seed of the
    RNG). Raises :class:`ModelError` when the forward raises.
    """
    recorder = _ReplayRecorder(reference, keep)
    instrument = Instrument(model, selection, recorder, known=reference.taps)
    with model_untouched(model), instrument, ExitStack() as stack:
        WAYS[way](model, stack)
        _run(model, args, kwargs)
    return recorder.values


def _exporting(*flags: tuple[Any, str]) -> Callable[[nn.Module, ExitStack], None]:
    def enter(model: nn.Module, stack: ExitStack) -> None:
        for owner, flag in ((torch.onnx, "is_in_onnx_export"), *flags):
            stack.enter_context(mock.patch.object(owner, flag, return_value=True))

    return enter


def _evaluating(model: nn.Module, stack: ExitStack) -> None:
    model.eval()


def _reseeding(model: nn.Module, stack: ExitStack) -> None:
    torch.manual_seed(torch.initial_seed() + 1)


WAYS: Mapping[str, Callable[[nn.Module, ExitStack], None]] = {
    "dynamo": _exporting((torch.compiler, "is_exporting"), (torch.compiler, "is_compiling")),
    "torchscript": _exporting((torch.jit, "is_tracing")),
    "eval": _evaluating,
    "reseeded": _reseeding,
}


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
        with instrument, torch.no_grad(), torch.random.fork_rng(devices=[]):
            exact(*args, **kwargs)
    except Exception as error:
        raise ModelError(f"no float64 run: {type(error).__name__}: {_first_line(error)}") from error
    return meter.noise


def _to_double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value.clone()
