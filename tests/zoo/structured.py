"""Models with a loop, with a structure in their outputs, or with trained weights."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.case import Built, Case, dynamic_axes, seeded, settled


class Tagger(nn.Module):
    """Embeds tokens, reads them with a two-layer LSTM and scores tags; returns the last state too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 7)

    def forward(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, (hidden, cell) = self.lstm(self.embedding(tokens))
        return self.head(states), (hidden, cell)


class Detector(nn.Module):
    """A single-shot detector: boxes decoded from anchors, scores and labels, over two scales."""

    anchors: Tensor

    def __init__(self, image_size: int = 32, classes: int = 4) -> None:
        super().__init__()
        self.classes = classes
        self.stem = nn.Sequential(_downscale(3, 16), _downscale(16, 32))
        self.deeper = _downscale(32, 32)
        self.box_heads = nn.ModuleList(nn.Conv2d(32, 4, 3, padding=1) for _ in range(2))
        self.class_heads = nn.ModuleList(nn.Conv2d(32, classes, 3, padding=1) for _ in range(2))
        grids = [_anchor_grid(image_size, stride) for stride in (4, 8)]
        self.register_buffer("anchors", torch.cat(grids))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.stem(image)
        levels = [fine, self.deeper(fine)]
        offsets = [_rows(head(level), 4) for head, level in zip(self.box_heads, levels, strict=True)]
        logits = [
            _rows(head(level), self.classes) for head, level in zip(self.class_heads, levels, strict=True)
        ]
        scores = torch.cat(logits, dim=1).softmax(dim=-1)
        confidence, label = scores.max(dim=-1)
        boxes = _decoded(torch.cat(offsets, dim=1), self.anchors)
        return {"boxes": boxes, "scores": confidence, "labels": label}


def _downscale(channels: int, features: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, features, 3, stride=2, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(features), nn.SiLU())


def _anchor_grid(image_size: int, stride: int) -> Tensor:
    """One square anchor per cell as centre x, centre y, width, height: (cells, 4), in pixels."""
    centres = (torch.arange(image_size // stride) + 0.5) * stride
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    side = torch.full_like(x, 2.0 * stride)
    return torch.stack([x, y, side, side], dim=-1).reshape(-1, 4)


def _rows(x: Tensor, width: int) -> Tensor:
    """(batch, width, height, width) maps as (batch, cells, width) rows."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width)


def _decoded(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Corner coordinates in pixels: offsets move a centre by anchor sizes and scale it by exp."""
    centre = anchors[:, :2] + offsets[..., :2] * anchors[:, 2:]
    half = anchors[:, 2:] * offsets[..., 2:].exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


class Nested(nn.Module):
    """Outputs as awkward as Python allows: a tuple holding a dict, a None, integers and booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(8, 12)
        self.decode = nn.Linear(12, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor | None], Tensor, Tensor]:
        code = torch.tanh(self.encode(x))
        decoded = self.decode(code)
        return decoded, {"a": code, "b": None}, code.argmax(dim=-1), decoded > x


class DigitsNet(nn.Module):
    """A small classifier of 8 x 8 grey images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.dropout = nn.Dropout(0.25)
        self.head = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        return self.head(self.dropout(x.flatten(1)))  # type: ignore[no-any-return]


def load_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: images (1797, 1, 8, 8) in 0..1 as float32 and labels (1797,)."""
    from sklearn.datasets import load_digits as load  # type: ignore[import-untyped]

    images, labels = load(return_X_y=True)
    pixels = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16
    return pixels, torch.from_numpy(labels).long()


HELD_OUT = 297
"""How many of the digits, the last ones, the network is not trained on."""


@cache
def _trained_digits_state() -> dict[str, Tensor]:
    images, labels = load_digits()
    images, labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    model = DigitsNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    with torch.enable_grad():
        for _ in range(4):
            shuffled = torch.randperm(len(images))
            for start in range(0, len(images), 64):
                batch = shuffled[start : start + 64]
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return model.state_dict()


def _build_lstm() -> Built:
    with seeded(41):
        model, tokens = Tagger().eval(), torch.randint(0, 50, (2, 6))
        other = torch.randint(0, 50, (3, 6))
    options = dynamic_axes(
        {"tokens": {0: "batch"}},
        {"scores": {0: "batch"}, "hidden": {1: "batch"}, "cell": {1: "batch"}},
    )
    return Built(model, (tokens,), export_options=options, other_inputs=(other,))


def _build_detector() -> Built:
    with seeded(42):
        image, other = torch.rand(1, 3, 32, 32), torch.rand(3, 3, 32, 32)
        model = settled(Detector(), other)
    options = dynamic_axes(
        {"image": {0: "batch"}},
        {"boxes": {0: "batch"}, "scores": {0: "batch"}, "labels": {0: "batch"}},
    )
    return Built(model, (image,), export_options=options, other_inputs=(other,))


def _build_nested() -> Built:
    with seeded(43):
        model, x, other = Nested().eval(), torch.randn(3, 8), torch.randn(3, 8)
    return Built(model, (x,), other_inputs=(other,))


def _build_digits() -> Built:
    with seeded(44):
        model = DigitsNet()
        model.load_state_dict(_trained_digits_state())
    images, _ = load_digits()
    held_out = images[-HELD_OUT:]
    options = dynamic_axes({"x": {0: "batch"}}, {"logits": {0: "batch"}})
    return Built(model.eval(), (held_out[:4],), export_options=options, other_inputs=(held_out,))


CASES = (
    Case("lstm", _build_lstm, other_inputs="batch"),
    Case("detector-dict", _build_detector, other_inputs="batch"),
    Case("nested-outputs", _build_nested, other_inputs="values"),
    Case("digits-trained", _build_digits, other_inputs="batch"),
)
