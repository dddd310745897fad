"""What a zoo case is, and the few helpers its builders share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import nn

EXPORTERS = ("dynamo", "torchscript")

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Built:
    """A model in eval mode and what it is exported with.

    ``model(*args, **kwargs)`` is the call to export and to compare. ``other_inputs``, where there
    are any, hold the values of all inputs in the order of the signature: ``model(*other_inputs)``.
    ``export_options[exporter]`` are keyword arguments for ``torch.onnx.export``.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    export_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    other_inputs: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One model of the zoo. Every ``build()`` gives a fresh model with the same weights."""

    name: str
    build: Callable[[], Built]
    other_inputs: str = ""  # how Built.other_inputs differ from the export's: "batch", "values", …
    unsupported: Mapping[str, str] = field(default_factory=dict)  # exporter -> torch's own words
    has_kernels: bool = True  # False: onnxruntime cannot run the file
    slow: bool = False  # more than about ten seconds to build, export and run
    tolerance: float = 1e-5  # max |deployed - eager| of an output, relative to its max |eager|

    @property
    def exporters(self) -> tuple[str, ...]:
        """The exporters that can export this model."""
        return tuple(name for name in EXPORTERS if name not in self.unsupported)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random numbers from ``seed`` inside, the caller's generator as it was after."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def settled(model: Model, *inputs: torch.Tensor) -> Model:
    """``model`` in eval mode, its BatchNorms scaled and with the statistics of ``inputs``.

    Fresh BatchNorms are all but identities in eval mode: a wrongly folded one would not show, and
    in a deep network the signal would fade away.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.1)
    with torch.no_grad():
        model.train()(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def enliven(model: nn.Module) -> None:
    """Give weights that start at or near zero (heads, layer scales) the size that training gives them.

    As they start, whole blocks add nothing and a fault inside them could not be seen.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
        scale = getattr(module, "gamma", None)
        if isinstance(scale, nn.Parameter):
            nn.init.uniform_(scale, 0.5, 1.5)


def dynamic_axes(
    inputs: Mapping[str, Mapping[int, str]], outputs: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[str, Any]]:
    """Named inputs and outputs with the same dynamic axes, for either exporter.

    The names of ``inputs`` must be those of the forward's parameters, in order.
    """
    names: dict[str, Any] = {"input_names": list(inputs), "output_names": list(outputs)}
    return {
        "dynamo": {**names, "dynamic_shapes": {name: dict(axes) for name, axes in inputs.items()}},
        "torchscript": {**names, "dynamic_axes": {**inputs, **outputs}},
    }
