"""A zoo model with its reference, its exports and inputs that no mapping sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from alignkit.arguments import named_arguments
from alignkit.backends import OnnxRuntime
from alignkit.binding import NamedArray, bind_inputs
from alignkit.capture import capture_reference
from alignkit.extract import extract_propagated, read_marked
from alignkit.given import module_aliases
from alignkit.graph import graph_inputs, load_graph
from alignkit.instrument import Selection
from alignkit.mapping import TapMapping, map_taps
from alignkit.records import Array, Capture
from alignkit.tensors import map_tensors, to_numpy
from tests.shared import copy_file
from tests.zoo import Built, resolve
from tests.zoo.files import marked_file, plain_file

MODELS = ("resnet18", "mobilenet-v3-small", "vit", "bert", "unet", "lstm")
_SETTINGS = OnnxRuntime(optimization="disable")


def run_graph(model: onnx.ModelProto, folder: Path, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """What :func:`alignkit.mapping.map_taps` runs graphs with."""
    return _SETTINGS.open(model.SerializeToString(), folder).run(feeds)


@dataclass(frozen=True, slots=True)
class Subject:
    """One model with its reference; ``held_out`` are inputs that the mapping does not see."""

    name: str
    built: Built
    reference: Capture
    parameters: Mapping[str, Array]
    held_out: Built
    _truth: dict[str, Array] = field(default_factory=dict, repr=False)  # kept once computed

    def truth(self, folder: Path) -> Mapping[str, Array]:
        """What the marked export gives at each tap on the held-out input.

        It is the TorchScript exporter's for files of either: a tap's value is not the exporter's.
        """
        if not self._truth:
            probe = extract_propagated(read_marked(export(self, "torchscript", folder, marked=True)))
            values = run_graph(probe.model, probe.folder, feeds_of(self.held_out, probe.model))
            self._truth.update({tap: values[output] for tap, output in probe.outputs.items()})
        return self._truth

    def map_file(self, path: Path, **options: Any) -> TapMapping:
        """The mapping of the file at ``path``."""
        model = load_graph(path)
        feeds = feeds_of(self.built, model)
        known = {"parameters": self.parameters, "aliases": module_aliases(self.built.model)}
        options = {"run": run_graph, **known, **options}
        return map_taps(model, path.parent, self.reference, feeds, **options)


def prepare(name: str) -> Subject:
    """The zoo's model of that name, captured."""
    built = resolve(name).build()
    reference = capture_reference(built.model, built.args, built.kwargs, Selection())
    parameters = {key: to_numpy(value) for key, value in built.model.state_dict().items()}
    args, kwargs = map_tensors(_other, (built.args, dict(built.kwargs)))
    return Subject(name, built, reference, parameters, Built(built.model, args, kwargs))


def _other(value: torch.Tensor) -> torch.Tensor:
    """Other numbers that are as valid: reversed, and scaled where they are no indices."""
    turned = value.flip(-1)
    return turned * 0.7 + 0.1 if value.is_floating_point() else turned


def feeds_of(built: Built, model: onnx.ModelProto) -> dict[str, Array]:
    """The model's inputs under the names of a graph."""
    leaves = [
        NamedArray(name, to_numpy(value), False)
        if isinstance(value, torch.Tensor)
        else NamedArray(name, np.asarray(value), True)
        for name, value in named_arguments(built.model, built.args, built.kwargs)
    ]
    return bind_inputs(graph_inputs(model), leaves)[0]


def export(subject: Subject, exporter: str, folder: Path, *, marked: bool = False) -> Path:
    """The exported file, made once per folder."""
    path = folder / f"{subject.name}.{exporter}.{'marked' if marked else 'plain'}.onnx"
    if not path.exists():
        made = (marked_file if marked else plain_file)(resolve(subject.name), exporter)
        copy_file(made, path)  # what is made of it is written beside it
    return path
