"""The float64 twin, its weights widened one call at a time, against a float64 copy of the whole model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from alignkit.capture import capture_reference
from alignkit.instrument import Selection
from alignkit.records import Capture, Noise
from alignkit.sources.program import open_program
from alignkit.tensors import version_of
from alignkit.twin import measure_noise
from alignkit.widening import Widening, widened_copy
from tests import zoo
from tests.diagnosis import Forward, data

Args = tuple[Tensor, ...]
NOTHING: Mapping[str, Any] = {}
ROUNDING = 1e-9  # of float64, over a deep network, relative to the tensor's scale


def weight(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, dtype=dtype))


class Holder(nn.Module):
    """Computes ``function(self.w, *args)``."""

    def __init__(self, function: Callable[..., Any], w: nn.Parameter) -> None:
        super().__init__()
        self.function = function
        self.w = w

    def forward(self, *args: Tensor) -> Any:
        return self.function(self.w, *args)


def write_through_data(w: Tensor, x: Tensor) -> Tensor:
    w.data.clamp_(-0.3, 0.3)
    return x @ w


def write_in_place(w: Tensor, x: Tensor) -> Tensor:
    with torch.no_grad():
        w.clamp_(-0.3, 0.3)
    return x @ w


def write_new_data(w: Tensor, x: Tensor) -> Tensor:
    w.data = w.data.abs()
    return x @ w


def write_into_rows(w: Tensor, x: Tensor) -> Tensor:
    w.detach()[1] = 0.5
    return x @ w


def average(m: Any, x: Tensor) -> Tensor:
    m.state.mul_(0.9).add_(m.a(x).mean(0))
    return m.a(x) + m.state  # type: ignore[no-any-return]


def averaging() -> nn.Module:
    model = Forward(average, a=nn.Linear(8, 8))
    model.register_buffer("state", torch.ones(8))
    return model


def tied(max_norm: float | None = None) -> nn.Module:
    model = Forward(
        lambda m, ids: m.head(m.table(ids)),
        table=nn.Embedding(10, 8, max_norm=max_norm),
        head=nn.Linear(8, 10, bias=False),
    )
    model.head.weight = model.table.weight
    return model


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        inner = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.Tanh()))  # type: ignore[no-untyped-call]
    return nn.Sequential(inner, nn.Linear(8, 8))


def gated() -> nn.Module:
    """Keeps its own list of weights beside the registered ones, as recurrent modules do."""
    return Forward(lambda m, x: m.a(x)[0], a=nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True))


def frozen() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 8))


class Product(torch.autograd.Function):
    """Computes in a type of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(x @ w).float()


class Cell(nn.Module):
    """Goes on from what it returned the time before, and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(8, 8)
        self.last: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.tanh(self.step(x) + self.last)
        return self.last


def kept() -> nn.Module:
    """What is given to an in-place module, and what one returns, is added to what comes of it."""
    return Forward(
        lambda m, x: m.b(h := m.a(x) * 3) + h + m.c(x) + m.c(x),
        a=nn.Linear(8, 8),
        b=nn.ReLU(inplace=True),
        c=Cell(),
    )


class Beside(nn.Module):
    """Has a tensor that is no buffer, and sees itself to its type."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.turn = torch.randn(8, 8)

    def _apply(self, function: Any, recurse: bool = True) -> Any:
        self.turn = function(self.turn)
        return super()._apply(function, recurse)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.a(x) @ self.turn
        return result


def made_for_inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True))


def stacked() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding="same", groups=2)
    )
    return model.to(memory_format=torch.channels_last)


IDS = torch.tensor([[1, 2, 3]])
IMAGES = data(8, 8, 96, 96)
SEQUENCE = data(2, 5, 8)

