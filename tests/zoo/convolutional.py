"""Convolutional networks: classic classifiers and super-resolution."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torchvision_import import import_torchvision
from tests.zoo.case import Built, Case, dynamic_axes, enliven, seeded, settled

_BATCH = dynamic_axes({"x": {0: "batch"}}, {"y": {0: "batch"}})


class FourBlocks(nn.Module):
    """Four blocks of Conv, BatchNorm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = _block(3, 8)
        self.block2 = _block(8, 16)
        self.block3 = _block(16, 16)
        self.block4 = _block(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block1(x)
        x = self.block2(x)
        x = self.block3(x)
        return self.block4(x)  # type: ignore[no-any-return]


def _block(channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, features, 3), nn.BatchNorm2d(features), nn.ReLU())


class SuperResolution(nn.Module):
    """SRCNN: bicubic upscaling by three, then three convolutions that sharpen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=9, padding=4)
        self.conv2 = nn.Conv2d(64, 32, kernel_size=1)
        self.conv3 = nn.Conv2d(32, 3, kernel_size=5, padding=2)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=3, mode="bicubic", align_corners=False)
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.conv3(x)  # type: ignore[no-any-return]


class SharedReluBlock(nn.Module):
    """A residual block whose one in-place ReLU is called twice."""

    def __init__(self, channels: int, features: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != features:
            projection = nn.Conv2d(channels, features, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(features))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return self.relu(y)  # type: ignore[no-any-return]


class SharedReluNet(nn.Module):
    """Three such blocks, which share their ReLU as well, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(
            SharedReluBlock(8, 8), SharedReluBlock(8, 16, stride=2), SharedReluBlock(16, 16)
        )
        self.head = nn.Linear(16, 5)
        relu = nn.ReLU(inplace=True)
        for block in self.blocks:
            block.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        features = self.blocks(self.stem(x))
        return self.head(features.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Two levels down, two up: resized to the skip's own size, then concatenated with it."""

    def __init__(self) -> None:
        super().__init__()
        self.down1 = _pair(3, 8)
        self.down2 = _pair(8, 16)
        self.bottom = _pair(16, 32)
        self.up2 = _pair(32 + 16, 16)
        self.up1 = _pair(16 + 8, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        skip2 = self.down2(F.max_pool2d(skip1, 2))
        y = self.bottom(F.max_pool2d(skip2, 2))
        y = self.up2(torch.cat([_resized(y, skip2), skip2], dim=1))
        y = self.up1(torch.cat([_resized(y, skip1), skip1], dim=1))
        return self.head(y)  # type: ignore[no-any-return]


def _pair(channels: int, features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, features, 3, padding=1),
        nn.BatchNorm2d(features),
        nn.ReLU(inplace=True),
        nn.Conv2d(features, features, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _build_four_blocks() -> Built:
    with seeded(1):
        x, other = torch.randn(1, 3, 20, 20), torch.randn(3, 3, 20, 20)
        model = settled(FourBlocks(), other)
    return Built(model, (x,), export_options=_BATCH, other_inputs=(other,))


def _build_super_resolution() -> Built:
    with seeded(2):
        model, x, other = SuperResolution().eval(), torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    names = {"input_names": ["input"], "output_names": ["output"]}
    options: dict[str, dict[str, Any]] = {
        "dynamo": names,
        "torchscript": {**names, "opset_version": 11},
    }
    return Built(model, (x,), export_options=options, other_inputs=(other,))


def _build_alexnet() -> Built:
    torchvision = import_torchvision()
    with seeded(3):
        model = torchvision.models.alexnet(weights=None).eval()
        x, other = torch.randn(1, 3, 224, 224), torch.randn(1, 3, 224, 224)
    parameters = [f"learned_{index}" for index in range(16)]
    options: dict[str, dict[str, Any]] = {
        "dynamo": {"input_names": ["actual_input_1"], "output_names": ["output1"]},
        "torchscript": {"input_names": ["actual_input_1", *parameters], "output_names": ["output1"]},
    }
    return Built(model, (x,), export_options=options, other_inputs=(other,))


def _build_resnet18() -> Built:
    torchvision = import_torchvision()
    with seeded(4):
        x, other = torch.randn(2, 3, 64, 64), torch.randn(3, 3, 64, 64)
        model = settled(torchvision.models.resnet18(weights=None), torch.cat([x, other]))
    return Built(model, (x,), export_options=_BATCH, other_inputs=(other,))


def _build_mobilenet() -> Built:
    torchvision = import_torchvision()
    with seeded(5):
        x, other = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)
        model = settled(torchvision.models.mobilenet_v3_small(weights=None), torch.cat([x, other]))
        enliven(model)
    return Built(model, (x,), other_inputs=(other,))


def _build_convnext() -> Built:
    import_torchvision()  # timm imports it
    import timm

    with seeded(6):
        model = timm.create_model("convnext_atto", pretrained=False, num_classes=10).eval()
        enliven(model)
        x, other = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    return Built(model, (x,), other_inputs=(other,))


def _build_unet() -> Built:
    with seeded(7):
        x, other = torch.randn(1, 3, 36, 28), torch.randn(2, 3, 44, 36)
        model = settled(UNet(), other)
    axes = {0: "batch", 2: "height", 3: "width"}
    options = dynamic_axes({"x": axes}, {"mask": axes})
    return Built(model, (x,), export_options=options, other_inputs=(other,))


def _build_shared_relu() -> Built:
    with seeded(8):
        x, other = torch.randn(2, 3, 16, 16), torch.randn(3, 3, 16, 16)
        model = settled(SharedReluNet(), other)
    return Built(model, (x,), export_options=_BATCH, other_inputs=(other,))


CASES = (
    Case("four-blocks", _build_four_blocks, other_inputs="batch"),
    Case("srcnn", _build_super_resolution, other_inputs="values"),
    Case("alexnet", _build_alexnet, other_inputs="values"),
    Case("resnet18", _build_resnet18, other_inputs="batch"),
    Case("mobilenet-v3-small", _build_mobilenet, other_inputs="values"),
    Case("convnext-atto", _build_convnext, other_inputs="values"),
    Case("unet", _build_unet, other_inputs="batch, height, width"),
    Case("shared-relu", _build_shared_relu, other_inputs="batch"),
)
