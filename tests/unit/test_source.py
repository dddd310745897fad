"""Source: the line of the user's code behind every tap."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alignkit.capture import capture_reference
from alignkit.instrument import Instrument, Selection, tap_explicit
from alignkit.records import Source, Tap
from alignkit.source import SourceFinder, is_user_code

HERE = Path(__file__)
X = torch.ones(1, 1, 2, 2)


class Called(nn.Module):
    """A class with a ``__call__`` around its forward, as transformers has."""

    def __call__(self, *args: Any) -> Any:
        return super().__call__(*args)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


class Up(nn.Module):
    """Calls of every kind, each on a line of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Tanh()))
        self.called = Called()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pair(x)
        x = self.called(x)
        tapped = tap_explicit(x, "mine")
        x = x if tapped is None else tapped
        x = F.interpolate(
            x,
            scale_factor=2,
            mode="bicubic",
        )
        return helper(x)


def helper(x: Tensor) -> Tensor:
    return torch.no_grad()(lambda: x * 2)()  # type: ignore[no-any-return]


def sources(**settings: Any) -> dict[str, Source | None]:
    taps = capture_reference(Up(), (X,), {}, Selection(granularity="op", **settings)).taps
    return {name: tap.source for name, tap in taps.items()}


def line_of(text: str) -> int:
    return next(i for i, line in enumerate(HERE.read_text().splitlines(), 1) if line.strip().startswith(text))


@pytest.mark.parametrize(
    ("tap", "line"),
    [
        ("pair#0:in[0]", "x = self.pair(x)"),
        ("pair#0[0]", "x = self.pair(x)"),
        ("pair.0#0[0]", "x = self.pair(x)"),  # called by a container of torch's own
        ("pair.1.0#0[0]", "x = self.pair(x)"),
        ("called#0[0]", "x = self.called(x)"),  # not its own __call__
        ("called#0/add#0[0]", "return x + 1"),
        ("(model)#0/mul#0[0]", "return torch.no_grad()(lambda: x * 2)()"),  # through torch's decorator
    ],
)
def test_a_tap_tells_the_users_line(tap: str, line: str) -> None:
    """Who called the module or the function, past every frame of torch's and alignkit's."""
    source = sources()[tap]
    assert source is not None
    assert source.location.endswith(f"test_source.py:{line_of(line)}")
    assert source.text.startswith(line)


def test_an_explicit_tap_tells_where_it_stands() -> None:
    """The line of the ``debug`` call."""
    source = sources()["mine"]
    assert source is not None
    assert source.text == 'tapped = tap_explicit(x, "mine")'


def test_nothing_in_the_model_calls_the_root() -> None:
    """The line that calls the whole model is the test's, the notebook's, alignkit's: not the model's."""
    found = sources()
    assert found["(model)#0:in[0]"] is None
    assert found["(model)#0[0]"] is None
    taps = capture_reference(nn.Sequential(nn.ReLU()), (X,), {}, Selection()).taps
    assert taps["0#0[0]"].source is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 knows the first line only")
def test_a_call_over_several_lines_is_told_as_one() -> None:
    """As it would stand on one line; the location is that of its first."""
    source = sources()["(model)#0/interpolate#0[0]"]
    assert source is not None
    assert source.text == 'x = F.interpolate(x, scale_factor=2, mode="bicubic")'
    assert source.location.endswith(f":{line_of('x = F.interpolate(')}")


def test_without_being_asked_no_tap_tells_its_line() -> None:
    """Walking the stack costs time, and an exporter's run has no use for it."""
    seen: list[Tap] = []

    def visit(tap: Tap, value: Tensor) -> Tensor:
        seen.append(tap)
        return value

    model = Up()
    with Instrument(model, Selection(granularity="op"), visit):
        model(X)
    assert seen
    assert not any(tap.source for tap in seen)


def test_paths_are_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Relative to the working directory, or else the last two parts."""
    monkeypatch.chdir(HERE.parent)
    here = SourceFinder().find(sys._getframe())
    assert here is not None
    assert here.location.startswith("test_source.py:")
    monkeypatch.chdir(tmp_path)
    elsewhere = SourceFinder().find(sys._getframe())
    assert elsewhere is not None
    assert elsewhere.location.startswith("unit/test_source.py:")


@pytest.mark.parametrize(
    ("filename", "users"),
    [
        ("/env/lib/python3.11/site-packages/timm/models/resnet.py", True),
        ("/env/lib/python3.11/site-packages/torchvision/models/resnet.py", True),
        ("/home/me/einops/model.py", True),
        ("<ipython-input-3>", True),
        ("/tmp/ipykernel_7/1234.py", True),
        ("/env/lib/python3.11/site-packages/torch/nn/functional.py", False),
        ("/env/lib/python3.11/site-packages/einops/einops.py", False),
        ("<frozen importlib._bootstrap>", False),
        (contextlib.__file__, False),
        (torch.__file__, False),
    ],
)
def test_whose_code_a_file_is(filename: str, users: bool) -> None:
    """Models out of a library are the user's code; torch, helpers and Python's library are not."""
    assert is_user_code(filename) is users


def test_a_long_statement_is_cut() -> None:
    """A report has one line for it."""
    names: dict[str, Any] = {"find": lambda: SourceFinder().find(sys._getframe(1))}
    exec(compile("x = find()" + " " * 300 + "# far", "<stdin>", "exec"), names)
    assert names["x"].location == "<stdin>:1"
    assert len(names["x"].text) <= 200