MODELS: Mapping[str, tuple[Callable[[], nn.Module], Args]] = {
    "lstm": (gated, (SEQUENCE,)),
    "attention": (
        lambda: Forward(lambda m, x: m.a(x, x, x)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)).eval(),
        (SEQUENCE,),
    ),
    "encoder layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), (SEQUENCE,)),
    "batch norm in training mode": (
        lambda: nn.Sequential(nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)).train(),
        (IMAGES[:2, :, :8, :8],),
    ),
    "tied weights": (tied, (IDS,)),
    "a table whose rows are renormed": (lambda: nn.Embedding(10, 8, max_norm=0.5), (IDS,)),
    "a renormed table that is tied": (lambda: tied(0.5), (IDS,)),
    "a table given by name": (
        lambda: nn.Sequential(
            Holder(lambda w, ids: F.embedding(weight=w, input=ids), weight(10, 8)), nn.Linear(8, 8)
        ),
        (IDS,),
    ),
    "a weight that is returned": (
        lambda: Forward(lambda m, x: (x @ m.a(), m.a.w), a=Holder(lambda w: w, weight(8, 8))),
        (data(4, 8),),
    ),
    "a frozen weight that is handed on": (
        lambda: Forward(
            lambda m, x: x @ m.a(m.b.w), a=nn.Identity(), b=Holder(torch.clone, weight(8, 8))
        ).requires_grad_(False),
        (data(4, 8),),
    ),
    "frozen weights": (frozen, (data(4, 8),)),
    "a weight that is written through its data": (
        lambda: Holder(write_through_data, weight(8, 8)),
        (data(4, 8),),
    ),
    "a weight that is written in place": (lambda: Holder(write_in_place, weight(8, 8)), (data(4, 8),)),
    "a weight with new data": (lambda: Holder(write_new_data, weight(8, 8)), (data(4, 8),)),
    "a weight with new rows": (lambda: Holder(write_into_rows, weight(8, 8)), (data(4, 8),)),
    "a float64 weight that is written": (
        lambda: Holder(write_through_data, weight(8, 8, dtype=torch.float64)),
        (data(4, 8).double(),),
    ),
    "whole numbers among the weights": (
        lambda: Holder(lambda w, x: x * w.to(x.dtype), nn.Parameter(torch.arange(8), requires_grad=False)),
        (data(4, 8),),
    ),
    "a buffer that is written": (averaging, (data(4, 8),)),
    "scripted code inside": (scripted, (data(4, 8),)),
    "weight norm": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8))), (data(4, 8),)),
    "spectral norm": (
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 8))).train(),
        (data(4, 8),),
    ),
    "float16": (lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).half(), (data(4, 8).half(),)),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)).bfloat16(),
        (data(4, 8).bfloat16(),),
    ),
    "types that are read off weights": (
        lambda: Holder(lambda w, x: x.to(w.dtype) @ w + torch.ones(w.shape[1], dtype=w.dtype), weight(8, 8)),
        (data(4, 8),),
    ),
    "a list of weights": (
        lambda: Forward(
            lambda m, x: x @ torch.cat(list(m.a)), a=nn.ParameterList([weight(4, 8), weight(4, 8)])
        ),
        (data(4, 8),),
    ),
    "a function with its own gradient": (
        lambda: nn.Sequential(Holder(lambda w, x: Product.apply(x, w), weight(8, 8)), nn.Linear(8, 8)),
        (data(4, 8),),
    ),
    "values that go on": (kept, (data(4, 8),)),
    "a tensor that is no buffer": (Beside, (data(4, 8),)),
    "weights without versions": (made_for_inference, (data(4, 8),)),
    "convolutions in pieces": (stacked, (IMAGES.to(memory_format=torch.channels_last),)),
    "a view of channels that come last": (
        lambda: Forward(lambda m, x: m.a(x).permute(0, 2, 3, 1).view(-1, 16), a=nn.Conv2d(8, 16, 3)).to(
            memory_format=torch.channels_last
        ),
        (IMAGES.to(memory_format=torch.channels_last),),
    ),
}


def noise_of(model: nn.Module, args: Args, kwargs: Any, reference: Capture, **how: Any) -> dict[str, Noise]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")  # of scripted code
        return measure_noise(model, args, kwargs, how.pop("selection", Selection()), reference, **how)


def assert_same(found: Mapping[str, Noise], plain: Mapping[str, Noise], reference: Capture) -> None:
    """The distance of every tap to float64 is one and the same, but for float64's own rounding."""
    assert found.keys() == plain.keys()
    for tap, one in found.items():
        values = torch.from_numpy(reference.values[tap].astype("float64"))
        scale = float(values.abs().max()) if values.numel() else 0.0
        assert abs(one.max_abs - plain[tap].max_abs) <= ROUNDING * max(scale, 1.0), tap


