"""The known backends: a literal table, and how a name or an object becomes one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from alignkit.backends.onnxruntime import OnnxRuntime, available_providers, resolve_providers
from alignkit.backends.protocol import Backend
from alignkit.errors import BackendError

Make = Callable[[str, OnnxRuntime], Backend]
"""From what stands behind the colon of a name (nothing: empty) and the settings of a run."""


def _make_ort(detail: str, settings: OnnxRuntime) -> Backend:
    if not detail:
        return settings
    return replace(settings, providers=resolve_providers([detail]), name=f"ort:{detail}")


def _make_reference(detail: str, settings: OnnxRuntime) -> Backend:
    from alignkit.backends.reference import Reference

    if detail:
        raise BackendError(f"the backend 'reference' takes nothing behind a colon, here {detail!r}.")
    return Reference()


def _make_openvino(detail: str, settings: OnnxRuntime) -> Backend:
    from alignkit.backends.openvino import OpenVino

    name = f"openvino:{detail}" if detail else "openvino"
    return OpenVino(detail.upper() or "CPU", threads=settings.threads, name=name)


BACKENDS: Mapping[str, Make] = MappingProxyType(
    {"ort": _make_ort, "reference": _make_reference, "openvino": _make_openvino}
)

_PACKAGES = {"openvino": "openvino"}
"""Backend -> the package that it needs and that is no part of the plain installation."""


def resolve_backend(name_or_object: Any, settings: OnnxRuntime | None = None) -> Backend:
    """A backend by name (``ort``, ``ort:cuda``, ``openvino``, ``reference``), by a callable, or as it is.

    ``settings`` are those of a run in ONNX Runtime; other backends take their number of threads. Raises
    :class:`BackendError` that lists what is known and what is not installed.
    """
    settings = settings or OnnxRuntime()
    if not isinstance(name_or_object, str):
        return _from_object(name_or_object)
    name, _, detail = name_or_object.partition(":")
    if name not in BACKENDS:
        raise BackendError(f"no backend {name_or_object!r}; known: {describe_backends()}.")
    return BACKENDS[name](detail, settings)


def describe_backends() -> str:
    """What ``resolve_backend`` takes, in one line."""
    absent = {name for name, package in _PACKAGES.items() if find_spec(package) is None}
    providers = (name.removesuffix("ExecutionProvider").lower() for name in available_providers())
    known = [f"{name} (not installed)" if name in absent else name for name in BACKENDS]
    known[0] += f" (ort:{', ort:'.join(providers)})"
    return f"{', '.join(known)}, or file.py:load and package.module:load for a runtime of your own"


def _from_object(given: Any) -> Backend:
    from alignkit.backends.function import FunctionBackend

    if isinstance(given, Backend):
        return given
    if callable(given):
        return FunctionBackend(given, getattr(given, "__qualname__", type(given).__name__))
    raise BackendError(
        f"{type(given).__name__} is no backend: give a name ({describe_backends()}), or a callable that "
        "loads a model and returns what runs it."
    )
