"""``--pass``: a known name, or the user's own function as ``script.py:function``."""

from __future__ import annotations

import re
from importlib.util import find_spec

from alignkit.errors import PassError
from alignkit.load.objects import imported_object, names_attr, type_of
from alignkit.passes import PASSES, NamedPass, resolve_pass


def load_pass(spec: str) -> NamedPass:
    """The pass that ``spec`` names. Raises :class:`PassError` where there is none."""
    if not _names_function(spec):
        return resolve_pass(spec)
    with imported_object(spec, PassError) as function:
        if not callable(function):
            raise PassError(f"{spec} is {type_of(function)}, not a function on an onnx.ModelProto.")
        return NamedPass(re.split(r"[\\/]", spec)[-1], resolve_pass(function).apply)


def _names_function(spec: str) -> bool:
    """Whether what stands before the colon is a file or a module, and no known pass with an option."""
    if spec in PASSES or not names_attr(spec):
        return False
    target = spec.rpartition(":")[0]
    return any(mark in target for mark in "./\\") or find_spec(target) is not None
