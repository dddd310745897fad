"""The public face: :class:`Debugger`, :func:`compare`, :func:`assert_aligned`, :func:`debug`."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from alignkit.backends import OnnxRuntime
from alignkit.budget import default_budget
from alignkit.capture import Recorder
from alignkit.classic import ClassicCalls
from alignkit.datasets import as_arguments, as_data_set
from alignkit.errors import (
    AlignkitWarning,
    CompareError,
    DivergenceError,
    ExportError,
    InputError,
    ModelError,
)
from alignkit.export import Marker, explain
from alignkit.instrument import Instrument, Selection, tap_explicit
from alignkit.marker import is_marking
from alignkit.obtain import holds_taps
from alignkit.options import make_selection, make_settings
from alignkit.passes import resolve_pass
from alignkit.pipeline import compare_candidates, compare_model
from alignkit.progress import Progress
from alignkit.records import Array, Tap
from alignkit.report import Report
from alignkit.script import listen
from alignkit.settings import Files, Sample
from alignkit.sources import fit_samples, open_source
from alignkit.standin import StandIn
from alignkit.stepwise import compare_steps
from alignkit.storage import temporary_folder


def compare(
    model: Any,
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    inputs: Any = None,
    onnx: str | Path | None = None,
    candidate_inputs: Any = None,
    exporter: str = "dynamo",
    export_options: Mapping[str, Any] | None = None,
    passes: Sequence[Any] = (),
    progress: Progress | None = None,
    trust: bool = False,
    **options: Any,
) -> Report:
    """Export ``model`` and compare every layer between PyTorch and the runtime it is deployed in.

    ``model`` is an ``nn.Module``, a traced or scripted module, an ``ExportedProgram``, or a file:
    TorchScript, ``.pt2``, a dump or another ONNX file, of which the last two need ``onnx``. With
    ``trust`` the file may be a pickled module, whose unpickling runs code.

    ``args`` (a tensor, or a tuple of positional arguments) and ``kwargs`` are what the model is
    exported with. ``inputs`` is what both sides are compared on: a tensor, a tuple, a dict of
    keyword arguments, or a data set of those (a list, a generator, a ``DataLoader`` …, what
    :func:`input_files` and :func:`input_shapes` give): one sample is held at a time, and the report
    shows the worst. The default is the export's own. ``candidate_inputs``, of the same form, is what
    the deployed side is fed where its preprocessing differs.

    ``onnx`` is an existing file, which is compared as it is: nothing is exported. Where it holds no
    taps, each tap of the model is mapped to a value of the file, by names and by numbers. ``exporter`` is
    ``"dynamo"`` or ``"torchscript"``; ``export_options`` go to ``torch.onnx.export`` as they are.

    ``passes`` are applied in order to the file as deployed, and the file is compared before the first and
    after each: names (``"onnxsim"``, ``"fp16"``, …; see :data:`alignkit.passes.PASSES`) and functions
    from ``onnx.ModelProto`` to ``onnx.ModelProto``. The given file is never changed.

    ``options`` are those of :func:`alignkit.options.make_settings`: ``backend``, ``providers``,
    ``optimization``, ``threads``, ``session_options``, ``custom_op_libraries``, ``disabled_optimizers``,
    ``rtol``, ``atol``, ``tolerances``, ``noise_floor``, ``include``, ``exclude``, ``types``, ``depth``,
    ``granularity``, ``map``, ``max_bytes``.

    The model, its buffers and training flags, and torch's RNG are afterwards as before. Raises a
    subclass of :class:`alignkit.errors.AlignkitError` that says what went wrong where.
    """
    settings = make_settings(exporter=exporter, export_options=export_options, **options)
    chain = [resolve_pass(one) for one in passes]
    runtime = settings.run if isinstance(settings.run, OnnxRuntime) else None
    model, stored = open_source(model, runtime, trust=trust)
    example = Sample(as_arguments(args), dict(kwargs or {}))
    if stored is not None and not (example.args or example.kwargs):
        example = Sample(*stored)
    data = as_data_set(example, inputs, candidate_inputs)
    if not (example.args or example.kwargs) and onnx is None and data.repeats and inputs is not None:
        example = replace(next(iter(data)), candidate=None)  # as on the command line: the first is exported
    if isinstance(model, StandIn):
        settings, example, data = fit_samples(model, settings, example, data, onnx)
    _warn_training(model)
    deployed = Path(onnx) if onnx is not None else None
    where = (model, example, data, settings)
    if chain:
        return Report(compare_steps(*where, chain, deployed=deployed, progress=progress))
    return Report(compare_model(*where, deployed=deployed, progress=progress))


def assert_aligned(
    model: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None, **options: Any
) -> Report:
    """:func:`compare`, for a test: raises :class:`DivergenceError` whose text names the culprit."""
    report = compare(model, args, kwargs, **options)
    if not report.aligned:
        raise DivergenceError(str(report))
    return report


def debug(value: Tensor, name: str) -> Tensor:
    """Tap ``value`` as ``name`` inside a forward; the identity outside every Debugger and comparison."""
    tapped = tap_explicit(value, name)
    return value if tapped is None else tapped


@dataclass(frozen=True, slots=True)
class ObservedExport:
    """The user's own ``torch.onnx.export`` call, kept so that it can be made again without taps."""

    model: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def repeat(self, path: Path) -> None:
        """Make the same call again, writing to ``path``. Raises :class:`ExportError`."""
        args, kwargs = list(self.args), dict(self.kwargs)
        if len(args) > 1:
            args[1] = str(path)
        else:
            kwargs["f"] = str(path)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.onnx.export(self.model, *args, **kwargs)
        except Exception as error:
            raise ExportError(f"exporting without taps failed: {explain(error)}") from error

    @property
    def sample(self) -> Sample:
        """What the model was exported with."""
        args = self.args[0] if self.args else self.kwargs.get("args", ())
        args, kwargs = as_arguments(args), dict(self.kwargs.get("kwargs") or {})
        if args and isinstance(args[-1], dict) and not kwargs:
            args, kwargs = args[:-1], args[-1]
        return Sample(args, kwargs)


