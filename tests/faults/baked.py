"""Constants baked while tracing: right on the inputs of the export, wrong on others."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.faults.case import Fault, compared
from tests.faults.hosts import Attention, probe_net, small_resnet, text_encoder
from tests.zoo.case import Built, dynamic_axes, seeded

_TORCHSCRIPT = ("torchscript",)


class ItemScale(nn.Module):
    """Scales by the largest activation, which ``.item()`` turns into a Python number."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().max().item()


class Gate(nn.Module):
    """A Python ``if`` on a tensor's value."""

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().mean() > 1.2:  # an image of much contrast
            return torch.tanh(x)
        return F.gelu(x)


class Percentile(nn.Module):
    """Clips at a percentile that numpy computes."""

    def forward(self, x: Tensor) -> Tensor:
        limit = float(np.percentile(x.detach().numpy(), 80))
        return x.clamp(max=limit)


class BatchMean(nn.Module):
    """Centres on the batch's mean, whose length is a Python number."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.sum(0, keepdim=True) / len(x)


class LengthScale(nn.Module):
    """Scores scaled by the logarithm of the sequence's length, by ``math``."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores * (math.log(scores.shape[-1]) / 4)


class FirstHalf(nn.Module):
    """Attends to the first half of the tokens only; how many those are is an int."""

    def forward(self, scores: Tensor) -> Tensor:
        seen = torch.arange(scores.shape[-1]) < int(scores.shape[-1] * 0.5)
        return scores.masked_fill(~seen, -1e4)


class RememberedDecay(nn.Module):
    """A decay per distance, in a table that is made for the longest sequence so far and kept."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.zeros(0)

    def forward(self, scores: Tensor) -> Tensor:
        length = int(scores.shape[-1])
        if len(self.table) < length:
            self.table = torch.linspace(0.0, -3.0, length)
        places = torch.arange(length)
        return scores + self.table[(places[:, None] - places[None]).abs()]


class LongOnly(nn.Module):
    """A sharper attention for sequences of more than ten tokens: a test of a dynamic axis."""

    def forward(self, scores: Tensor) -> Tensor:
        if scores.shape[-1] > 10:
            return scores * 2
        return scores


class Refine(nn.Module):
    """As many rounds of smoothing as an input says."""

    def __init__(self) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, rounds: Tensor) -> Tensor:
        for _ in range(int(rounds)):
            x = torch.tanh(self.smooth(x)) + x
        return x


class Refiner(nn.Module):
    """An image model that is told how often to refine."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.refine, self.head = nn.Conv2d(3, 4, 3), Refine(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor, rounds: Tensor) -> Tensor:
        return self.head(self.refine(self.stem(x), rounds))  # type: ignore[no-any-return]


class PaddingMask(nn.Module):
    """Averages the tokens before each length; the longest decides the mask's width, as an int."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        longest = int(lengths.max())
        mask = (torch.arange(longest)[None] < lengths[:, None]).float()
        mask = F.pad(mask, (0, x.shape[1] - longest))
        return (x * mask[..., None]).sum(1) / lengths[:, None]


class Reader(nn.Module):
    """An LSTM over tokens of which each row has so many."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(30, 12), nn.LSTM(12, 16, batch_first=True)
        self.average, self.head = PaddingMask(), nn.Linear(16, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(tokens))
        return self.head(self.average(states, lengths))  # type: ignore[no-any-return]


def _with_batch(built: Built) -> Built:
    """The same with a dynamic batch, other inputs of which are longer."""
    options = dynamic_axes({"x": {0: "batch"}}, {"y": {0: "batch"}})
    return Built(built.model, built.args, {}, options, (torch.cat([*built.args, *built.args]),))


def _text(bias: nn.Module) -> Built:
    """A text encoder with a dynamic length, other inputs of which are longer."""
    built = text_encoder(Attention(bias=bias))
    with seeded(8):
        longer = (torch.randint(0, 40, (2, 17)),)
    options = dynamic_axes({"ids": {1: "length"}}, {"scores": {}})
    return Built(built.model, built.args, {}, options, longer)


def _refiner() -> Built:
    with seeded(9):
        model, x = Refiner().eval(), torch.randn(1, 3, 12, 12)
    return Built(model, (x, torch.tensor(2)), other_inputs=(x, torch.tensor(4)))


def _reader() -> Built:
    with seeded(10):
        model, tokens = Reader().eval(), torch.randint(0, 30, (2, 9))
    return Built(model, (tokens, torch.tensor([3, 5])), other_inputs=(tokens, torch.tensor([4, 9])))


_BAKED = "trace-constant"
_SCORES = "blocks.1.attention.bias"
CASES = (
    compared(
        "item",
        lambda: probe_net(ItemScale),
        Fault.at("part", _BAKED),
        "a .item() in forward",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "python-if",
        lambda: probe_net(Gate),
        Fault.at("part", _BAKED),
        "an if on a tensor takes one side for ever",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "numpy",
        lambda: small_resnet(part=Percentile, path="layer3.0.relu"),
        Fault.at("layer3.0.relu", _BAKED),
        "a percentile by numpy",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "len",
        lambda: _with_batch(probe_net(BatchMean)),
        Fault.at("part", _BAKED),
        "len(x) is the export's batch size",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "math-log-length",
        lambda: _text(LengthScale()),
        Fault.at(_SCORES, _BAKED),
        "math.log of a dynamic length",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "int-of-length",
        lambda: _text(FirstHalf()),
        Fault.at(_SCORES, _BAKED),
        "int() of a dynamic length",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "remembered-table",
        lambda: _text(RememberedDecay()),
        Fault.at(_SCORES, _BAKED),
        "a table made for the export's length",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "shape-test",
        lambda: _text(LongOnly()),
        Fault.at(_SCORES, _BAKED),
        "a shape test on a dynamic axis",
        other=True,
    ),
    compared(
        "loop-count",
        _refiner,
        Fault.at("refine", _BAKED),
        "the number of rounds of a loop",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "mask-width",
        _reader,
        Fault.at("average", _BAKED),
        "int(lengths.max()) is the export's",
        other=True,
        exporters=_TORCHSCRIPT,
    ),
)
