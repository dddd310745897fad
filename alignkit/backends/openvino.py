"""OpenVINO: an optional extra, loaded when it is asked for.

Weights and activations are computed in float32 unless the user says otherwise: on machines that have them
its own default is bfloat16 or float16, which would be blamed on the model.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import NodeProto

from alignkit.backends.binding import bind_feeds
from alignkit.backends.graph import Signature, qualified, read_model, read_signature, self_contained
from alignkit.backends.protocol import KernelError, Session, Unbuffered
from alignkit.errors import BackendError
from alignkit.records import Array

_NO_RULE = re.compile(r"No conversion rule found for operations: (?P<ops>[^\n]+)")
_NO_CONVERSION = re.compile(r"Conversion is failed for: (?P<ops>[^\n]+)")
_NODE = (
    re.compile(r"<Node\((?P<op>\w+)\): (?P<node>[^>]*)>"),
    re.compile(r"Node (?P<node>\S+) of type (?P<op>\w+)"),
    re.compile(r"with friendly_name '(?P<node>[^']*)'"),
    re.compile(r"node with name '(?P<node>[^']*)'"),
    re.compile(r"support (?P<op>\w+) operation .*Operation name: (?P<node>\S+)"),
)
_VERSION = re.compile(r"-\d+$")
_SOURCE = re.compile(r"(?:Exception from|Check '[^']*' failed at) \S+?:\d+:")
_LONGEST = 300
_NOT_INSTALLED = "OpenVINO is not installed. Try: pip install 'alignkit[openvino]'"


@dataclass(frozen=True, slots=True)
class OpenVino:
    """The backend ``openvino`` on ``device``; ``options`` go to ``compile_model`` as they are.

    Raises :class:`BackendError` where OpenVINO is not installed. It is not loaded before it opens a
    model: its threads would not survive the fork that an export may run in.
    """

    device: str = "CPU"
    options: Mapping[str, Any] = field(default_factory=lambda: {"INFERENCE_PRECISION_HINT": "f32"})
    threads: int | None = None
    name: str = "openvino"
    title: str = field(default="OpenVINO", init=False)

    def __post_init__(self) -> None:
        if find_spec("openvino") is None:
            raise BackendError(_NOT_INSTALLED)

    def open(self, model: bytes | Path, folder: Path | None = None) -> Session:
        """Load ``model``."""
        return _Session(self, model, folder)

    def describe(self) -> Mapping[str, Any]:
        """Version, device and options."""
        version = importlib.import_module("openvino").__version__
        return {"openvino": version.split("-")[0], "device": self.device, "options": dict(self.options)}


def _core() -> Any:
    try:
        return importlib.import_module("openvino").Core()
    except ImportError as error:
        raise BackendError(_NOT_INSTALLED) from error


def _require_device(name: str, known: Sequence[str]) -> None:
    if name.split(".")[0] not in {one.split(".")[0] for one in known}:
        raise BackendError(f"OpenVINO has no device {name!r} here; available: {', '.join(known)}.")


class _Session(Unbuffered):
    """A file is compiled as it is, as the product does it. Serialised models have no sizes: they are
    compiled for those of the first run, since some operators need them."""

    def __init__(self, backend: OpenVino, model: bytes | Path, folder: Path | None) -> None:
        self._backend, self._core = backend, _core()
        _require_device(backend.device, self._core.available_devices)
        proto = read_model(model)
        self._signature = read_signature(proto)
        self._held = ExitStack()  # weights in a file are mapped into memory
        given: bytes | Path = model
        if isinstance(model, bytes):
            given = self._held.enter_context(self_contained(proto, folder or Path()))
        try:
            self._model = self._core.read_model(given)
        except RuntimeError as error:
            raise _translate(error, self._signature, "load") from error
        self._compiled: tuple[object, Any] | None = None
        self._fixed = isinstance(model, bytes)
        if not self._fixed:
            self._compile_as_it_is()

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Every output (or those in ``names``) by name."""
        bound = bind_feeds(feeds, self._signature.inputs)
        compiled = self._prepare(bound)
        ports = {name: port for port in compiled.inputs for name in port.names if name in bound}
        fed = {ports[name]: _to_openvino(value) for name, value in bound.items() if name in ports}
        try:
            request = compiled.create_infer_request()
            results = request.infer(fed)
        except RuntimeError as error:
            raise _translate(error, self._signature, "run") from error
        found = {
            name: _from_openvino(results[port], port) for port in compiled.outputs for name in port.names
        }
        wanted = list(names) if names is not None else list(self._signature.outputs)
        if missing := [name for name in wanted if name not in found]:
            raise BackendError(f"OpenVINO lost the output {missing[0]!r} while it compiled the model.")
        return {name: found[name] for name in wanted}

    def _compile_as_it_is(self) -> None:
        try:
            self._compiled = None, self._compile()
        except RuntimeError as error:
            if "dynamic rank" not in str(error):
                raise _translate(error, self._signature, "load") from error
            self._fixed = True  # it cannot be compiled before its sizes are known

    def _prepare(self, bound: Mapping[str, Array]) -> Any:
        """The compiled model; ``bound`` gives the sizes where they are fixed."""
        shapes = {name: value.shape for name, value in bound.items()} if self._fixed else None
        if self._compiled is None or self._compiled[0] != shapes:
            ports = {name: port for port in self._model.inputs for name in port.names}
            try:
                known = {ports[name]: list(shape) for name, shape in (shapes or {}).items() if name in ports}
                if known:
                    self._model.reshape(known)
            except RuntimeError as error:
                raise _translate(error, self._signature, "run") from error
            try:
                self._compiled = shapes, self._compile()
            except RuntimeError as error:
                raise _translate(error, self._signature, "load") from error
        return self._compiled[1]

    def _compile(self) -> Any:
        options = dict(self._backend.options)
        if self._backend.threads is not None:
            options["INFERENCE_NUM_THREADS"] = self._backend.threads
        return self._core.compile_model(self._model, self._backend.device, options)