class Debugger(ClassicCalls):
    """Taps on a model, as a context manager around the user's own calls.

    Inside the context a plain call of the model records every tap, and ``torch.onnx.export``
    (either exporter, whatever its arguments) writes a ``my::Debug`` node for every tap. The hooks
    exist only inside the context; the model is afterwards as before.

    ``include``, ``exclude``, ``types``, ``depth`` and ``granularity`` as in
    :func:`alignkit.options.make_settings`.
    Without a model only explicit taps (:meth:`debug`) exist, and no context is needed.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        *,
        include: Sequence[str] | str = (),
        exclude: Sequence[str] | str = (),
        types: Sequence[str] | str = (),
        depth: int | None = None,
        granularity: str = "module",
    ) -> None:
        super().__init__()
        if isinstance(model, torch.jit.ScriptModule):
            raise ModelError(
                "a traced or scripted module takes no hooks: give it to alignkit.compare(model, args), which "
                "taps its graph."
            )
        self.model = model
        self.selection = make_selection(include, exclude, types, depth, granularity)
        self._recorder = Recorder(default_budget())
        self._marker = Marker()
        self._stack = contextlib.ExitStack()
        self._instrument: Instrument | None = None
        self._observed: ObservedExport | None = None
        if model is None:
            listen(self)

    def __enter__(self) -> Debugger:
        with contextlib.ExitStack() as stack:
            if self.model is not None:
                self._attach(self.model)
                stack.callback(self._detach)
            stack.callback(setattr, torch.onnx, "export", torch.onnx.export)
            torch.onnx.export = self._observe(torch.onnx.export)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _attach(self, model: nn.Module) -> None:
        self._instrument = Instrument(model, self.selection, _RecordOrMark(self))
        self._instrument.__enter__()

    def _detach(self) -> None:
        if self._instrument is not None:
            self._instrument.__exit__(None, None, None)
            self._instrument = None

    def _observe(self, export: Any) -> Any:
        """``torch.onnx.export`` itself, which also leaves its arguments here.

        A model that cannot be exported with taps, but without them, is exported without.
        """

        def observed(model: Any, *args: Any, **kwargs: Any) -> Any:
            self._observed = ObservedExport(model, args, kwargs)
            try:
                return export(model, *args, **kwargs)
            except Exception as error:
                # The other exporter runs the model itself: a second time would be once too often.
                if self.model is None or not _is_dynamo(export, kwargs):
                    raise
                self._detach()
                try:
                    result = export(model, *args, **kwargs)
                finally:
                    self._attach(self.model)
                warnings.warn(
                    f"the model cannot be exported with taps ({explain(error)}), so it was exported without; "
                    "compare() maps each tap to one of the file's values.",
                    AlignkitWarning,
                    stacklevel=2,
                )
                return result

        return observed

    @property
    def values(self) -> Mapping[str, Array]:
        """What the last plain call inside the context recorded: tap name -> array."""
        return self._recorder.values

    def visit(self, tap: Tap, value: Tensor) -> Tensor:
        """Record ``value``, or mark it while an exporter traces the model."""
        return self._marker(tap, value) if is_marking() else self._recorder(tap, value)

    def begin(self) -> None:
        """A new run of the model: a recording replaces the one before, an export does not."""
        if not is_marking():
            self._recorder.begin()

    def compare(
        self,
        onnx: str | Path,
        inputs: Any = None,
        *,
        candidate_inputs: Any = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Report:
        """Compare the model with a file that was exported inside the context, or any other of this model.

        ``inputs`` defaults to what the observed export call was given. The plain, untapped model
        is exported by the same call, so that the report can tell what the taps themselves change.
        Options as in :func:`compare`; the selection is the debugger's own.
        """
        if self.model is None:
            raise CompareError("this Debugger was made without a model: use Debugger(model).")
        if unknown := sorted({"passes", "trust"} & options.keys()):
            raise InputError(f"Debugger.compare takes no {unknown[0]}=; alignkit.compare does.")
        settings = replace(make_settings(**options), selection=self.selection)
        example = self._observed.sample if self._observed is not None else Sample(())
        if inputs is None and self._observed is None:
            raise InputError("no inputs: give compare(path, inputs) what the model is called with.")
        data = as_data_set(example, inputs, candidate_inputs)
        _warn_training(self.model)
        progress = progress or Progress(quiet=True)
        if not holds_taps(Path(onnx)):
            return Report(
                compare_model(self.model, example, data, settings, deployed=Path(onnx), progress=progress)
            )
        with temporary_folder() as folder:
            files = self._files(Path(onnx), folder, progress)
            return Report(compare_candidates(self.model, data, files, settings, progress=progress))

    def _files(self, marked: Path, folder: Path, progress: Progress) -> Files:
        if self._observed is None:
            return Files(marked, None)
        plain = folder / "plain.onnx"
        example = self._observed.sample
        try:
            with progress.stage("export as deployed"):
                self._observed.repeat(plain)
        except ExportError as error:
            return Files(marked, None, (str(error),), example=example, again=self._export_again)
        return Files(marked, plain, example=example, again=self._export_again)

    def _export_again(self, path: Path, selection: Selection, known: Mapping[str, Tap]) -> Path:
        """The user's own export call once more, with other taps."""
        if self.model is not None and self._observed is not None:
            with Instrument(self.model, selection, Marker(), known=known):
                self._observed.repeat(path)
        return path


def _is_dynamo(export: Any, kwargs: Mapping[str, Any]) -> bool:
    default = inspect.signature(export).parameters["dynamo"].default
    return bool(kwargs.get("dynamo", default))


class _RecordOrMark:
    """The debugger as a visitor."""

    def __init__(self, debugger: Debugger) -> None:
        self._debugger = debugger

    def begin(self) -> None:
        self._debugger.begin()

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        return self._debugger.visit(tap, value)


def _warn_training(model: nn.Module) -> None:
    if model.training:
        warnings.warn(
            "the model is in training mode; call model.eval() unless that is what you deploy.",
            AlignkitWarning,
            stacklevel=3,
        )
