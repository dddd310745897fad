"""Passes: what is done to an exported file before it is deployed, one step after the other.

A pass reads one ONNX file and writes another; no file is ever changed in place. ``table`` holds the
known ones and resolves a name or a function, ``chain`` applies them in order, ``converters`` and
``runtime`` are the passes, ``files`` reads and writes models of any size.
"""

from alignkit.passes.chain import Step, apply_passes
from alignkit.passes.table import PASSES, NamedPass, Pass, Samples, resolve_pass

__all__ = [  # noqa: RUF022 (plain order)
    "NamedPass",
    "PASSES",
    "Pass",
    "Samples",
    "Step",
    "apply_passes",
    "resolve_pass",
]
