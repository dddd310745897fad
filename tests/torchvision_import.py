"""Import torchvision where its compiled operators are missing or do not fit the installed torch.

The model definitions are plain Python and need none of them; only the package's import does,
because it registers fake kernels for two operators that the compiled library would have defined.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_kept_alive: list[torch.library.Library] = []  # a Library takes its schemas with it when collected


@cache
def import_torchvision() -> Any:
    """The ``torchvision`` package. Call this before importing anything that imports torchvision itself.

    Raises ``ModuleNotFoundError`` when torchvision is not installed.
    """
    if not (_load_compiled_ops() or hasattr(torch.ops.torchvision, "nms")):
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        _kept_alive.append(library)
    return importlib.import_module("torchvision")


def _load_compiled_ops() -> bool:
    """Whether torchvision's operator library loads into this torch (loading it twice does no harm)."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    for library in sorted(Path(spec.origin).parent.glob("_C.*")):
        try:
            torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        except OSError:
            continue  # built for another torch, or for a machine with other libraries
        return True
    return False
