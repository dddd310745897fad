"""What ONNX Runtime itself does otherwise: kernels, and graph optimisations.

Each was found by holding ONNX Runtime 1.31 against PyTorch and against the operator's definition, with
graph optimisation on and off.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.faults.case import Fault, FaultCase, compared
from tests.faults.hosts import probe_net
from tests.zoo.case import EXPORTERS, Built, seeded

_OPTIMIZER, _RUNTIME = "optimizer", "runtime"


class PaddedPool(nn.Module):
    """Zero padding, then a max pool over negative values too: PadFusion pads with -inf instead."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.pad(x - 1.0, (1, 1, 1, 1), value=0.0), 3, 2)


class SquashedPool(nn.Module):
    """The same of log-probabilities, as a submodule of a larger part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.pool = nn.GroupNorm(4, 16), PaddedPool()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.norm(x))  # type: ignore[no-any-return]


class MaskedMaximum(nn.Module):
    """The maximum over the neighbours that a mask leaves, of which some places have none: -inf."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(x.masked_fill(x < 0.5, float("-inf")), 2)
        return torch.where(torch.isinf(y), torch.zeros_like(y), y)


class MaskedSequence(nn.Module):
    """The maximum of every two neighbours in a sequence of which a mask hides some."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.arange(x.shape[1])[:, None] % 5 > 1
        y = F.max_pool1d(x.masked_fill(hidden, float("-inf")).transpose(1, 2), 2).transpose(1, 2)
        return torch.where(torch.isinf(y), torch.zeros_like(y), y)


class InvalidPixels(nn.Module):
    """Pixels that are not a number stay so through pooling, and are filled in behind it."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(torch.where(x > 1.5, torch.full_like(x, float("nan")), x), 2)
        return torch.nan_to_num(y, nan=-1.0)


class FloorClamp(nn.Module):
    """A lower bound on scores of which infinite ones are dropped afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.where(x > 1.0, torch.full_like(x, float("inf")), x).clamp(min=-0.5)
        return torch.where(torch.isinf(scores), torch.zeros_like(scores), scores)


class SurpriseScore(nn.Module):
    """-log(sigmoid(x)) of scores far below zero, where the kernel's sigmoid is zero already."""

    def forward(self, x: Tensor) -> Tensor:
        return -torch.log(torch.sigmoid(-10 * F.relu(x) - 20)) * 0.01


class SmallElu(nn.Module):
    """ELU of values near zero, shown in millionths: the kernel takes exp(x) - 1 as it stands."""

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(x * 1e-6) * 1e6


class DilatedSame(nn.Module):
    """A dilated convolution with padding="same" and an even kernel: the kernel refuses auto_pad."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, (4, 3), dilation=(2, 1), padding="same")

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


def _pooled_modules() -> Built:
    """Padding and pooling as two modules of a Sequential."""
    pool = nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2))
    return probe_net(lambda: nn.Sequential(Shift(), pool))


class SequenceNet(nn.Module):
    """A sequence classifier that pools masked tokens in pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.pool, self.head = nn.Linear(8, 16), MaskedSequence(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.pool(self.lift(x))))  # type: ignore[no-any-return]


def _masked_sequence() -> Built:
    with seeded(41):
        return Built(SequenceNet().eval(), (torch.randn(2, 20, 8),))


class Shift(nn.Module):
    """Values that are mostly negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x - 1.0


def _runtime(
    name: str,
    build: Callable[[], Built],
    fault: Fault,
    why: str,
    exporters: tuple[str, ...] = EXPORTERS,
) -> FaultCase:
    return compared(name, build, fault, why, exporters=exporters, kind="runtime")


_PART = "part"
CASES = (
    _runtime("pad-fusion", lambda: probe_net(PaddedPool), Fault.at(_PART, _OPTIMIZER), "PadFusion"),
    _runtime(
        "pad-fusion-nested", lambda: probe_net(SquashedPool), Fault.at("part.pool", _OPTIMIZER), "PadFusion"
    ),
    _runtime(
        "pad-fusion-modules",
        _pooled_modules,
        # The fusion spans two modules: taps between them split it, so either may be named, or their parent.
        Fault.at(("part.1.0", "part.1.1", "part.1"), _OPTIMIZER),
        "PadFusion across two modules",
    ),
    _runtime(
        "max-pool-infinite",
        lambda: probe_net(MaskedMaximum),
        Fault.at(_PART, _OPTIMIZER),
        "behind a Conv NchwcTransformer takes another MaxPool: of -inf alone it makes -3.4e38",
    ),
    _runtime(
        "sequence-infinite",
        _masked_sequence,
        Fault.at("pool", _RUNTIME),
        "MaxPool in one dimension makes -3.4e38 of -inf alone",
    ),
    # The operator's definition says nothing of NaN, so that either side may be held to blame.
    _runtime(
        "max-pool-nan",
        lambda: probe_net(InvalidPixels),
        Fault.at(_PART, (_RUNTIME, "exporter")),
        "MaxPool skips NaN",
    ),
    _runtime(
        "clip-infinite",
        lambda: probe_net(FloorClamp),
        Fault.at(_PART, _RUNTIME),
        "Clip without a maximum makes inf the largest finite number",
    ),
    _runtime(
        "sigmoid-tail",
        lambda: probe_net(SurpriseScore),
        Fault.at(_PART, _RUNTIME),
        "Sigmoid is zero below about -18",
    ),
    # The operator's definition is written with exp(x) - 1 as well: the graph or the kernel may be blamed.
    _runtime(
        "elu-small",
        lambda: probe_net(SmallElu),
        Fault.at(_PART, (_RUNTIME, "exporter")),
        "Elu loses small negative values",
    ),
    _runtime(
        "dilated-same",
        lambda: probe_net(DilatedSame),
        Fault.at(("part.conv",), _RUNTIME),
        "no kernel for auto_pad with dilation",
        ("torchscript",),
    ),
)
