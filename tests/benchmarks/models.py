"""The models of the benchmark: real architectures with random weights, and what is spoilt in a file of each.

Nothing heavy is imported before a model is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    Built = tuple[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Fault:
    """What makes a broken file: one constant of one node, multiplied by ``factor``.

    The node is the first ``op`` with a constant in the code of ``module``, or with a weight of that module.
    """

    module: str
    op: str
    factor: float


@dataclass(frozen=True, slots=True)
class Model:
    """``build`` gives the model in eval mode and its positional inputs, the same ones every time.

    ``outputs`` names the module that makes the classes of its outputs known to torch.
    """

    title: str
    build: Callable[[], Built]
    fault: Fault | None = None
    outputs: str = ""


def _resnet50(batch: int) -> Built:
    import torch

    from tests.torchvision_import import import_torchvision

    torch.manual_seed(0)
    return import_torchvision().models.resnet50().eval(), (torch.randn(batch, 3, 224, 224),)


def _vit(batch: int) -> Built:
    import torch

    from tests.torchvision_import import import_torchvision

    torch.manual_seed(0)
    model = import_torchvision().models.vit_b_16()
    torch.nn.init.normal_(model.heads.head.weight, std=0.02)  # all zeros as torchvision makes it
    return model.eval(), (torch.randn(batch, 3, 224, 224),)


def _transformer(name: str, batch: int, tokens: int, **config: Any) -> Built:
    import torch

    from tests.torchvision_import import import_torchvision

    import_torchvision()
    import transformers

    torch.manual_seed(0)
    configured = getattr(transformers, f"{name}Config")(use_cache=False, **config)
    model = getattr(transformers, f"{name}Model")(configured)
    return model.eval(), (torch.randint(0, 1000, (batch, tokens)),)


def _tiny() -> Built:
    import torch
    from torch import nn

    torch.manual_seed(0)
    blocks = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    return nn.Sequential(*blocks).eval(), (torch.randn(1, 3, 16, 16),)


_TRANSFORMERS = "transformers.modeling_outputs"
_ATTENTION_SCALE = Fault("encoder.layer.2.attention.self", "Mul", 1.1)
_CONV_WEIGHT = Fault("layer3.2.conv2", "Conv", 1.01)

MODELS: Mapping[str, Model] = {
    "resnet50": Model("ResNet-50, batch 1", lambda: _resnet50(1), _CONV_WEIGHT),
    "resnet50-b8": Model("ResNet-50, batch 8", lambda: _resnet50(8)),
    "bert-4": Model(
        "BERT, 4 layers, 4×128",
        lambda: _transformer("Bert", 4, 128, num_hidden_layers=4),
        _ATTENTION_SCALE,
        _TRANSFORMERS,
    ),
    "bert-base": Model("BERT-base, 4×128", lambda: _transformer("Bert", 4, 128), outputs=_TRANSFORMERS),
    "vit-b16": Model("ViT-B/16, batch 1", lambda: _vit(1)),
    "gpt2": Model("GPT-2, 12 layers, 1×128", lambda: _transformer("GPT2", 1, 128), outputs=_TRANSFORMERS),
    "tiny": Model("three convolutions", _tiny, Fault("2", "Conv", 1.01)),
}
DEFAULT = tuple(name for name in MODELS if name != "tiny")  # that one is for the tests
