"""Backends: the runtimes that a candidate can run on, each opened in one way.

``resolve_backend(name_or_object)`` gives one; ``backend.open(model)`` a session, ``session.run(feeds)`` every
output by name. A new one is a :class:`Backend` and an entry in :data:`table.BACKENDS`.
"""

from __future__ import annotations

from alignkit.backends.function import FunctionBackend
from alignkit.backends.onnxruntime import OnnxRuntime
from alignkit.backends.protocol import Backend, KernelError, Session
from alignkit.backends.table import BACKENDS, resolve_backend

__all__ = [
    "BACKENDS",
    "Backend",
    "FunctionBackend",
    "KernelError",
    "OnnxRuntime",
    "Session",
    "resolve_backend",
]
