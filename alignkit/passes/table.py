"""The known passes: a literal table, and ``resolve_pass`` for a name or a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from alignkit.errors import PassError
from alignkit.passes import converters, runtime
from alignkit.records import Array

Samples = Callable[[Path], Iterator[Mapping[str, Array]]]
"""The comparison's samples as feeds of the file at a path, for a pass that calibrates on them."""


class Pass(Protocol):
    """Reads the file at ``source`` and writes another to ``target``, weights outside it beside it.

    It may raise what it likes: the chain says which pass it was.
    """

    def __call__(self, source: Path, target: Path, samples: Samples, /) -> None: ...


@dataclass(frozen=True, slots=True)
class NamedPass:
    """A pass under the name that the report gives it."""

    name: str
    apply: Pass


PASSES: Mapping[str, Pass] = MappingProxyType(
    {
        "onnxsim": converters.onnxsim,
        "onnxslim": converters.onnxslim,
        "fp16": converters.half,
        "fp16:io": converters.half_throughout,
        "ort-optimize": runtime.optimize_extended,
        "ort-optimize:basic": runtime.optimize_basic,
        "quantize-dynamic": runtime.quantize_dynamic,
        "quantize-static": runtime.quantize_static,
    }
)

_PACKAGES: Mapping[str, tuple[str, str]] = {
    "onnxsim": ("onnxsim", "onnxsim"),
    "onnxslim": ("onnxslim", "onnxslim"),
    "fp16": ("onnxconverter_common", "onnxconverter-common"),
    "quantize-dynamic": ("sympy", "sympy"),
    "quantize-static": ("sympy", "sympy"),
}
"""Pass -> what it imports beyond what alignkit itself needs, and the name to install that by."""


def resolve_pass(name: str | NamedPass | Callable[[Any], Any]) -> NamedPass:
    """The pass of that name, or the one that a function from ``onnx.ModelProto`` to ``onnx.ModelProto`` is.

    Raises :class:`~alignkit.errors.PassError` naming the known passes, or the package that one lacks.
    """
    if isinstance(name, NamedPass):
        return name
    if callable(name):
        return NamedPass(getattr(name, "__name__", type(name).__name__), converters.own_function(name))
    if name not in PASSES:
        raise PassError(
            f"no pass {name!r}; known: {', '.join(PASSES)}, or script.py:function "
            "(from onnx.ModelProto to onnx.ModelProto)."
        )
    module, package = _PACKAGES.get(name.partition(":")[0], ("onnx", "onnx"))
    if find_spec(module) is None:
        raise PassError(f"the pass {name!r} needs {package}, which is missing. Try: pip install {package}")
    return NamedPass(name, PASSES[name])
