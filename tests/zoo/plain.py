"""Export a case's plain model and run the file: what the zoo promises, without alignkit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.jit._trace import TracerWarning

from tests.zoo.case import Built

EXPORTER_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    # Both exporters, of torch's own insides.
    (r"You are using the legacy TorchScript-based ONNX export", DeprecationWarning),
    (r"The feature will be removed\. Please remove usage of this function", DeprecationWarning),
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    (r"_check_is_size will be removed", FutureWarning),
    # Two inputs of one dynamic length, which is what the case asks for.
    (r"# The axis name: \w+ will not be used, since it shares the same shape constraints", UserWarning),
    # Shape checks inside the libraries that tracing freezes; the other inputs prove them harmless.
    (r"Converting a tensor to a Python (boolean|number) might cause the trace", TracerWarning),
    (r"Exporting aten::index operator of advanced indexing", UserWarning),
    # LSTM: its initial state is made in the graph, so the batch may vary; what torch does with its
    # weights and gradients while it turns the recurrence into a loop.
    (r"Exporting a model to ONNX with a batch_size other than 1, with a variable length", UserWarning),
    (r"The tensor attributes? self\.lstm\._flat_weights", UserWarning),
    (r"The \.grad attribute of a Tensor that is not a leaf Tensor is being accessed", UserWarning),
)
"""What exporters say of themselves or of torch in these cases: pattern at the start, category."""


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Leave out the warnings that torch's exporters raise about torch, and no others."""
    with warnings.catch_warnings():
        for message, category in EXPORTER_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield


def export_plain(built: Built, exporter: str, path: Path) -> Path:
    """Export the model as its user would; ``exporter`` is "dynamo" or "torchscript"."""
    options = built.export_options.get(exporter, {})
    with quiet_exporter():
        torch.onnx.export(
            built.model,
            built.args,
            path,
            kwargs=dict(built.kwargs) or None,
            dynamo=exporter == "dynamo",
            verbose=False,
            **options,
        )
    return path


def run_eager(built: Built, inputs: Sequence[Any] | None = None) -> list[torch.Tensor]:
    """The tensors among the model's outputs, in order; ``inputs`` replace args and kwargs."""
    with torch.no_grad():
        outputs = built.model(*built.args, **built.kwargs) if inputs is None else built.model(*inputs)
    return _tensors(outputs)


def run_onnxruntime(path: Path, built: Built, inputs: Sequence[Any] | None = None) -> list[npt.NDArray[Any]]:
    """The outputs of the file at ``path``, in graph order, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = _tensors((built.args, built.kwargs) if inputs is None else inputs)
    names = [graph_input.name for graph_input in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    return [np.asarray(output) for output in session.run(None, feed)]


def _tensors(tree: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
