"""Noise floors: what float64 says of each segment, and how well a segment is conditioned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alignkit.capture import capture_reference
from alignkit.comparison import NoiseFloors
from alignkit.instrument import Selection
from alignkit.noise import EagerRun, measure_floors, with_condition
from alignkit.settings import Sample
from tests.diagnosis import Forward, Summed, compared, data

ULP = 2.0**-23


def floors_of(model: nn.Module, x: Tensor, *, condition: bool = False) -> NoiseFloors:
    reference = capture_reference(model, (x,), {}, Selection())
    run = EagerRun(model, Sample((x,)), Selection(), reference)
    found = measure_floors(run)
    return with_condition(found, run) if condition else found


class Step(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


def test_a_segments_own_noise_leaves_out_what_came_before() -> None:
    """A square after ten layers is one rounding by itself, and more than that in the run."""
    layers = nn.Sequential(*(nn.Linear(64, 64) for _ in range(10)))
    model = Forward(lambda m, x: m.square(m.layers(x) * 8), layers=layers, square=Step(torch.square))
    noise = floors_of(model, data(8, 64))
    own, accumulated = noise.own["square#0[0]"], noise.accumulated["square#0[0]"]
    assert own.max_rel <= ULP
    assert accumulated.max_abs > own.max_abs
    assert not noise.missing


def test_a_tap_that_the_file_lacks_ends_no_segment() -> None:
    """The file's segment goes past it, and rounds on the way: the floor is that of all of it."""
    model = Forward(lambda m, x: m.summed(x), summed=Summed(64, 64))
    rows = [
        next(row for row in compared(model, data(8, 64), **options).layers if row.tap == "summed#0[0]")
        for options in ({}, {"exclude": ["summed.linear"]})
    ]
    assert rows[0].noise_floor == rows[1].noise_floor


def test_a_model_that_cannot_run_in_float64_has_no_floor_and_says_why() -> None:
    """The reason is one line."""

    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.dtype is torch.float64:
                raise TypeError("float32 only\nplease")
            return x * 2

    noise = floors_of(Picky().eval(), data(2, 2))
    assert (noise.own, noise.accumulated) == ({}, {})
    assert noise.missing == "no float64 run: TypeError: float32 only"


def test_behind_random_numbers_there_is_no_floor() -> None:
    """The float64 run draws others: the distance to them is no rounding, there or further on."""
    model = Forward(
        lambda m, x: m.b(m.noisy(m.a(x))),
        a=nn.Linear(4, 4),
        noisy=Step(lambda x: x + torch.rand_like(x)),
        b=nn.Linear(4, 4),
    )
    noise = floors_of(model, data(2, 4))
    assert "noisy#0[0]" not in noise.own
    assert noise.own["b#0[0]"].max_abs < 1e-5
    assert noise.accumulated == {}


def test_an_ill_conditioned_step_is_granted_what_one_digit_of_its_input_does() -> None:
    """The tangent near its pole: a healthy kernel may be off by that much."""
    model = Forward(lambda m, x: m.step(m.a(x)), a=nn.Identity(), step=Step(torch.tan))
    x = torch.full((1, 64), 1.5707)
    before = floors_of(model, x).own["step#0[0]"].max_abs
    after = floors_of(model, x, condition=True).own["step#0[0]"].max_abs
    assert after > 1.2 * before
    assert after >= 1e4**2 * ULP  # d tan(x) = tan(x)**2 dx, and tan(x) is about 1e4 there


def test_a_decision_is_no_excuse_on_equal_inputs() -> None:
    """A threshold turns by as much for one digit as for 64: that is no condition."""
    model = Forward(
        lambda m, x: m.step(m.a(x)), a=nn.Identity(), step=Step(lambda x: (x > 1.0).to(x.dtype) * 7)
    )
    x = torch.ones(1, 64)
    assert floors_of(model, x, condition=True).own["step#0[0]"].max_abs == 0.0