def _to_openvino(value: Array) -> Array:
    """It takes the bits of bfloat16 for those of its stand-in in numpy, which is float16."""
    return value.view(np.float16) if value.dtype == ml_dtypes.bfloat16 else value


def _from_openvino(value: Array, port: Any) -> Array:
    is_brain = port.element_type.get_type_name() == "bf16"
    return value.view(ml_dtypes.bfloat16) if is_brain else value


def _translate(error: Exception, signature: Signature, step: str) -> BackendError:
    text = str(error)
    if match := _NO_RULE.search(text):
        node = _first_known(match["ops"], signature)
        if node is not None:
            op = qualified(node)
            return KernelError(f"OpenVINO has no {op}", op, node.name, while_running=False)
    node = _blamed(text, signature)
    if node is None:
        return BackendError(f"OpenVINO cannot {step} the model: {_reason(text)}")
    message = f"OpenVINO failed in {qualified(node)} {node.name!r}: {_reason(text)}"
    # What it cannot convert or compile says little of the file; what fails on its values does.
    return KernelError(message, qualified(node), node.name, while_running=True, conclusive=step == "run")


def _blamed(text: str, signature: Signature) -> NodeProto | None:
    """The node of the file that the message tells of, by its name, by a value's, or by its operator."""
    for pattern in _NODE:
        for match in pattern.finditer(text):
            if (node := signature.find_node(match["node"])) is not None:
                return node
    told = _NO_CONVERSION.search(text) or _NO_RULE.search(text)
    return _first_known(told["ops"], signature) if told else None


def _first_known(listed: str, signature: Signature) -> NodeProto | None:
    """Of operators like ``Det-18, com.x.Foo`` the first that the file has."""
    for entry in listed.split(","):
        domain, _, op = _VERSION.sub("", entry.strip()).rpartition(".")
        if (node := signature.find_op(f"{domain}::{op}" if domain else op)) is not None:
            return node
    return None


def _reason(text: str) -> str:
    """The message in one line, without its source locations and its advertisement."""
    line = " ".join(_SOURCE.sub("", text).split("To facilitate the conversion")[0].split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
