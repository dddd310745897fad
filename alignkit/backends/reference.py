"""ONNX's own reference evaluator, in numpy: slow, and independent of every optimiser.

Some of its operators have bugs. What it raises names the node, and speaks against nobody else.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from alignkit.backends.binding import bind_feeds
from alignkit.backends.graph import qualified, read_model, read_signature
from alignkit.backends.protocol import KernelError, Session, Unbuffered
from alignkit.errors import BackendError
from alignkit.records import Array


@dataclass(frozen=True, slots=True)
class Reference:
    """The backend ``reference``."""

    name: str = "reference"
    title: str = "the ONNX reference evaluator"

    def open(self, model: bytes | Path, folder: Path | None = None) -> Session:
        """Load ``model``, its external data included."""
        return _Session(model, folder)

    def describe(self) -> Mapping[str, Any]:
        """It has no settings."""
        return {}


class _Session(Unbuffered):
    def __init__(self, model: bytes | Path, folder: Path | None) -> None:
        proto = read_model(model)
        self._signature = read_signature(proto)
        folder = model.parent if folder is None and isinstance(model, Path) else folder
        try:
            if folder is not None:
                onnx.load_external_data_for_model(proto, str(folder))
            self._evaluator = ReferenceEvaluator(proto)
        except Exception as error:  # it raises whatever its Python code meets
            raise _translate(error, while_running=False) from error

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Every output (or those in ``names``) by name."""
        wanted = list(names) if names is not None else list(self._signature.outputs)
        bound = bind_feeds(feeds, self._signature.inputs)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")  # of numpy, on values that are the model's
                values = self._evaluator.run(wanted, bound)
        except Exception as error:
            raise _translate(error, while_running=True) from error
        assert isinstance(values, list)
        return {name: _array(value) for name, value in zip(wanted, values, strict=True)}


def _array(value: Any) -> Any:
    """Some operators give numpy's scalars."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def _translate(error: Exception, *, while_running: bool) -> BackendError:
    node = _blamed(error)
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if node is None:
        step = "run" if while_running else "load"
        return BackendError(f"the ONNX reference evaluator cannot {step} the model: {_short(said)}")
    op = qualified(node)
    if not while_running:
        message = f"the ONNX reference evaluator has no {op}"
        return KernelError(message, op, node.name, while_running=False)
    message = f"the ONNX reference evaluator failed in {op} {node.name!r}: {_short(said)}"
    # It may be its own bug as well as the file's fault.
    return KernelError(message, op, node.name, while_running=True, conclusive=False)


def _blamed(error: Exception) -> NodeProto | None:
    """The node of the graph itself that was being made or run, by the evaluator's outermost loop."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("node")
        if isinstance(node, OpRun):
            return node.onnx_node
        if isinstance(node, NodeProto):
            return node
    return None


def _short(text: str) -> str:
    return text if len(text) <= 300 else text[:299] + "…"
