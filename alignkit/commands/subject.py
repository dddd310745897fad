"""What a command runs: the model that it names, and the inputs that its arguments give."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alignkit.errors import InputError
from alignkit.load import (
    InputShape,
    InputSource,
    LoadedModel,
    ModelInputs,
    check_names,
    given_inputs,
    load_model,
    open_inputs,
    random_inputs,
)
from alignkit.load.objects import names_attr

if TYPE_CHECKING:
    from torch import nn


def load_subject(
    arguments: argparse.Namespace, shapes: Sequence[Sequence[InputShape]]
) -> tuple[LoadedModel, ModelInputs, InputSource]:
    """The model, what it is exported with, and what it is compared on: files, or a sample per ``shapes``."""
    import torch

    torch.manual_seed(arguments.seed)
    loaded = _load(arguments)
    samples = open_inputs(arguments.inputs, split=getattr(arguments, "split", False))
    if shapes:
        seed = arguments.seed
        samples = given_inputs([(_name(one, shapes), partial(random_inputs, one, seed)) for one in shapes])
    if names := _parameter_names(loaded.model):
        samples = samples.checked_by(partial(check_names, names=names))
    if loaded.args is not None or loaded.kwargs:
        example = ModelInputs(loaded.args or (), loaded.kwargs or {}, loaded.origin)
        return loaded, example, samples if samples.size != 0 else given_inputs([_named(example)])
    if samples.size == 0:
        or_else = "" if names_source(arguments.model) else ", or let the factory return (model, args)"
        raise InputError(f"no inputs for {arguments.model}: give --inputs or --input-shape{or_else}.")
    return loaded, _first(samples), samples


def _named(example: ModelInputs) -> tuple[str, Callable[[], ModelInputs]]:
    return example.origin, lambda: example


def _name(shapes: Sequence[InputShape], sweep: Sequence[Sequence[InputShape]]) -> str:
    """A sample of a sweep is told by its shapes; the only one by all that made it."""
    return " ".join(shape.short for shape in shapes) if len(sweep) > 1 else ""


def _first(samples: InputSource) -> ModelInputs:
    """The first sample that can be loaded; the first one's own error where none can."""
    refused: InputError | None = None
    for lazy in samples:
        try:
            return lazy.load()
        except InputError as error:
            refused = refused or error
    raise refused or InputError("the inputs are empty: give at least one sample.")


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
