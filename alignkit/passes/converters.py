"""Passes that rewrite a model in memory: simplifiers, half precision, and the user's own function.

The tools are imported when a pass is applied: none of them is needed for anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto

from alignkit.errors import PassError
from alignkit.graph import load_graph
from alignkit.passes.files import is_large, read_model, write_model

if TYPE_CHECKING:
    from alignkit.passes.table import Samples

Rewrite = Callable[[ModelProto], ModelProto]


def onnxsim(source: Path, target: Path, samples: Samples) -> None:
    """onnx-simplifier: constants folded, superfluous nodes taken out."""
    import onnxsim as tool

    simplified, checked = tool.simplify(str(source) if is_large(load_graph(source)) else read_model(source))
    if not checked:
        raise PassError("onnxsim itself says that its result does not compute the same.")
    write_model(simplified, target)


def onnxslim(source: Path, target: Path, samples: Samples) -> None:
    """OnnxSlim: the same with its own patterns."""
    import onnxslim as tool

    write_model(tool.slim(read_model(source)), target)


def half(source: Path, target: Path, samples: Samples) -> None:
    """float16 by onnxconverter-common; the file's inputs and outputs keep their types."""
    _to_half(source, target, keep_io_types=True)


def half_throughout(source: Path, target: Path, samples: Samples) -> None:
    """float16 by onnxconverter-common, inputs and outputs as well."""
    _to_half(source, target, keep_io_types=False)


def _to_half(source: Path, target: Path, *, keep_io_types: bool) -> None:
    from onnxconverter_common import float16

    model = read_model(source, infer_types=True)
    write_model(
        float16.convert_float_to_float16(model, keep_io_types=keep_io_types, disable_shape_infer=True), target
    )


def own_function(function: Rewrite) -> Callable[[Path, Path, Samples], None]:
    """A pass of a function that takes an ``onnx.ModelProto`` with its weights and returns one."""

    def rewrite(source: Path, target: Path, samples: Samples) -> None:
        model = function(read_model(source))
        if not isinstance(model, ModelProto):
            kind = "None" if model is None else type(model).__name__
            raise PassError(f"it returned {kind}: a pass takes an onnx.ModelProto and returns one.")
        write_model(model, target)

    return rewrite
