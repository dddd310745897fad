"""Options: what ``compare`` and ``Debugger.compare`` take by keyword, checked and bundled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.backends import Backend, OnnxRuntime, resolve_backend
from alignkit.backends.onnxruntime import LEVELS, resolve_providers
from alignkit.budget import Budget, default_budget
from alignkit.errors import CompareError
from alignkit.instrument import Selection
from alignkit.mapping import load_map
from alignkit.settings import Settings
from alignkit.tolerance import Tolerances


def make_settings(
    *,
    exporter: str = "dynamo",
    export_options: Mapping[str, Any] | None = None,
    backend: Any = "ort",
    providers: Sequence[Any] = ("CPUExecutionProvider",),
    optimization: str = "all",
    threads: int | None = None,
    session_options: Any = None,
    custom_op_libraries: Sequence[str | Path] = (),
    disabled_optimizers: Sequence[str] = (),
    rtol: float | None = None,
    atol: float | None = None,
    tolerances: Mapping[str, tuple[float, float]] | None = None,
    noise_floor: bool = True,
    include: Sequence[str] | str = (),
    exclude: Sequence[str] | str = (),
    types: Sequence[str] | str = (),
    depth: int | None = None,
    granularity: str = "module",
    map: str | Path | Mapping[str, str] | None = None,
    isolate_export: bool = False,
    max_bytes: int | None = None,
) -> Settings:
    """Check and bundle the options of a comparison.

    ``backend`` is what the deployed model runs on: ``"ort"`` (ONNX Runtime, on ``providers``),
    ``"ort:cuda"``, ``"openvino"``, ``"reference"`` (the ONNX reference evaluator), or a callable that loads
    a model and returns what runs it; a list of them is compared side by side in one report.
    ``optimization`` is ONNX Runtime's graph optimisation level that the product runs at
    (``"disable"``, ``"basic"``, ``"extended"``, ``"all"``); ``session_options`` is an
    ``onnxruntime.SessionOptions`` used instead. ``rtol`` and ``atol`` replace the noise floor as
    the judge; ``tolerances`` does so per dtype name or tap glob, as ``(rtol, atol)``.
    ``noise_floor=False`` saves two float64 runs and judges by the tolerances of torch.testing.
    ``include`` and ``exclude`` are globs (or ``re:`` expressions) over module paths, ``types``
    names module classes, ``depth`` bounds how deep modules are tapped. ``granularity="op"`` taps every
    torch function in the forwards as well, not only around a culprit. ``map`` pins taps to values of
    a file without taps: tap -> ONNX value, or a file that says so. ``isolate_export`` exports
    in a child process, so that an exporter's crash is an error and not the end of this process.
    ``max_bytes`` bounds the memory for tensors (default: half of what is free): the runs are made in parts
    of a share of it, and what of the reference is beyond another goes to a temporary file. No single tap
    may be larger.
    """
    if optimization not in LEVELS:
        raise CompareError(f"no optimisation level {optimization!r}; known: {', '.join(LEVELS)}.")
    run = OnnxRuntime(
        providers=resolve_providers(providers),
        optimization=optimization,
        threads=threads,
        custom_op_libraries=tuple(str(path) for path in custom_op_libraries),
        disabled_optimizers=tuple(disabled_optimizers),
        session_options=session_options,
    )
    backends = _backends(backend, run)
    return Settings(
        exporter=exporter,
        export_options=dict(export_options or {}),
        run=backends[0],
        candidates=backends if len(backends) > 1 else (),
        tolerances=Tolerances(rtol, atol, dict(tolerances or {})),
        selection=make_selection(include, exclude, types, depth, granularity),
        noise_floor=noise_floor,
        pinned=load_map(Path(map)) if isinstance(map, (str, Path)) else dict(map or {}),
        isolate_export=isolate_export,
        budget=_budget(max_bytes),
    )


def _budget(max_bytes: int | None) -> Budget:
    if max_bytes is None:
        return default_budget()
    if max_bytes < 1:
        raise CompareError(f"max_bytes is {max_bytes}: give a number of bytes above zero.")
    return Budget(max_bytes, given=True)


def _backends(given: Any, run: OnnxRuntime) -> tuple[Backend, ...]:
    """Raises :class:`CompareError` for none, and for a name that stands for two."""
    backends = tuple(
        resolve_backend(one, run) for one in (given if isinstance(given, list | tuple) else [given])
    )
    names = [one.name for one in backends]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CompareError(f"the backend {twice[0]!r} is named twice: give each candidate once.")
    if not backends:
        raise CompareError("no backend: name at least one, e.g. backend='ort'.")
    return backends


def make_selection(
    include: Sequence[str] | str = (),
    exclude: Sequence[str] | str = (),
    types: Sequence[str] | str = (),
    depth: int | None = None,
    granularity: str = "module",
) -> Selection:
    """The taps that these options choose; see :func:`make_settings`."""
    return Selection(_names(include), _names(exclude), _names(types), depth, granularity=granularity)


def _names(value: Sequence[str] | str) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
