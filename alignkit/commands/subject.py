"""What a command runs: the model that it names, and the inputs that its arguments give."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
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

if TYPE_CHECKING:
    from torch import nn


def load_subject(
    arguments: argparse.Namespace, shapes: Sequence[InputShape]
) -> tuple[LoadedModel, ModelInputs, list[ModelInputs]]:
    """The model, what it is exported with, and what it is compared on."""
    import torch

    torch.manual_seed(arguments.seed)
    loaded = load_model(arguments.model)
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
        raise InputError(
            f"no inputs for {arguments.model}: give --inputs or --input-shape, or let the factory return "
            "(model, args)."
        )
    return loaded, example, samples or [example]


def _parameter_names(model: nn.Module) -> list[str]:
    """The forward's parameters in order; none where it takes any number of them or does not say."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [] if any(p.kind in open_ended for p in parameters) else [p.name for p in parameters]
