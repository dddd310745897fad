"""Arguments: each tensor that a call gives has a name and a place, however the call spells it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignkit.arguments import input_order, named_arguments, named_inputs


def test_names_follow_the_signature_not_the_call() -> None:
    """Keywords become positions in an export; nested arguments carry their path."""

    class Model(nn.Module):
        def forward(self, x: Tensor, pair: Any, *more: Tensor, mask: Tensor, **rest: Tensor) -> Tensor:
            return x

    a, b, c, d, e, f = (torch.tensor(float(i)) for i in range(6))
    named = named_inputs(Model(), (a, {"k": (b, 5)}, c), {"other": e, "mask": d, "z": f})
    assert [(name, value.item()) for name, value in named] == [
        ("x", 0),
        ("pair_k_0", 1),
        ("more_0", 2),
        ("mask", 3),
        ("other", 4),
        ("z", 5),
    ]


def test_one_tensor_given_twice_keeps_both_positions() -> None:
    """Found by position, for identity cannot tell them apart."""

    class Model(nn.Module):
        def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            return x

    a, b = torch.ones(1), torch.zeros(1)
    assert input_order(Model(), (a,), {"z": a, "y": b}) == [0, 2, 1]


def test_numbers_stand_among_the_tensors() -> None:
    """Those left at their default too, for one exporter makes each a graph input; a flag is none."""

    class Model(nn.Module):
        def forward(self, x: Tensor, scale: float, y: Tensor, steps: int = 3, flag: bool = True) -> Tensor:
            return x

    a, b = torch.ones(1), torch.zeros(1)
    assert named_arguments(Model(), (a, 0.5, b), {}) == [("x", a), ("scale", 0.5), ("y", b), ("steps", 3)]
    assert named_inputs(Model(), (a, 0.5, b), {}) == [("x", a), ("y", b)]


def test_a_call_that_does_not_fit_keeps_its_order() -> None:
    """Its tensors still have names: who calls the model will say what is wrong."""
    x, y = torch.ones(1), torch.zeros(1)
    assert named_inputs(nn.Identity(), (x, y), {"mask": x}) == [("arg0", x), ("arg1", y), ("mask", x)]