def assert_like_a_copy(
    model: nn.Module,
    args: Args,
    kwargs: Mapping[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    selection: Selection = Selection(),  # noqa: B008  frozen
) -> dict[str, Noise]:
    """As a float64 copy of the whole model measures it; and the model's own weights stay as they are."""
    reference = capture_reference(model, args, kwargs, selection)
    before = {name: (p, version_of(p), p.detach().clone()) for name, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
        wide = copy.deepcopy(model).double()
    found: dict[str, Noise] = {}
    for substitute in (False, True):
        how = {"substitute": substitute, "selection": selection}
        plain = noise_of(wide, args, kwargs, reference, **how)
        with monkeypatch.context() as context:
            context.setattr(nn.Module, "double", None)  # what would widen all weights at once
            for tight in (False, True):
                found = noise_of(model, args, kwargs, reference, tight=tight, **how)
                assert_same(found, plain, reference)
    noise_of(model, args, kwargs, reference, substitute=True, perturb=64.0, selection=selection)
    for name, parameter in model.named_parameters():
        known, version, value = before[name]
        assert parameter is known
        assert (version_of(parameter), parameter.dtype) == (version, value.dtype), name
        assert torch.equal(parameter, value), name
    return found


@pytest.mark.parametrize("name", MODELS)
def test_a_twin_computes_what_a_float64_copy_of_the_model_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tap by tap, along the model and segment by segment, without a float64 copy of its weights, and the
    model is afterwards as it was."""
    build, args = MODELS[name]
    torch.manual_seed(0)
    assert_like_a_copy(build(), args, NOTHING, monkeypatch)


@pytest.mark.parametrize("name", ["values that go on", "spectral norm", "float16", "a weight with new rows"])
def test_a_twin_whose_operations_are_tapped_is_no_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tap on every operation more values are replaced."""
    build, args = MODELS[name]
    torch.manual_seed(0)
    assert_like_a_copy(build(), args, NOTHING, monkeypatch, Selection(granularity="op"))


@pytest.mark.parametrize("name", ["bert", "gpt2", "unet"])
def test_a_twin_of_a_real_architecture_is_no_less_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The distances that verdicts hang on are those of a float64 copy."""
    built = zoo.resolve(name).build()
    found = assert_like_a_copy(built.model, built.args, built.kwargs, monkeypatch)
    assert sum(one.max_abs > 0 for one in found.values()) > 10


def test_the_twin_of_an_exported_program_is_the_program_in_float64() -> None:
    """The program is made into modules again, with weights of their own; its noise is the model's."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4)).eval()
    args = (data(2, 3, 8, 8),)
    program = open_program(torch.export.export(model, args))
    for substitute in (False, True):
        found, plain = (
            noise_of(one, args, {}, capture_reference(one, args, {}, Selection()), substitute=substitute)
            for one in (program, model)
        )
        assert {tap: one.max_abs > 0 for tap, one in found.items()} == {
            tap: one.max_abs > 0 for tap, one in plain.items()
        }
        assert_same(found, plain, capture_reference(program, args, {}, Selection()))
    assert {p.dtype for p in program.parameters()} == {torch.float32}


def test_where_a_weight_is_read_unseen_all_are_copied() -> None:
    """An extension in another language takes tensors as they are: it gets float64 ones all the same."""

    def unseen(w: Tensor, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return x @ w

    torch.manual_seed(0)
    model, args = Holder(unseen, weight(8, 8)), (data(4, 8),)
    reference = capture_reference(model, args, {}, Selection())
    plain = noise_of(copy.deepcopy(model).double(), args, {}, reference, substitute=True)
    assert_same(noise_of(model, args, {}, reference, substitute=True), plain, reference)
    assert model.w.dtype is torch.float32


def test_weights_that_are_read_are_let_go_again() -> None:
    """A chain of layers needs the float64 weights of a few of them at a time, not of all."""
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(20)))
    each = 64 * 64 * 8
    copied, weights = widened_copy(model)
    widening = Widening(weights, room=3 * each)
    most = 0
    with torch.no_grad(), widening:
        x = torch.ones(1, 64, dtype=torch.float64)
        for layer in copied:
            x = layer(x)
            most = max(most, len(widening._wide))
    assert most == 3
    assert widening._held == sum(wide.nbytes for wide in widening._wide.values()) == 3 * each


def test_the_copy_takes_no_memory_for_weights() -> None:
    """Its weights lie where the model's own lie, as other parameters; its buffers are its own."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    copied, weights = widened_copy(model)
    assert len(weights) == 4
    for own, other in zip(model.parameters(), copied.parameters(), strict=True):
        assert own is not other
        assert own.data_ptr() == other.data_ptr()
        assert isinstance(other, nn.Parameter)
    assert copied[1].running_mean.dtype is torch.float64
    assert model[1].running_mean.dtype is torch.float32
