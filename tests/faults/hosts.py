"""Architectures that a faulty part is built into, and the marked files made of healthy ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignkit.arguments import named_arguments
from alignkit.selection import Selection
from tests import zoo
from tests.torchvision_import import import_torchvision
from tests.zoo.case import Built, enliven, seeded, settled
from tests.zoo.files import export_built
from tests.zoo.files import marked_file as zoo_file


def graft(model: nn.Module, path: str, part: nn.Module) -> nn.Module:
    """``model`` with ``part`` in the place of the submodule at ``path``; the part is in eval mode."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, part.eval())
    return model


def small_resnet(seed: int = 1, part: Callable[[], nn.Module] | None = None, path: str = "") -> Built:
    """torchvision's ResNet with one basic block per stage, on 48 x 48 images; ``part`` built in at ``path``.

    BatchNorm statistics are those of the healthy network: they stay what they were.
    """
    models = import_torchvision().models.resnet
    with seeded(seed):
        x, other = torch.randn(2, 3, 48, 48), torch.randn(2, 3, 48, 48)
        model = settled(models.ResNet(models.BasicBlock, [1, 1, 1, 1], num_classes=10), torch.cat([x, other]))
        if part is not None:
            graft(model, path, part())
    return Built(model, (x,), other_inputs=(other,))


def small_vit(seed: int = 2, part: Callable[[], nn.Module] | None = None, path: str = "") -> Built:
    """timm's ViT, two blocks of width 48 on 4 x 4 patches."""
    import_torchvision()
    import timm

    with seeded(seed):
        sizes: dict[str, Any] = {"img_size": 64, "embed_dim": 48, "num_heads": 3, "depth": 2}
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=10, **sizes).eval()
        enliven(model)
        x, other = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)
        if part is not None:
            graft(model, path, part())
    return Built(model, (x,), other_inputs=(other,))


def grafted(case: str, path: str, part: Callable[[], nn.Module]) -> Built:
    """A zoo model with ``part`` built in at ``path``."""
    built = zoo.resolve(case).build()
    with seeded(3):
        graft(built.model, path, part())
    return built


class Segmenter(nn.Module):
    """A U-Net of one level whose pooling, decoder step and head are given."""

    def __init__(self, pool: nn.Module, up: nn.Module) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU())
        self.pool = pool
        self.bottom = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.GELU())
        self.up = up
        self.fuse = nn.Sequential(nn.Conv2d(16 + 8, 8, 3, padding=1), nn.GELU())
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        y = self.up(self.bottom(self.pool(skip)))
        height, width = min(y.shape[2], skip.shape[2]), min(y.shape[3], skip.shape[3])
        joined = torch.cat([y[:, :, :height, :width], skip[:, :, :height, :width]], dim=1)
        return self.head(self.fuse(joined))  # type: ignore[no-any-return]


def segmenter(pool: nn.Module | None = None, up: nn.Module | None = None, seed: int = 4) -> Built:
    """:class:`Segmenter` on 24 x 20 images, with healthy parts unless others are given."""
    with seeded(seed):
        x, other = torch.randn(1, 3, 24, 20), torch.randn(2, 3, 24, 20)
        model = Segmenter(nn.MaxPool2d(2), nn.Upsample(scale_factor=2.0, mode="nearest"))
        settled(model, other)
        for name, part in (("pool", pool), ("up", up)):
            if part is not None:
                graft(model, name, part)
    return Built(model, (x,), other_inputs=(other,))


class Attention(nn.Module):
    """Multi-head attention as one writes it; ``bias(scores)`` may alter the scores before softmax."""

    def __init__(self, width: int = 32, heads: int = 4, bias: nn.Module | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.bias = bias if bias is not None else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.project(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = self.bias(q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block around the given attention and activation."""

    def __init__(self, width: int, attention: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), act, nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class TextEncoder(nn.Module):
    """Token and position embeddings, two blocks, a mean over the sequence and a head."""

    def __init__(self, attention: nn.Module | None = None, act: nn.Module | None = None) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(40, 32), nn.Embedding(24, 32)
        second = Block(32, attention or Attention(), act or nn.GELU())
        self.blocks = nn.Sequential(Block(32, Attention(), nn.GELU()), second)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.blocks(self.tokens(ids) + self.positions(places))
        return self.head(self.norm(x).mean(1))  # type: ignore[no-any-return]


def text_encoder(attention: nn.Module | None = None, act: nn.Module | None = None, seed: int = 5) -> Built:
    """:class:`TextEncoder` on two sequences of ten tokens; other inputs are as long."""
    with seeded(seed):
        model = TextEncoder(attention, act).eval()
        ids, other = torch.randint(0, 40, (2, 10)), torch.randint(0, 40, (3, 10))
    return Built(model, (ids,), other_inputs=(other,))


class PointNet(nn.Module):
    """Features of points, pooled by ``pool(features, cell)`` into six cells, and classified."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.lift = nn.Sequential(nn.Linear(3, 16), nn.LayerNorm(16), nn.SiLU())
        self.pool = pool
        self.head = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 4))

    def forward(self, points: Tensor, cell: Tensor) -> Tensor:
        return self.head(self.pool(self.lift(points), cell))  # type: ignore[no-any-return]


def point_net(pool: nn.Module, seed: int = 6) -> Built:
    """:class:`PointNet` on 20 points, several in one cell."""
    with seeded(seed):
        model = PointNet(pool).eval()
        inputs = torch.randn(20, 3), torch.randint(0, 6, (20,))
        other = torch.randn(20, 3), torch.randint(0, 6, (20,))
    return Built(model, inputs, other_inputs=other)


class Probe(nn.Module):
    """A small convolutional classifier with ``part`` between its two stages."""

    def __init__(self, part: nn.Module, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16))
        self.part = part
        self.tail = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tail(self.part(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def probe_net(part: Callable[[], nn.Module], channels: int = 16, seed: int = 7) -> Built:
    """:class:`Probe` on 20 x 20 images, its statistics those of a healthy twin."""
    with seeded(seed):
        x, other = torch.randn(2, 3, 20, 20), 2 * torch.randn(2, 3, 20, 20)
        model = Probe(nn.Identity())
        settled(model, x)
        model.tail[0] = nn.Conv2d(channels, 16, 3, padding=1)
        model.part = part().eval()
    return Built(model, (x,), other_inputs=(other,))


_marked: dict[tuple[str, str], tuple[Built, Path]] = {}


def marked_file(name: str, build: Callable[[], Built], exporter: str, folder: Path) -> tuple[Built, Path]:
    """The model of that name and its export with taps, made once per process; the file is to be read only."""
    key = (name, exporter)
    if key not in _marked:
        built = build()
        options, case = _named(built, exporter), zoo.CASES.get(name)
        if case and case.build == build and options == built.export_options.get(exporter, {}):
            path = zoo_file(case, exporter)
        else:
            path = folder / f"{name}-{exporter}" / "marked.onnx"
            path.parent.mkdir(parents=True, exist_ok=True)
            export_built(replace(built, export_options={exporter: options}), exporter, path, Selection())
        _marked[key] = built, path
    return _marked[key]


def _named(built: Built, exporter: str) -> Mapping[str, Any]:
    """The export options, with names for the inputs that the exporter would otherwise invent."""
    options = dict(built.export_options.get(exporter, {}))
    if exporter == "torchscript" and "input_names" not in options:
        named = named_arguments(built.model, built.args, built.kwargs)
        options["input_names"] = [name for name, _ in named]
    return options


def resized(x: Tensor, factor: float) -> Tensor:
    """``x`` bilinearly resized by ``factor``."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
