"""Architectures that nothing here was written for, with random weights: see :mod:`tests.mapping.hunt`.

Each ``WILD[name]()`` gives a fresh model in eval mode and its inputs, the same every time. BatchNorms are
settled; everything else is as its library starts it, tiny layer scales and zeros for biases included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.torchvision_import import import_torchvision
from tests.zoo.case import Built, seeded, settled


class ConvUnit(nn.Sequential):
    """A convolution, a BatchNorm and an activation."""

    def __init__(self, channels: int, features: int, kernel: int = 3, stride: int = 1) -> None:
        conv = nn.Conv2d(channels, features, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(features), nn.SiLU())


class SplitBlock(nn.Module):
    """Splits the channels, sends one half through more layers, and joins all of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.first, self.last = ConvUnit(channels, channels, 1), ConvUnit(half * 3, channels, 1)
        self.inner = nn.Sequential(ConvUnit(half, half), ConvUnit(half, half))

    def forward(self, x: Tensor) -> Tensor:
        kept, sent = self.first(x).chunk(2, 1)
        result: Tensor = self.last(torch.cat([kept, sent, sent + self.inner(sent)], 1))
        return result


class PyramidDetector(nn.Module):
    """Boxes as expectations over a softmax at one scale, classes at another, and a path back up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = ConvUnit(3, 16, 3, 2), ConvUnit(16, 32, 3, 2)
        self.fine = SplitBlock(32)
        self.coarse = nn.Sequential(ConvUnit(32, 64, 3, 2), SplitBlock(64))
        self.up, self.lateral = nn.Upsample(scale_factor=2), ConvUnit(96, 32, 1)
        self.boxes, self.classes = nn.Conv2d(32, 8, 1), nn.Conv2d(64, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.fine(self.down(self.stem(x)))
        coarse = self.coarse(fine)
        joined = self.lateral(torch.cat([fine, self.up(coarse)], 1))
        boxes = self.boxes(joined).flatten(2).softmax(1)
        return {"boxes": boxes, "classes": self.classes(coarse).sigmoid().flatten(2)}


class GruTagger(nn.Module):
    """Tags of a sequence by a bidirectional GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 24), nn.Linear(64, 7)
        self.gru = nn.GRU(24, 32, bidirectional=True, batch_first=True)
        self.norm = nn.LayerNorm(64)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(tokens))
        return F.log_softmax(self.head(self.norm(states)), -1)


class OnlyOutput(nn.Module):
    """One field of what a model of transformers returns."""

    def __init__(self, network: nn.Module, field: str) -> None:
        super().__init__()
        self.network, self.field = network, field

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = getattr(self.network(x), self.field)
        return result


def _detector() -> Built:
    return _settled_on_images(PyramidDetector, 64)


def _gru() -> Built:
    with seeded(0):
        return Built(GruTagger().eval(), (torch.randint(0, 50, (3, 11)),))


def _settled_on_images(make: Callable[[], nn.Module], size: int) -> Built:
    with seeded(0):
        x = torch.randn(2, 3, size, size)
        return Built(settled(make(), x), (x,))


def _timm(name: str, size: int, **options: Any) -> Built:
    import_torchvision()
    import timm

    return _settled_on_images(partial(timm.create_model, name, pretrained=False, **options), size)


def _transformers() -> Any:
    import_torchvision()  # transformers imports it where it is installed
    import transformers

    return transformers


def _segformer() -> Built:
    tr = _transformers()
    config = tr.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 40, 64], decoder_hidden_size=32, num_labels=5
    )
    return _settled_on_images(lambda: OnlyOutput(tr.SegformerForSemanticSegmentation(config), "logits"), 64)


def _mobilevit() -> Built:
    tr = _transformers()
    config = tr.MobileViTConfig(
        hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 16, 24, 32, 64], image_size=64, num_labels=5
    )
    return _settled_on_images(lambda: OnlyOutput(tr.MobileViTForImageClassification(config), "logits"), 64)


def _distilbert() -> Built:
    tr = _transformers()
    config = tr.DistilBertConfig(
        vocab_size=100, dim=48, n_layers=3, n_heads=4, hidden_dim=96, max_position_embeddings=64
    )
    with seeded(0):
        model = OnlyOutput(tr.DistilBertModel(config), "last_hidden_state").eval()
        return Built(model, (torch.randint(0, 100, (2, 16)),))


def _whisper() -> Built:
    tr = _transformers()
    config = tr.WhisperConfig(
        d_model=64,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        vocab_size=100,
        num_mel_bins=20,
        max_source_positions=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    with seeded(0):
        encoder = tr.WhisperModel(config).encoder
        return Built(OnlyOutput(encoder, "last_hidden_state").eval(), (torch.randn(2, 20, 100),))


_SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 3, 4)}

WILD: Mapping[str, Callable[[], Built]] = {
    "detector": _detector,
    "gru": _gru,
    "segformer": _segformer,
    "mobilevit": _mobilevit,
    "distilbert": _distilbert,
    "whisper-encoder": _whisper,
    "convnext": partial(_timm, "convnext_atto", 96),
    "efficientnet-lite": partial(_timm, "efficientnet_lite0", 64),
    "regnet": partial(_timm, "regnety_002", 64),
    "mixer": partial(_timm, "mixer_s32_224", 224, num_classes=10),
    "levit": partial(_timm, "levit_128s", 224),
    "repvgg": partial(_timm, "repvgg_a0", 64),
    "ghostnet": partial(_timm, "ghostnet_100", 64),
    "densenet": partial(_timm, "densenet121", 64),
    "swin": partial(_timm, "swin_tiny_patch4_window7_224", 224, **_SWIN),
}
