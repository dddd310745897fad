"""ONNX Runtime: feed a model and fetch every output by name.

The only module that knows it. What the runtime refuses comes back as :class:`BackendError`, or as
:class:`KernelError` when one node is to blame, so that the caller can go on without that node.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from alignkit.backends.binding import DTYPES, bind_feeds
from alignkit.backends.protocol import KernelError
from alignkit.errors import BackendError
from alignkit.memory import Buffers
from alignkit.records import Array

LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

_RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error
    for name in dir(state)
    if isinstance(error := getattr(state, name), type) and issubclass(error, Exception)
)
_BOUND_ERRORS: tuple[type[Exception], ...] = (*_RUNTIME_ERRORS, RuntimeError)
"""A run with bound outputs does not say what kind of error it met."""

_NO_KERNEL = (
    re.compile(
        r"Could not find an implementation for (?P<op>[\w.:]+)\(\d+\) node with name '(?P<node>[^']*)'"
    ),
    re.compile(r"Fatal error: (?P<op>[\w.:]+)\(-?\d+\) is not a registered function/op"),
    re.compile(r"No [Oo]p(?:Schema)? registered for (?P<op>[\w.:]+)"),
)
_FAILED_NODE = re.compile(r"running (?P<op>\w+) node\. Name:'(?P<node>[^']*)'")
_QUIET = 4  # ORT's severity "fatal": its errors come back as exceptions, its warnings as report

_FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"
_BFLOAT16 = 16  # TensorProto.BFLOAT16


@dataclass(frozen=True, slots=True)
class OnnxRuntime:
    """How the deployed model is run; see :func:`alignkit.compare` for the meaning of each."""

    providers: tuple[Any, ...] = ("CPUExecutionProvider",)
    optimization: str = "all"
    threads: int | None = None
    custom_op_libraries: tuple[str, ...] = ()
    disabled_optimizers: tuple[str, ...] = ()
    session_options: Any = field(default=None, compare=False)
    prepack: bool = True  # weights copied once more, in the order that matrix products read them
    name: str = "ort"
    title: str = field(default="ONNX Runtime", init=False)

    def open(self, model: bytes | Path, folder: Path | None = None) -> Session:
        """Load ``model``; see :class:`Session`."""
        return Session(model, self, folder)

    def describe(self) -> Mapping[str, Any]:
        """Providers, optimisation level and disabled optimisers."""
        return {
            "providers": [p if isinstance(p, str) else p[0] for p in self.providers],
            "optimization": self.optimization,
            "disabled_optimizers": list(self.disabled_optimizers),
        }

    @property
    def is_on_cpu(self) -> bool:
        """Whether its kernels are the CPU's."""
        return self.providers[:1] in ((), ("CPUExecutionProvider",))

    def at_level(self, level: str) -> OnnxRuntime:
        """The same at another level of graph optimisation; the user's own options would set theirs."""
        return replace(self, optimization=level, session_options=None)

    def without(self, names: Sequence[str]) -> OnnxRuntime:
        """The same without the graph transformers of those names as well."""
        return replace(self, disabled_optimizers=(*self.disabled_optimizers, *names))


def available_providers() -> list[str]:
    """The execution providers of the installed onnxruntime, by full name."""
    return list(ort.get_available_providers())


def resolve_providers(names: Sequence[Any]) -> tuple[Any, ...]:
    """Execution providers by full name or short form (``cpu``, ``cuda``), options kept.

    Raises :class:`BackendError` that lists what is installed.
    """
    available = available_providers()
    by_short = {name.lower().removesuffix("executionprovider"): name for name in available}
    resolved = []
    for entry in names:
        name, *options = entry if isinstance(entry, tuple) else (entry,)
        full = (
            name if name in available else by_short.get(str(name).lower().removesuffix("executionprovider"))
        )
        if full is None:
            raise BackendError(
                f"no execution provider {name!r} in this onnxruntime; available: {', '.join(available)}."
            )
        resolved.append((full, *options) if options else full)
    return tuple(resolved)


