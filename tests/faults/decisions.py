"""Parts of healthy models that decide between all but equal values, so that rounding decides."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.case import Built, seeded


class Deep(nn.Module):
    """Fifty residual layers that add up, unnormalised: activations grow by orders of magnitude."""

    def __init__(self, depth: int = 50) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + F.gelu(layer(x)) * 1.5
        return x


class Codebook(nn.Module):
    """Replaces each vector by the nearest code of a book in which two are all but equally near.

    The similarities are a layer of their own: what decides is the rounding of the layers before.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        offset, normal = 0.3 * torch.randn_like(rows), F.normalize(torch.randn_like(rows), dim=-1)
        # The mirror image of a code in a plane through the vector is as near to it.
        mirrored = offset - 2 * (offset * normal).sum(-1, keepdim=True) * normal
        codes = torch.cat([rows + offset, rows + mirrored])
        self.similarity = nn.Linear(rows.shape[1], len(codes))
        with torch.no_grad():
            self.similarity.weight.copy_(codes)
            self.similarity.bias.copy_(-0.5 * codes.pow(2).sum(1))
        self.codes = nn.Parameter(codes)

    def forward(self, x: Tensor) -> Tensor:
        return self.codes[self.similarity(x).argmax(-1)]


class Quantiser(nn.Module):
    """A deep encoder, a codebook, and a decoder that sees which codes were chosen."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.encoder = Deep(12)
        self.book = Codebook(self.encoder(x).detach())
        self.decoder = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.book(self.encoder(x)))  # type: ignore[no-any-return]


def quantiser() -> Built:
    with seeded(55):
        x = torch.randn(64, 32)
        return Built(Quantiser(x).eval(), (x,))


class Select(nn.Module):
    """The places of the largest scores behind a deep encoder, all of which tie but for its rounding."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.encoder, self.score, self.head = Deep(20), nn.Linear(32, 64), nn.Linear(8, 4)
        with torch.no_grad():
            scores = self.score(self.encoder(x))
            ties = scores.amax() * (1 + torch.arange(64) * 2.0**-22)
            self.score.bias.add_(ties - scores[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values, places = self.score(self.encoder(x)).topk(8, dim=-1)
        return self.head(values), places


def select() -> Built:
    with seeded(56):
        x = torch.randn(1, 32)
        return Built(Select(x).eval(), (x,))


class Quantise(nn.Module):
    """Rounds to whole steps of a fine grid."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x * 20000) / 20000


class Threshold(nn.Module):
    """A hard gate at a value that many elements are all but equal to."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean(dim=(2, 3), keepdim=True)
        return torch.where(x - level > 1e-7 * x.abs(), x, torch.zeros_like(x))
