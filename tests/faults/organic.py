"""Faults that users write: branches for the export, forgotten training modes, live randomness."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import zoo
from tests.faults.case import Fault, compared
from tests.faults.hosts import (
    Attention,
    graft,
    grafted,
    probe_net,
    segmenter,
    small_resnet,
    small_vit,
    text_encoder,
)
from tests.faults.translated_attention import RelativeBias
from tests.zoo.case import Built, seeded

_TORCHSCRIPT, _DYNAMO = ("torchscript",), ("dynamo",)


# -- branches for the export ------------------------------------------------------------------


class ExportableGelu(nn.Module):
    """A cruder activation while exported."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return x * torch.sigmoid(1.702 * x)
        return F.gelu(x)


class TracedUpsample(nn.Module):
    """Nearest neighbours while traced, bilinear otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        mode = "nearest" if traced else "bilinear"
        return F.interpolate(x, scale_factor=2.0, mode=mode)


class CompiledMask(nn.Module):
    """A causal mask that is left out where the model is compiled, as one that a fused kernel would add."""

    def forward(self, scores: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return scores
        length = scores.shape[-1]
        return scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), float("-inf"))


class ExportedNorm(nn.Module):
    """Leaves out a normalisation while exported, for a runtime that has it in its preprocessing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return x
        return self.norm(x)  # type: ignore[no-any-return]


_SCORES = "blocks.1.attention.bias"
_BRANCH = "export-branch"
_BRANCH_CASES = (
    compared(
        "in-onnx-export",
        lambda: small_vit(part=ExportableGelu, path="blocks.0.mlp.act"),
        Fault.at("blocks.0.mlp.act", _BRANCH),
        "another activation in is_in_onnx_export()",
    ),
    compared(
        "is-tracing",
        lambda: segmenter(up=TracedUpsample()),
        Fault.at("up", _BRANCH),
        "another resize in is_tracing()",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "is-compiling",
        lambda: text_encoder(Attention(bias=CompiledMask())),
        Fault.at(_SCORES, _BRANCH),
        "no causal mask in is_compiling()",
        exporters=_DYNAMO,
    ),
    compared(
        "is-exporting",
        lambda: probe_net(ExportedNorm),
        Fault.at("part", _BRANCH),
        "no normalisation in is_exporting()",
        exporters=_DYNAMO,
    ),
)


# -- training modes and randomness ------------------------------------------------------------


def _training(build: Callable[[], Built], path: str) -> Callable[[], Built]:
    """The same model with the submodule at ``path`` back in training mode; ``""`` is all of it."""

    def build_training() -> Built:
        built = build()
        built.model.get_submodule(path).train()
        return built

    return build_training


class UnconditionalDropout(nn.Module):
    """``F.dropout`` without ``training=self.training``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2)


class DroppingAttention(nn.Module):
    """Scaled dot product attention that drops in eval mode too."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.project, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.project(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class Jitter(nn.Module):
    """Adds noise, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


_LIVE = ("train-mode", "nondeterministic")  # a dropout that no training flag switches off is either
_MODE_CASES = (
    compared(
        "batchnorm-in-training",
        _training(small_resnet, "layer2.0.bn1"),
        Fault.at("layer2.0.bn1", "train-mode"),
        "one BatchNorm uses batch statistics",
    ),
    compared(
        "dropout-in-training",
        _training(zoo.resolve("bert").build, "bert.encoder.layer.1.output.dropout"),
        Fault.at("bert.encoder.layer.1.output.dropout", "train-mode"),
        "one Dropout is live",
    ),
    compared(
        "all-in-training",
        _training(small_resnet, ""),
        Fault.at("bn1", "train-mode"),
        "model.eval() was forgotten",
    ),
    compared(
        "digits-in-training",
        _training(zoo.resolve("digits-trained").build, "dropout"),
        Fault.at("dropout", "train-mode"),
        "the head's Dropout is live",
    ),
    compared(
        "functional-dropout",
        lambda: grafted("bert", "bert.encoder.layer.0.output.dropout", UnconditionalDropout),
        Fault.at("bert.encoder.layer.0.output.dropout", _LIVE),
        "F.dropout without its training flag",
    ),
    compared(
        "attention-dropout",
        lambda: text_encoder(DroppingAttention()),
        Fault.at("blocks.1.attention", _LIVE),
        "dropout_p is not switched off by eval()",
    ),
    compared(
        "noise", lambda: probe_net(Jitter), Fault.at("part", "nondeterministic"), "randn_like in forward"
    ),
)


# -- two at once ------------------------------------------------------------------------------


def _pool_and_branch() -> Built:
    """A pool that is translated wrongly in front of an activation with a branch for the export."""
    built = small_resnet(part=lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5), path="maxpool")
    graft(built.model, "layer3.0.relu", ExportableGelu())
    return built


def _bias_and_dropout() -> Built:
    """A live Dropout behind a bias that reads negative distances wrongly."""
    with seeded(34):
        attention = Attention(bias=RelativeBias(lambda places: places // 2))
        return _training(lambda: text_encoder(attention, nn.Dropout(0.2)), "blocks.1.mlp.1")()


_TWO_CASES = (
    compared(
        "pool+branch",
        _pool_and_branch,
        (Fault.at("maxpool", "exporter"), Fault.at("layer3.0.relu", _BRANCH)),
        "a wrong translation and a branch for the export",
        kind="two faults",
    ),
    compared(
        "bias+dropout",
        _bias_and_dropout,
        (Fault.at(_SCORES, "exporter"), Fault.at("blocks.1.mlp.1", "train-mode")),
        "a wrong translation and a forgotten mode",
        kind="two faults",
        exporters=_TORCHSCRIPT,
    ),
)

CASES = (*_BRANCH_CASES, *_MODE_CASES, *_TWO_CASES)
