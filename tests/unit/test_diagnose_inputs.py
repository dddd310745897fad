"""Inputs: the one change that makes both sides agree is found, and none where there is none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from alignkit.diagnose import inputs
from alignkit.diagnose.inputs import explain_input, heals
from alignkit.records import Array, Experiment
from tests.diagnosis import Forward, compared, only

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.random((2, 3, 6, 5), np.float32)
CUBE = RANDOM.random((2, 4, 4, 4), np.float32)
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
RIGHT = np.array([[101, 7, 8, 102, 0, 0], [101, 9, 102, 0, 0, 0], [101, 5, 6, 7, 8, 102]])
LEFT = np.array([[0, 0, 101, 7, 8, 102], [0, 0, 0, 101, 9, 102], [101, 5, 6, 7, 8, 102]])


def explained(expected: Array, found: Array) -> Experiment:
    """The change that heals: the only one that is shown then."""
    (one,) = explain_input(expected, found)
    assert heals(one), one
    return one


@pytest.mark.parametrize(
    ("expected", "found", "change"),
    [
        pytest.param(
            IMAGE,
            IMAGE.transpose(0, 2, 3, 1),
            "transposing the deployed side's input by (0, 3, 1, 2)",
            id="NHWC",
        ),
        pytest.param(
            IMAGE.transpose(0, 2, 3, 1),
            IMAGE,
            "transposing the deployed side's input by (0, 2, 3, 1)",
            id="NCHW for NHWC",
        ),
        pytest.param(
            CUBE,
            CUBE.transpose(0, 2, 3, 1),
            "transposing the deployed side's input by (0, 3, 1, 2)",
            id="NHWC of equal sides",
        ),
        pytest.param(
            IMAGE,
            IMAGE.transpose(0, 1, 3, 2),
            "transposing the deployed side's input by (0, 1, 3, 2)",
            id="width and height",
        ),
        pytest.param(
            IMAGE,
            np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1)).reshape(IMAGE.shape),
            "reading the deployed side's memory as channels-last",
            id="NHWC memory declared NCHW",
        ),
        pytest.param(IMAGE, IMAGE[:, ::-1], "reversing the channel order on axis 1", id="BGR"),
        pytest.param(IMAGE, IMAGE[..., ::-1], "reversing the order on axis 3", id="mirrored"),
        pytest.param(IMAGE, IMAGE * 255, "scaling by 0.00392157 and adding", id="0 to 255"),
        pytest.param(IMAGE, IMAGE * 2 - 1, "scaling by 0.5 and adding 0.5", id="-1 to 1"),
        pytest.param(IMAGE, (IMAGE * 255).astype(np.uint8), "scaling by 0.0039", id="bytes"),
        pytest.param(
            IMAGE, (IMAGE - MEAN) / STD, "normalising each channel of axis 1 (0.229 x +0.485", id="normalised"
        ),
        pytest.param((IMAGE - MEAN) / STD, IMAGE, "normalising each channel of axis 1", id="not normalised"),
        pytest.param(
            IMAGE,
            IMAGE[:, ::-1] * 255,
            "reversing the channel order on axis 1, then scaling by 0.00392157",
            id="BGR, 0 to 255",
        ),
        pytest.param(
            IMAGE, IMAGE.astype(np.float16), "casting PyTorch's input to float16", id="half as half"
        ),
        pytest.param(
            IMAGE,
            IMAGE.astype(np.float16).astype(np.float32),
            "casting PyTorch's input to float16",
            id="half as float",
        ),
        pytest.param(IMAGE * 100, np.trunc(IMAGE * 100), "casting PyTorch's input to int8", id="truncated"),
        pytest.param(RIGHT, LEFT, "shifting the rows (padding on the other side)", id="left padding"),
        pytest.param(LEFT, RIGHT, "shifting the rows (padding on the other side)", id="right padding"),
        pytest.param(
            (RIGHT != 0).astype(np.int64),
            (LEFT != 0).astype(np.int64),
            "shifting the rows (padding on the other side)",
            id="mask",
        ),
    ],
)
def test_the_change_that_makes_both_sides_agree_is_named(expected: Array, found: Array, change: str) -> None:
    """Alone, and with the numbers to undo it by."""
    assert explained(expected, found).name.startswith(change)


NOTHING: dict[str, Callable[[], tuple[Array, Array]]] = {
    "other image": lambda: (IMAGE, RANDOM.random(IMAGE.shape, np.float32)),
    "a little noise": lambda: (IMAGE, IMAGE + 3e-5 * RANDOM.standard_normal(IMAGE.shape).astype(np.float32)),
    "two numbers": lambda: (np.array([[1.0, 2.0]], np.float32), np.array([[5.0, -3.0]], np.float32)),
    "other tokens": lambda: (RIGHT, LEFT + 1),
    "NaN": lambda: (IMAGE, np.where(IMAGE > 0.9, np.nan, IMAGE).astype(np.float32)),
    "another size": lambda: (IMAGE, RANDOM.random((2, 3, 4, 4), np.float32)),
    "a number": lambda: (np.float32(1).reshape(()), np.float32(2).reshape(())),
    "empty": lambda: (np.zeros((0, 4), np.float32), np.zeros((1, 4), np.float32)),
    "flags": lambda: (np.array([True, False]), np.array([False, False])),
    "complex": lambda: (IMAGE.astype(np.complex64), IMAGE.astype(np.complex64) * 1j),
}


@pytest.mark.parametrize("case", NOTHING.values(), ids=NOTHING.keys())
def test_where_no_change_explains_it_none_is_claimed(case: Callable[[], tuple[Array, Array]]) -> None:
    """Two numbers always lie on a line, and small noise is close to itself: neither explains anything."""
    tried = explain_input(*case())
    assert len(tried) <= 3
    assert not any(map(heals, tried))


def test_the_changes_that_come_closest_are_shown() -> None:
    """Best first, so that the table is of use without an answer."""
    noisy = 255 * IMAGE + RANDOM.standard_normal(IMAGE.shape).astype(np.float32)
    tried = explain_input(IMAGE, noisy)
    errors = [one.error for one in tried if one.error is not None]
    assert errors == sorted(errors)
    assert any("scaling by" in one.name or "normalising" in one.name for one in tried)


def test_nothing_more_is_tried_once_a_change_explains_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Permutations of a large batch take time."""
    monkeypatch.setattr(inputs, "_reversals", lambda expected, found: pytest.fail("tried further"))
    assert explained(IMAGE, IMAGE.transpose(0, 2, 3, 1)).error == 0.0


