"""Capture: what plain eager PyTorch computes, one array per tap.

:func:`capture_reference` records every tap, :func:`confirm_reference` makes sure that the recording
changed nothing; :func:`capture_replayed` runs the model once more in
another way, each segment fed with the reference.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.budget import Budget, too_small
from alignkit.errors import AlignkitError, CompareError, ModelError, first_line
from alignkit.instrument import Instrument, Selection, fast_path_modules, may_notice_hooks
from alignkit.memory import give_back
from alignkit.metrics import measure_error
from alignkit.records import Array, Capture, Sides, Tap
from alignkit.standin import StandIn
from alignkit.storage import TensorStore
from alignkit.tensors import map_tensors, tensor_leaves, to_numpy, to_torch, unrecordable, version_of
from alignkit.tolerance import TORCH_TESTING
from alignkit.untouched import model_untouched


class Recorder:
    """Visitor that records every tap once per run; equal tensors share storage.

    A tap's tensor is copied, for a later in-place operation would otherwise rewrite the record; what is
    beyond the budget is copied to a file.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget
        self.begin()

    def begin(self) -> None:
        """Forget the run before: only the latest run of the model counts."""
        self.taps: dict[str, Tap] = {}
        self.values = TensorStore(self._budget.held_bytes if self._budget else None)
        self.untapped: dict[str, str] = {}
        self._largest = 0, ""
        self._seen: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        name = str(tap.id)
        self.taps[name] = tap
        if reason := unrecordable(value):
            self.untapped[name] = reason
        else:
            self._store(name, value)
        return value

    def _store(self, name: str, value: Tensor) -> None:
        version = version_of(value)
        known = self._seen.get(id(value))
        if known is not None and known[0]() is value and known[1] == version is not None:
            self.values.link(name, known[2])
            return
        self._largest = max(self._largest, (value.nbytes, name))
        if self.values.has_room(value.nbytes):
            self.values.keep(name, to_numpy(value))
        elif self._budget is None or self._fits(self._budget):
            self.values.spill(name, to_numpy(value, copy=False))
        else:
            return  # require_room() will say so
        if version is not None:
            self._seen[id(value)] = (weakref.ref(value), version, name)

    def _fits(self, budget: Budget) -> bool:
        return not budget.given or self._largest[0] <= budget.total

    def require_room(self) -> None:
        """Raises :class:`CompareError` where the user's budget is smaller than the largest tensor."""
        size, name = self._largest
        if self._budget is not None and not self._fits(self._budget):
            raise CompareError(too_small(self._budget.total, size, name))


def capture_reference(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    selection: Selection,
    *,
    confirm: bool = True,
    budget: Budget | None = None,
) -> Capture:
    """Run ``model`` eagerly and record every tap.

    The reference is what plain eager computes: the model is run once more without hooks. With
    ``confirm`` false that is left to a later :func:`confirm_reference`, unless the model has modules
    that may run otherwise under hooks, or draws random numbers. Parameters, buffers, training flags
    and the RNG are afterwards as before. What is beyond the ``budget`` (None: none has to be kept) is
    written to a temporary file. Raises :class:`ModelError` when the forward raises, :class:`CompareError`
    for a budget that the largest tap does not fit, and :class:`StorageError` where there is no room for
    that file.
    """
    recorder, outputs, draws = _run_hooked(model, args, kwargs, selection, budget)
    sides = model.sides if isinstance(model, StandIn) else Sides()
    found = Capture(
        recorder.taps,
        recorder.values,
        recorder.untapped,
        outputs,
        confirmed=False,
        sides=sides,
        same=recorder.values.links,
    )
    if confirm or draws or may_notice_hooks(model):
        return confirm_reference(model, args, kwargs, selection, found, budget=budget)
    return found


