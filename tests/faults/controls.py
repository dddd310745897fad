"""Healthy models that look broken: large, narrow, long, ill-conditioned or undecided. None has a culprit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests import zoo
from tests.faults.case import FaultCase, Prepared
from tests.faults.decisions import Deep, Quantise, Threshold, quantiser, select
from tests.faults.hosts import Attention, probe_net, small_resnet, small_vit, text_encoder
from tests.zoo.case import EXPORTERS, Built, seeded

_TORCHSCRIPT, _DYNAMO = ("torchscript",), ("dynamo",)


def _control(
    name: str,
    build: Callable[[], Built],
    why: str,
    *,
    other: bool = False,
    exporters: tuple[str, ...] = EXPORTERS,
) -> FaultCase:
    def prepare(exporter: str, folder: Path) -> Prepared:
        built = build()
        options: dict[str, Any] = {"export_options": built.export_options.get(exporter, {})}
        if other:
            options["inputs"] = [built.other_inputs]
        return Prepared(built.model, built.args, built.kwargs, options)

    return FaultCase(f"control/{name}", "control", prepare, why, exporters)


# -- large, long, narrow ----------------------------------------------------------------------


def _loud_resnet() -> Built:
    """Activations in the tens of thousands: images a thousand times too bright, fresh statistics."""
    built = small_resnet(seed=51)
    for module in built.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return Built(built.model, (built.args[0] * 1e3,))


class Chaotic(nn.Module):
    """A recurrence that doubles any difference with every step."""

    def __init__(self, steps: int = 30) -> None:
        super().__init__()
        cells = [nn.Linear(24, 24) for _ in range(steps)]
        for cell in cells:
            nn.init.normal_(cell.weight, 0.0, 3.0 / 24**0.5)
        self.cells = nn.ModuleList(cells)

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = torch.tanh(cell(x))
        return x


class LongSums(nn.Module):
    """A mean over a hundred thousand values, a matrix product over sixteen thousand."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16384, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(x)
        total = (x * x).sum(1, keepdim=True) + x.mean() + x.cumsum(1)[:, -1:]
        return y + total  # type: ignore[no-any-return]


class HalfMiddle(nn.Module):
    """Layers in float16 between layers in float32, as mixed precision has it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(32, 64), nn.Linear(64, 8)
        self.middle = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x).half()).float())  # type: ignore[no-any-return]


class Narrowed(nn.Module):
    """Activations that are stored in bfloat16 between two layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.bfloat16().float()


def _half_network() -> Built:
    """A whole convolutional network in float16."""
    with seeded(52):
        layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        )
        return Built(layers.half().eval(), (torch.randn(2, 3, 16, 16).half(),))


# -- ill-conditioned --------------------------------------------------------------------------


class SharpAttention(nn.Module):
    """Scores in the thousands: softmax decides between neighbours."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores * 3000


class NearPole(nn.Module):
    """Divides by differences that all but vanish."""

    def forward(self, x: Tensor) -> Tensor:
        return 1e-3 / (x - x.flip(1) + 1e-3)


class SmallVariance(nn.Module):
    """Normalises values that hardly vary around a large mean."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x * 1e-3 + 100.0)  # type: ignore[no-any-return]


class Cancel(nn.Module):
    """A difference of two large numbers that is small."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 1000.0).pow(2) - (x * x + 1e6)


def _small_batch_variance() -> Built:
    """BatchNorms whose channels never varied: a variance of 1e-10 and an eps of 1e-9."""
    with seeded(53):
        x = torch.randn(2, 3, 16, 16)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-9), nn.ReLU(), nn.Conv2d(8, 4, 3))
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var.fill_(1e-10)
    return Built(model.eval(), (x,))


class Wave(nn.Module):
    """Sine and cosine features of high frequencies."""

    def forward(self, x: Tensor) -> Tensor:
        angles = x * torch.tensor([1.0, 10.0, 100.0, 1000.0])
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class WaveNet(nn.Module):
    """A coordinate network."""

    def __init__(self) -> None:
        super().__init__()
        self.wave, self.net = Wave(), nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.wave(x))  # type: ignore[no-any-return]


class LikelihoodHead(nn.Module):
    """Log-likelihoods, log-sum-exp and entropies of confident predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.score(x) * 8
        logs = logits.log_softmax(-1)
        return logs, logits.logsumexp(-1), -(logs.exp() * logs).sum(-1)


def _vectors(part: Callable[[], nn.Module], *shape: int, seed: int = 54) -> Callable[[], Built]:
    """``part`` itself on random values of ``shape``."""

    def build() -> Built:
        with seeded(seed):
            return Built(part().eval(), (torch.randn(*shape),))

    return build


def _zoo(name: str, other: bool = False, exporters: tuple[str, ...] = EXPORTERS) -> FaultCase:
    case = zoo.resolve(name)
    kept = tuple(exporter for exporter in exporters if exporter in case.exporters)
    return _control(
        name,
        case.build,
        "an ordinary network" + (", at other inputs" if other else ""),
        other=other,
        exporters=kept,
    )


def _sharp() -> Built:
    return text_encoder(Attention(bias=SharpAttention()))


CASES = (
    _control("loud-resnet", _loud_resnet, "activations in the tens of thousands"),
    _control("deep-sum", _vectors(Deep, 4, 32), "fifty layers of growing activations"),
    _control("chaotic", _vectors(Chaotic, 4, 24), "float noise grows to the size of the values"),
    _control("long-sums", _vectors(LongSums, 2, 16384), "sums of very many terms"),
    _control("half-middle", _vectors(HalfMiddle, 4, 32), "float16 layers"),
    _control("bfloat16-cast", lambda: probe_net(Narrowed), "activations stored in bfloat16"),
    _control("half-network", _half_network, "float16 throughout"),
    _control("codebook", quantiser, "near ties of argmax, decided by upstream noise"),
    _control("top-k", select, "near ties of top-k"),
    _control("quantise", lambda: probe_net(Quantise), "roundings decided by upstream noise"),
    _control("threshold", lambda: probe_net(Threshold), "comparisons decided by upstream noise"),
    _control("sharp-softmax", _sharp, "softmax of logits in the thousands"),
    _control("near-pole", lambda: probe_net(NearPole), "division by all but nothing"),
    _control("small-variance", _vectors(SmallVariance, 8, 32), "a variance far below the mean"),
    _control("cancellation", lambda: probe_net(Cancel), "a small difference of large numbers"),
    _control("small-batch-variance", _small_batch_variance, "BatchNorm with a tiny variance"),
    _control("waves", _vectors(WaveNet, 64, 1), "sines of large angles"),
    _control("likelihoods", _vectors(LikelihoodHead, 8, 32), "log-likelihoods of confident predictions"),
    _control("small-vit", small_vit, "an ordinary network"),
    _zoo("digits-trained", other=True),
    _zoo("unet", other=True),
    _zoo("bert", other=True),
    _zoo("lstm", other=True),
    _zoo("llama"),
    _zoo("detector-dict", other=True),
    _zoo("mobilenet-v3-small"),
    _zoo("transformer-encoder", other=True),
)