def test_the_report_says_which_change_makes_the_inputs_agree() -> None:
    """The model's input is the culprit, with the change as evidence; no layer is accused."""
    model = Forward(lambda m, x: m.c(x), c=nn.Conv2d(3, 4, 3))
    image = torch.from_numpy(IMAGE)
    for other, change in (
        (image.flip(1), "reversing the channel order on axis 1"),
        (image * 255, "scaling by 0.00392157"),
        (image.half(), "casting PyTorch's input to float16"),
    ):
        culprit = only(compared(model, image, candidate_inputs=other))
        assert (culprit.tap, culprit.cause, culprit.confidence) == ("(model)#0:in[0]", "input", "high")
        assert any(
            line.startswith(change) and line.endswith("makes both sides agree") for line in culprit.evidence
        )


def test_an_unexplained_input_is_still_the_inputs_fault() -> None:
    """What was tried is shown, with its errors."""
    model = Forward(lambda m, x: m.c(x), c=nn.Conv2d(3, 4, 3))
    culprit = only(
        compared(model, torch.from_numpy(IMAGE), candidate_inputs=torch.from_numpy(np.roll(IMAGE, 1, 2)))
    )
    assert culprit.cause == "input"
    assert {one.reading for one in culprit.experiments} == {"does not make them agree"}
