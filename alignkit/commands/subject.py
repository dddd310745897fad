"""What a command runs: the model that it names, and the inputs that its arguments give."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Sequence
from functools import partial
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

if TYPE_CHECKING:
    from torch import nn


def load_subject(
    arguments: argparse.Namespace, shapes: Sequence[Sequence[InputShape]]
) -> tuple[LoadedModel, ModelInputs, InputSource]:
    """The model, what it is exported with, and what it is compared on: files, or a sample per ``shapes``."""
    import torch

    torch.manual_seed(arguments.seed)
    loaded = load_model(arguments.model)
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
        raise InputError(
            f"no inputs for {arguments.model}: give --inputs or --input-shape, or let the factory return "
            "(model, args)."
        )
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


def _parameter_names(model: nn.Module) -> list[str]:
    """The forward's parameters in order; none where it takes any number of them or does not say."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [] if any(p.kind in open_ended for p in parameters) else [p.name for p in parameters]