def confirm_reference(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    selection: Selection,
    found: Capture,
    *,
    budget: Budget | None = None,
) -> Capture:
    """``found`` with the outputs of a run without hooks; with the same arrays where nothing differs.

    Modules whose fast path the hooks switch off are tapped inside only as long as that changes
    nothing but rounding.
    """
    if found.confirmed:
        return found
    plain, draws = _run(model, args, kwargs)
    same = _same(plain, found.outputs)
    notes = []
    fast = fast_path_modules(model)
    if fast and not _close(plain, found.outputs):
        recorder, _, _ = _run_hooked(model, args, kwargs, replace(selection, outside=fast), budget)
        values = recorder.values
        found = replace(
            found, taps=recorder.taps, values=values, untapped=recorder.untapped, same=values.links
        )
        notes += [f"{path} was tapped from outside only: hooks switch its fast path off." for path in fast]
    elif fast and not same:
        notes.append("Hooks change which kernel eager takes here, by no more than rounding.")
    if not (same or fast or _same(plain, _run(model, args, kwargs)[0])):
        notes.append("Two eager runs on the same input and seed differ: the model is random or stateful.")
    outputs = found.outputs if same else plain
    found = replace(found, outputs=outputs, notes=tuple(notes), confirmed=True)
    if not draws:
        return found
    return replace(found, random=_random_taps(model, args, kwargs, selection, found, budget))


def _random_taps(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    selection: Selection,
    reference: Capture,
    budget: Budget | None,
) -> frozenset[str]:
    """The taps whose own segment computes something else with another seed."""
    where = (model, args, kwargs, selection, reference)
    others = capture_replayed(*where, "reseeded", reference.values.keys(), budget=budget)
    same = {tap for tap, value in others.items() if _same((value,), (reference.values[tap],))}
    return frozenset(others.keys() - same)


def _run_hooked(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    selection: Selection,
    budget: Budget | None,
) -> tuple[Recorder, tuple[Array, ...], bool]:
    recorder = Recorder(budget)
    with Instrument(model, selection, recorder, sources=True):
        outputs, draws = _run(model, args, kwargs)
    recorder.require_room()
    if budget is not None and not budget.overlaps:
        give_back()
    if isinstance(model, StandIn):
        for tap, reason in model.untapped.items():
            if selection.wants(tap):
                recorder.taps.setdefault(str(tap.id), tap)
                recorder.untapped.setdefault(str(tap.id), reason)
    return recorder, outputs, draws


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


def _run(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Array, ...], bool]:
    """The outputs, and whether the run drew random numbers."""
    with model_untouched(model), torch.no_grad():
        before = torch.get_rng_state()
        try:
            # In-place operations on the inputs must not reach the user's tensors.
            args, kwargs = map_tensors(Tensor.clone, (args, dict(kwargs)))
            result = model(*args, **kwargs)
        except AlignkitError:
            raise
        except Exception as error:
            raise ModelError(
                f"the model's forward raises {type(error).__name__}: {first_line(error)}. "
                "Check the inputs with a plain model(*args, **kwargs) call."
            ) from error
        outputs = tuple(to_numpy(leaf) for leaf in tensor_leaves(result) if not unrecordable(leaf))
        return outputs, not torch.equal(before, torch.get_rng_state())


class _ReplayRecorder(Recorder):
    """Records the taps in ``keep``, and goes on with the reference, so that no segment disturbs another."""

    def __init__(self, reference: Capture, keep: Collection[str], budget: Budget | None) -> None:
        super().__init__(budget)
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
    *,
    budget: Budget | None = None,
) -> Mapping[str, Array]:
    """What eager computes at the taps in ``keep``, each segment fed with the reference, run in another way.

    ``way`` is one of :data:`WAYS`: an exporter's name (with the flags set that it sets while it
    traces), ``"eval"`` (every module in evaluation mode) or ``"reseeded"`` (another seed of the
    RNG). Raises :class:`ModelError` when the forward raises.
    """
    if isinstance(model, StandIn) and model.fixed:
        raise ModelError(model.fixed)
    recorder = _ReplayRecorder(reference, keep, budget)
    instrument = Instrument(model, selection, recorder, known=reference.taps)
    with model_untouched(model), instrument, ExitStack() as stack:
        WAYS[way](model, stack)
        _run(model, args, kwargs)
    return recorder.values


def _yes() -> bool:
    return True


def _exporting(*flags: tuple[Any, str]) -> Callable[[nn.Module, ExitStack], None]:
    def enter(model: nn.Module, stack: ExitStack) -> None:
        for owner, flag in ((torch.onnx, "is_in_onnx_export"), *flags):
            # A forward may hold the function itself (from torch.onnx import …): its code is exchanged.
            function = getattr(owner, flag)
            stack.callback(setattr, function, "__code__", function.__code__)
            function.__code__ = _yes.__code__

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