class Session:
    """One loaded model. ``model`` is a path or serialised bytes whose external data lie in ``folder``.

    Raises :class:`KernelError` when the runtime has no kernel for a node, :class:`BackendError`
    when it cannot load the model for another reason.
    """

    def __init__(
        self,
        model: Path | bytes,
        settings: OnnxRuntime,
        folder: Path | None = None,
    ) -> None:
        if folder is None and isinstance(model, Path):
            folder = model.parent
        options = settings.session_options or ort.SessionOptions()
        threads = options.intra_op_num_threads
        try:
            _apply(settings, options)
            if folder is not None:
                # Also for a file: the user's own options may still name the folder of another.
                options.add_session_config_entry(_FOLDER_ENTRY, str(folder.resolve()))
            self._session = ort.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                options,
                providers=list(resolve_providers(settings.providers)),
                disabled_optimizers=list(settings.disabled_optimizers) or None,
            )
            _require_providers(settings.providers, self._session.get_providers())
        except _RUNTIME_ERRORS as error:
            raise _translate(error, "load") from error
        finally:
            if settings.session_options is not None:
                # They are the user's own, who goes on using them.
                options.intra_op_num_threads = threads
                options.add_session_config_entry(_FOLDER_ENTRY, "")

    @property
    def inputs(self) -> dict[str, str]:
        """Name -> ONNX Runtime type, e.g. ``tensor(float)``."""
        return {value.name: value.type for value in self._session.get_inputs()}

    @property
    def outputs(self) -> list[str]:
        return [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Every output (or those in ``names``) by name.

        Raises :class:`InputError` when ``feeds`` do not fit, :class:`KernelError` when a node fails.
        """
        wanted = list(names) if names is not None else self.outputs
        bound = bind_feeds(feeds, self.inputs)
        try:
            values = self._run(wanted, bound)
        except _RUNTIME_ERRORS as error:
            raise _translate(error, "run") from error
        return dict(zip(wanted, values, strict=True))

    def run_into(
        self, buffers: Buffers, feeds: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Any]:
        """Every output by name, like :meth:`run`, but written to ``buffers`` where it has the shape
        that ``shapes`` expects; those arrays hold until the buffers are used again."""
        kinds = {value.name: DTYPES.get(value.type) for value in self._session.get_outputs()}
        held = {
            name: (shapes[name], dtype)
            for name, dtype in kinds.items()
            if dtype is not None and 0 not in shapes.get(name, (0,))
        }
        if not held or ml_dtypes.bfloat16 in (*kinds.values(), *map(DTYPES.get, self.inputs.values())):
            return self.run(feeds)
        arrays = buffers.arrays(held)
        try:
            return self._run_bound(bind_feeds(feeds, self.inputs), kinds, arrays)
        except _BOUND_ERRORS:
            return self.run(feeds)  # a shape that nobody expected, or an error that it will tell

    def _run_bound(
        self, bound: Mapping[str, Array], names: Iterable[str], arrays: Mapping[str, Array]
    ) -> dict[str, Any]:
        binding = self._session.io_binding()
        for name, value in bound.items():
            binding.bind_cpu_input(name, value)
        for name in names:
            if (array := arrays.get(name)) is None:
                binding.bind_output(name)
            else:
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return {
            name: arrays[name] if name in arrays else value.numpy()
            for name, value in zip(names, values, strict=True)
        }

    def _run(self, wanted: list[str], bound: Mapping[str, Array]) -> list[Any]:
        kinds = [*self.inputs.values(), *(value.type for value in self._session.get_outputs())]
        if "tensor(bfloat16)" not in kinds:
            return list(self._session.run(wanted, bound))
        values = {name: _to_ort(value) for name, value in bound.items()}
        return [_from_ort(value) for value in self._session.run_with_ort_values(wanted, values)]


def _to_ort(value: Array) -> ort.OrtValue:
    if value.dtype != ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy(value)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(value.view(np.uint16), _BFLOAT16)


def _from_ort(value: ort.OrtValue) -> Any:
    """The runtime hands out no bfloat16 array: its bits are copied from where they lie."""
    if value.data_type() != "tensor(bfloat16)":
        return value.numpy()
    shape = tuple(value.shape())
    size = int(np.prod(shape))
    bits = np.empty(0, np.uint16)
    if size:
        bits = np.array((ctypes.c_uint16 * size).from_address(value.data_ptr()), np.uint16)
    return bits.view(ml_dtypes.bfloat16).reshape(shape)


def _require_providers(wanted: Sequence[Any], used: Sequence[str]) -> None:
    """Where a provider does not start, the runtime goes on without it and says so in its log alone."""
    for entry in wanted:
        name = entry if isinstance(entry, str) else entry[0]
        if name not in used:
            raise BackendError(
                f"the execution provider {name} did not start: onnxruntime would run on {', '.join(used)}. "
                "Check its driver and its libraries."
            )


_TOO_NEW = ("Unsupported model IR version", "is under development and support for this is limited")


def _apply(settings: OnnxRuntime, options: ort.SessionOptions) -> None:
    if settings.session_options is None:
        if settings.optimization not in LEVELS:
            raise BackendError(
                f"no optimisation level {settings.optimization!r}; known: {', '.join(LEVELS)}."
            )
        options.graph_optimization_level = LEVELS[settings.optimization]
        options.log_severity_level = _QUIET
        # A session here runs once or twice: planning memory for the next run costs more than it saves.
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = False
        # Its threads leave the machine to the measuring while they have nothing to do.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not settings.prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
    if settings.threads is not None:
        options.intra_op_num_threads = settings.threads
    for library in settings.custom_op_libraries:
        try:
            options.register_custom_ops_library(library)
        except _RUNTIME_ERRORS as error:
            raise BackendError(f"custom-op library {library} cannot be loaded: {_reason(error)}") from error


def _translate(error: Exception, step: str) -> BackendError:
    reason = _reason(error)
    for pattern in _NO_KERNEL:
        if match := pattern.search(str(error)):
            named = match.groupdict()
            op = named["op"].replace(":", "::").replace("::::", "::")
            return KernelError(
                f"onnxruntime has no kernel for {op}", op, named.get("node") or "", while_running=False
            )
    if match := _FAILED_NODE.search(str(error)):
        message = f"onnxruntime failed in {match['op']} {match['node']!r}: {reason}"
        return KernelError(message, match["op"], match["node"], while_running=True)
    too_new = any(words in reason for words in _TOO_NEW)
    advice = ". Upgrade onnxruntime, or export with an older opset_version." if too_new else ""
    return BackendError(f"onnxruntime cannot {step} the model: {reason}{advice}")


def _reason(error: Exception) -> str:
    """The runtime's message in one line, without its source locations."""
    text = " ".join(str(error).split())
    text = re.sub(r"/\S+\.(?:cc|h):\d+ ", "", text)
    text = re.sub(r"(?:void )?onnxruntime::[\w:]+\(.*?\) (?=[A-Z])", "", text)  # a C++ function's own name
    return text if len(text) <= 300 else text[:299] + "…"
