"""Operators that today's exporters translate into something else, each inside a model that uses it.

Found by holding some 500 calls of torch functions against both exporters' files (torch 2.13); where a
later exporter is right, its case is to be taken out: the report then says "aligned", which is true.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.faults.case import Fault, FaultCase, compared
from tests.faults.hosts import point_net, probe_net, segmenter, small_resnet
from tests.zoo.case import Built, seeded

_TORCHSCRIPT, _DYNAMO = ("torchscript",), ("dynamo",)


# -- convolutional parts ----------------------------------------------------------------------


class GatedInPlace(nn.Module):
    """A gated unit that writes into one half of its input's copy."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        values, gates = y.chunk(2, 1)
        values.mul_(torch.sigmoid(gates))
        return y


class RowScale(nn.Module):
    """Scales the images of a batch one by one, through views of it."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        for image in y.unbind(0):
            image.div_(image.abs().amax() + 0.5)
        return y


class ChannelBias(nn.Module):
    """A bias per channel added through a transposed view."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1.0
        y.permute(0, 2, 3, 1).add_(self.bias)
        return y


class BlurredUpsample(nn.Module):
    """An antialiased resize by a factor that does not give whole pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=1.7, mode="bilinear", antialias=True)


class Logits(nn.Module):
    """Log-likelihoods of logits of which the negative ones are masked by -150."""

    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(torch.where(x > 0, x, x - 150.0))


class Heading(nn.Module):
    """Angles from a rectified sine, which is exactly zero here and there, and a cosine."""

    def forward(self, x: Tensor) -> Tensor:
        sine, cosine = x.chunk(2, 1)
        return torch.atan2(F.relu(sine), cosine)


class StableLog(nn.Module):
    """The logarithm of rectified energies, kept finite by a small constant."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log(F.relu(x) + 1e-12)


class UnitVectors(nn.Module):
    """Pixels divided by the norm of their channels, kept finite by a small constant."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x - x.mean(1, keepdim=True) - 1.0)
        return x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-8)


class CosineHead(nn.Module):
    """A classifier by cosine similarity, of features that are small numbers."""

    def __init__(self, features: int = 512, classes: int = 10) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(classes, features) * 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.cosine_similarity((x * 1e-6)[:, None], self.prototypes[None], dim=-1)


class ManhattanHead(nn.Module):
    """A radial basis head on Manhattan distances."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(10, 512))

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, self.centres, p=1.0) / 500)


def _frozen(part: Callable[[], nn.Module]) -> Callable[[], Built]:
    """A classifier without gradients: autograd forbids what is wrong here, inference does not."""

    def build() -> Built:
        built = probe_net(part)
        built.model.requires_grad_(False)
        return built

    return build


class SmallLogs(nn.Module):
    """Energies near zero, compressed by log1p and shown in millionths."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(F.relu(x) * 1e-6) * 1e6


class SmallGrowth(nn.Module):
    """Growth rates near zero, by expm1, in millionths."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.expm1(x * 1e-6) * 1e6


_EXPORTER = "exporter"
_PART = Fault.at("part", _EXPORTER)


def _head(part: Callable[[], nn.Module]) -> Callable[[], Built]:
    return lambda: small_resnet(part=part, path="fc")


