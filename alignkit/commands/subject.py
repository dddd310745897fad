"""What a command runs: the model that it names, and the inputs that its arguments give."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import InputError
from alignkit.load import (
    InputShape,
    LoadedModel,
    ModelInputs,
    check_names,
    load_inputs,
    load_model,
    random_inputs,
)
from alignkit.load.objects import names_attr

if TYPE_CHECKING:
    from torch import nn


def load_subject(
    arguments: argparse.Namespace, shapes: Sequence[InputShape]
) -> tuple[LoadedModel, ModelInputs, list[ModelInputs]]:
    """The model, what it is exported with, and what it is compared on."""
    import torch

    torch.manual_seed(arguments.seed)
    loaded = _load(arguments)
    samples = load_inputs(arguments.inputs) if arguments.inputs else []
    if shapes:
        samples = [random_inputs(shapes, arguments.seed)]
    names = _parameter_names(loaded.model)
    for sample in samples if names else []:
        check_names(sample, names)
    if loaded.args is not None or loaded.kwargs:
        example = ModelInputs(loaded.args or (), loaded.kwargs or {}, loaded.origin)
    elif samples:
        example = samples[0]
    else:
        or_else = "" if names_source(arguments.model) else ", or let the factory return (model, args)"
        raise InputError(f"no inputs for {arguments.model}: give --inputs or --input-shape{or_else}.")
    return loaded, example, samples or [example]


def _load(arguments: argparse.Namespace) -> LoadedModel:
    """A Python object by its name, or a file of any kind that can be a reference."""
    spec = arguments.model
    if not names_source(spec):
        return load_model(spec)
    from alignkit.backends import OnnxRuntime
    from alignkit.sources import open_source

    run = OnnxRuntime(threads=arguments.threads, custom_op_libraries=tuple(arguments.custom_ops))
    model, inputs = open_source(Path(spec), run, trust=arguments.trust)
    args, kwargs = inputs or (None, None)
    return LoadedModel(model, args, None if kwargs is None else dict(kwargs), spec)


def names_source(spec: str) -> bool:
    """Whether ``spec`` names a file to open and not a Python object."""
    return not spec.endswith(".py") and (Path(spec).is_file() or not names_attr(spec))


def _parameter_names(model: nn.Module) -> list[str]:
    """The forward's parameters in order; none where it takes any number of them or does not say."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [] if any(p.kind in open_ended for p in parameters) else [p.name for p in parameters]
