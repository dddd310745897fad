"""The same inside transformers: what exporters make of attention, its masks and its biases."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.faults.case import Fault, compared
from tests.faults.hosts import Attention, small_vit, text_encoder
from tests.zoo.case import Built, seeded

_TORCHSCRIPT, _DYNAMO = ("torchscript",), ("dynamo",)


class RelativeBias(nn.Module):
    """A learnt bias per pair of positions, two of which share a bucket, as T5 has it."""

    def __init__(self, halve: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.halve = halve
        self.table = nn.Parameter(torch.randn(64) * 2)

    def forward(self, scores: Tensor) -> Tensor:
        places = torch.arange(scores.shape[-1])
        buckets = self.halve(places[None, :] - places[:, None]) + 32
        return scores + self.table[buckets]


class NoSelf(nn.Module):
    """No token attends to itself: the diagonal is filled in place."""

    def forward(self, scores: Tensor) -> Tensor:
        scores = scores * 1.0
        scores.diagonal(dim1=-2, dim2=-1).fill_(-100.0)
        return scores


class ShiftedAttention(nn.Module):
    """Attention over a sequence rolled around by more than its length, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        shifted = torch.roll(x, shifts=13, dims=1)
        return self.mix(self.norm(x + shifted))  # type: ignore[no-any-return]


class MaskedAttention(nn.Module):
    """Attention that hides padding, in a batch where one row is nothing but padding."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.project, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.project(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = (torch.arange(length)[:, None] % 4 != 0) & (torch.arange(length)[None] < 7)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))  # type: ignore[no-any-return]


class TopTokens(nn.Module):
    """Keeps the three tokens of the largest rectified score; most scores are exactly zero."""

    def forward(self, x: Tensor) -> Tensor:
        scores = F.relu(x.mean(-1) - 0.05)
        places = scores.topk(3, dim=1).indices
        return x.gather(1, places[..., None].expand(-1, -1, x.shape[-1])).mean(1, keepdim=True).expand_as(x)


def _bias(part: Callable[[], nn.Module]) -> Callable[[], Built]:
    def build() -> Built:
        with seeded(31):
            bias = part()
        return text_encoder(Attention(bias=bias))

    return build


def _attention(part: Callable[[], nn.Module]) -> Callable[[], Built]:
    def build() -> Built:
        with seeded(32):
            attention = part()
        return text_encoder(attention)

    return build


_SCORES, _ATTENTION = (
    Fault.at("blocks.1.attention.bias", "exporter"),
    Fault.at("blocks.1.attention", "exporter"),
)
CASES = (
    compared(
        "floor-divide",
        _bias(lambda: RelativeBias(lambda x: x // 2)),
        _SCORES,
        "-3 // 2 is rounded to zero",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "right-shift",
        _bias(lambda: RelativeBias(lambda x: x >> 1)),
        _SCORES,
        "-3 >> 1 is rounded to zero",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "diagonal-in-place",
        _bias(NoSelf),
        _SCORES,
        "a write through diagonal() is lost",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "roll-around",
        _attention(ShiftedAttention),
        _ATTENTION,
        "a roll by more than the length",
        exporters=_TORCHSCRIPT,
    ),
    compared(
        "masked-rows",
        _attention(MaskedAttention),
        _ATTENTION,
        "a fully masked row attends otherwise",
        exporters=_DYNAMO,
    ),
    compared(
        "softplus",
        lambda: small_vit(part=lambda: nn.Softplus(beta=2.0, threshold=2.0), path="blocks.1.mlp.act"),
        Fault.at("blocks.1.mlp.act", "exporter"),
        "the threshold is dropped",
        exporters=_TORCHSCRIPT,
    ),
    compared("exact-ties", _attention(TopTokens), _ATTENTION, "TopK breaks exact ties in another order"),
)