_CONVOLUTIONAL = (
    compared(
        "divisor-override",
        lambda: small_resnet(part=lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5), path="maxpool"),
        Fault.at("maxpool", _EXPORTER),
        "divisor_override is dropped",
    ),
    compared(
        "chunk-in-place",
        _frozen(GatedInPlace),
        _PART,
        "a write through chunk() is lost",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "unbind-in-place",
        _frozen(RowScale),
        _PART,
        "writes through unbind() are lost",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "permuted-in-place",
        _frozen(ChannelBias),
        _PART,
        "a write through permute() is lost",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "antialias",
        lambda: segmenter(up=BlurredUpsample()),
        Fault.at("up", _EXPORTER),
        "sizes are exported, the given scale is not",
        exporters=_DYNAMO,
    ),
    compared("logsigmoid", lambda: probe_net(Logits), _PART, "log(sigmoid(x)) has no value far below zero"),
    compared("atan2-zero", lambda: probe_net(Heading, channels=8), _PART, "atan2(0, negative) becomes -pi"),
    compared(
        "log-epsilon", lambda: probe_net(StableLog), _PART, "x + 1e-12 is rewritten to x", exporters=_DYNAMO
    ),
    compared(
        "norm-epsilon", lambda: probe_net(UnitVectors), _PART, "x + 1e-8 is rewritten to x", exporters=_DYNAMO
    ),
    compared("log1p", lambda: probe_net(SmallLogs), _PART, "log(1 + x) loses a small x"),
    compared("expm1", lambda: probe_net(SmallGrowth), _PART, "exp(x) - 1 loses a small x", exporters=_DYNAMO),
    compared(
        "cosine-similarity",
        _head(CosineHead),
        Fault.at("fc", _EXPORTER),
        "eps bounds the product of the norms",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "cdist",
        _head(ManhattanHead),
        Fault.at("fc", _EXPORTER),
        "p is ignored or wrongly expanded",
        exporters=_TORCHSCRIPT,
    ),
)


# -- pooling by index and recurrence ----------------------------------------------------------


class Accumulate(nn.Module):
    """Sums the features of a cell by index assignment."""

    def forward(self, features: Tensor, cell: Tensor) -> Tensor:
        grid = torch.zeros(6, features.shape[1])
        return grid.index_put((cell,), features, accumulate=True)


class IndexAdd(nn.Module):
    """Every point sends its features to the point that its cell names, as message passing does."""

    def forward(self, features: Tensor, cell: Tensor) -> Tensor:
        return torch.zeros_like(features).index_add(0, cell, features)


class ScatterMean(nn.Module):
    """The mean of a cell's features."""

    def forward(self, features: Tensor, cell: Tensor) -> Tensor:
        index = cell[:, None].expand_as(features)
        grid = torch.zeros(6, features.shape[1])
        return grid.scatter_reduce(0, index, features, reduce="mean", include_self=False)


class LogSum(nn.Module):
    """The soft maximum of each point's features with those of its neighbour, both large."""

    def forward(self, features: Tensor, cell: Tensor) -> Tensor:
        large = features * 100
        return torch.logaddexp(large, large.flip(0))[:6] / 100


class RunningMaximum(nn.Module):
    """The soft maximum of all points so far, of large features."""

    def forward(self, features: Tensor, cell: Tensor) -> Tensor:
        return torch.logcumsumexp(features * 100, 0)[:6] / 100


class Compressor(nn.Module):
    """An LSTM whose state is projected to fewer dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, proj_size=4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])  # type: ignore[no-any-return]


def _compressor() -> Built:
    with seeded(33):
        return Built(Compressor().eval(), (torch.randn(2, 7, 8),))


_POOL = Fault.at("pool", _EXPORTER)
_INDEXED = (
    compared(
        "index-put",
        lambda: point_net(Accumulate()),
        _POOL,
        "of equal indices one is kept",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "index-add",
        lambda: point_net(IndexAdd()),
        _POOL,
        "of equal indices one is kept",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "scatter-mean", lambda: point_net(ScatterMean()), _POOL, "reduce='mean' is dropped", exporters=_DYNAMO
    ),
    compared(
        "logaddexp", lambda: point_net(LogSum()), _POOL, "log(exp(a) + exp(b)) overflows", exporters=_DYNAMO
    ),
    compared(
        "logcumsumexp",
        lambda: point_net(RunningMaximum()),
        _POOL,
        "log(cumsum(exp(x))) overflows",
        exporters=_DYNAMO,
    ),
    compared(
        "lstm-projection",
        _compressor,
        Fault.at("lstm", _EXPORTER),
        "the initial cell state has the wrong width",
        exporters=_DYNAMO,
    ),
)

CASES: tuple[FaultCase, ...] = (*_CONVOLUTIONAL, *_INDEXED)
