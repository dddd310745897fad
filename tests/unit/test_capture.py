"""Capture: the reference is what plain eager computes, and its noise is measured against float64."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.onnx import is_in_onnx_export

from alignkit.capture import capture_reference, capture_replayed, confirm_reference
from alignkit.errors import ModelError
from alignkit.instrument import Selection, may_notice_hooks
from alignkit.records import Capture
from alignkit.twin import measure_noise
from tests.diagnosis import Forward

ALL = Selection()


def capture(model: nn.Module, *args: Any, **kwargs: Any) -> Capture:
    return capture_reference(model, args, kwargs, ALL)


X = torch.tensor([[-1.0, 2.0]])


def in_place_addition(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y += 10
    return m.b(y)  # type: ignore[no-any-return]


def test_an_in_place_operation_after_a_tap_does_not_rewrite_the_record() -> None:
    """``x += 1`` and ``ReLU(inplace=True)`` write into what was recorded."""
    found = capture(Forward(in_place_addition, a=nn.Tanh(), b=nn.ReLU(inplace=True)), X)
    assert found.values["a#0[0]"].tolist() == torch.tanh(X).tolist()
    assert found.values["b#0:in[0]"].tolist() == (torch.tanh(X) + 10).tolist()
    model = nn.Sequential(nn.Tanh(), nn.ReLU(inplace=True))
    found = capture(model, X)
    assert found.values["0#0[0]"].tolist() == torch.tanh(X).tolist()
    assert found.values["1#0[0]"].tolist() == torch.relu(torch.tanh(X)).tolist()


def test_a_write_through_a_view_does_not_rewrite_the_record() -> None:
    """The view's write counts as the base's."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        y.view(-1)[0] = 7
        return m.b(y)  # type: ignore[no-any-return]

    found = capture(Forward(forward, a=nn.Tanh(), b=nn.ReLU()), X)
    assert found.values["a#0[0]"][0, 0] == torch.tanh(X)[0, 0]
    assert found.values["b#0:in[0]"][0, 0] == 7


def test_the_callers_input_is_not_written_into() -> None:
    """A model that works in place leaves the user's tensor alone, and every run starts from it."""
    x = X.clone()
    model = nn.Sequential(nn.ReLU(inplace=True))
    found = capture(model, x)
    assert x.tolist() == X.tolist()
    assert found.values["(model)#0:in[0]"].tolist() == X.tolist()
    measure_noise(model, (x,), {}, ALL, found, substitute=True)
    measure_noise(model, (x.double(),), {}, ALL, found, substitute=True)
    assert x.tolist() == X.tolist()


def test_one_tensor_through_several_taps_is_stored_once() -> None:
    """A child's output is its parent's output and the next one's input."""
    found = capture(nn.Sequential(nn.Sequential(nn.Tanh()), nn.Sequential(nn.ReLU())), X)
    names = ["0.0#0[0]", "0#0[0]", "1#0:in[0]", "1.0#0:in[0]"]
    assert len({id(found.values[name]) for name in names}) == 1
    assert found.values["1#0[0]"] is not found.values["0#0[0]"]


def test_tensors_that_were_freed_are_not_mistaken_for_new_ones() -> None:
    """An identity that is used again belongs to another tensor."""

    def forward(m: Any, x: Tensor) -> Tensor:
        for i in range(50):
            m.a(torch.full((1,), float(i)))
        return x

    found = capture(Forward(forward, a=nn.Identity()), X)
    assert [found.values[f"a#{i}[0]"].item() for i in range(50)] == list(range(50))


def test_outputs_are_those_of_a_run_without_hooks() -> None:
    """Leaves in order; None and numbers are no outputs."""
    model = Forward(lambda _, x: {"b": (x, None, 3), "a": x > 0})
    found = capture(model, X)
    assert [value.tolist() for value in found.outputs] == [X.tolist(), (X > 0).tolist()]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float16, "float16"),
        (torch.bfloat16, "bfloat16"),
        (torch.float64, "float64"),
        (torch.int64, "int64"),
        (torch.uint8, "uint8"),
        (torch.bool, "bool"),
        (torch.complex64, "complex64"),
    ],
)
def test_every_dtype_is_recorded_bit_for_bit(dtype: torch.dtype, name: str) -> None:
    """numpy has no bfloat16, ml_dtypes does."""
    value = torch.tensor([0, 1, 1]).to(dtype)
    found = capture(nn.Identity(), value).values["(model)#0[0]"]
    assert found.dtype.name == name
    assert found.astype(np.complex128).tolist() == [0, 1, 1]


def test_bfloat16_keeps_its_bits() -> None:
    """Not a value of it passes through another type."""
    value = torch.randn(100, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = capture(nn.Identity(), value).values["(model)#0[0]"]
    assert found.view(np.int16).tolist() == value.view(torch.int16).tolist()
    assert found.dtype == ml_dtypes.bfloat16


def test_tensors_of_any_layout_are_recorded_by_their_values() -> None:
    """Transposed, expanded, empty, without dimensions, lazily conjugated or negated."""
    base = torch.arange(6.0).reshape(2, 3)
    cases = [base.T, base[:, :1].expand(2, 5), base[:0], torch.tensor(3.0), base[::2, 1]]
    cases += [torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag]
    for value in cases:
        found = capture(nn.Identity(), value).values["(model)#0[0]"]
        assert found.tolist() == value.tolist()
        assert found.shape == tuple(value.shape)


def test_tensors_without_an_array_are_untapped_with_a_reason() -> None:
    """Sparse ones here; the model runs all the same."""
    model = Forward(lambda m, x: m.child(x).to_dense(), child=Forward(lambda _, x: x.to_sparse()))
    found = capture(model, X)
    assert "sparse" in found.untapped["child#0[0]"]
    assert found.values["(model)#0[0]"].tolist() == X.tolist()


class Stateful(nn.Module):
    """Draws random numbers, counts its calls in a buffer and writes into another."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("nothing", None)
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("with_nan", torch.tensor([float("nan")]))
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.drop(self.norm(self.linear(x)))
        self.with_nan += 1
        if self.fail:
            self.eval()
            raise RuntimeError("no")
        return x


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: value.detach().numpy().tobytes() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_model_and_the_generator_are_afterwards_as_before(training: bool, fail: bool) -> None:
    """Parameters and buffers bit for bit, training flags, gradients, RNG; after an exception too."""
    model = Stateful().train(training)
    model.norm.eval()
    model.fail = fail
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    reference = None if fail else capture(model, x)
    before, modes = bits(model), [module.training for module in model.modules()]
    rng = torch.random.get_rng_state()
    buffers = [id(buffer) for buffer in model.buffers()]
    if fail:
        with pytest.raises(ModelError, match="RuntimeError: no"):
            capture(model, x)
    else:
        assert reference is not None
        capture(model, x)
        for substitute in (False, True):
            measure_noise(model, (x,), {}, ALL, reference, substitute=substitute)
    assert bits(model) == before
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), rng)
    assert [id(buffer) for buffer in model.buffers()] == buffers
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_buffer_that_the_forward_replaces_is_put_back() -> None:
    """``self.cache = ...`` puts another tensor in the buffer's place."""

    def forward(m: Any, x: Tensor) -> Tensor:
        m.cache = m.cache + 1
        return x * m.cache  # type: ignore[no-any-return]

    model = Forward(forward)
    model.register_buffer("cache", torch.zeros(1))
    found = capture(model, X)
    assert found.notes == ()
    assert model.cache.item() == 0  # type: ignore[operator]


def test_live_dropout_is_seeded_the_same_for_both_runs() -> None:
    """Random, but by the same numbers: no note of a difference that the seed explains."""
    assert capture(nn.Sequential(nn.Dropout()).train(), torch.ones(64)).notes == ()


def test_a_model_that_keeps_state_outside_its_buffers_is_noted() -> None:
    """Two eager runs on the same input differ, and the capture says so."""
    calls: list[int] = []

    def forward(_: nn.Module, x: Tensor) -> Tensor:
        calls.append(0)
        return x + len(calls)

    found = capture(Forward(forward), X)
    assert any("differ" in note for note in found.notes)


def test_hooks_that_change_the_kernel_are_avoided_or_noted() -> None:
    """The encoder's fast path: the reference is what plain eager computes."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model(x).numpy()
    found = capture(model, x)
    assert found.outputs[0].tobytes() == plain.tobytes()
    assert found.notes or found.values["(model)#0[0]"].tobytes() == plain.tobytes()
    np.testing.assert_allclose(found.values["(model)#0[0]"], plain, rtol=1.3e-6, atol=1e-5)


def is_watched(module: nn.Module) -> bool:
    """A helper beside a class."""
    return bool(module._forward_hooks)


class AskingAHelper(nn.Module):
    """Looks for hooks by a function of its file."""

    def forward(self, x: Tensor) -> Tensor:
        """Computes something else while it is watched."""
        return x * 2 if is_watched(self) else x


class HookAware(nn.Module):
    """Computes something else while it is watched."""

    def forward(self, x: Tensor) -> Tensor:
        """Looks for hooks in a function of its own, as a fast path does."""
        return x * 2 if (lambda: self._forward_hooks)() else x


def test_a_run_without_hooks_may_wait_unless_a_module_looks_for_hooks() -> None:
    """One eager run is enough as long as nothing speaks against it."""
    calls: list[int] = []

    def forward(_: nn.Module, x: Tensor) -> Tensor:
        calls.append(0)
        return x + 1

    plain = Forward(forward)
    found = capture_reference(plain, (X,), {}, Selection(), confirm=False)
    assert not found.confirmed
    assert len(calls) == 1
    confirmed = confirm_reference(plain, (X,), {}, Selection(), found)
    assert confirmed.confirmed
    assert confirmed.outputs is found.outputs
    assert len(calls) == 2

    attention = nn.Sequential(nn.MultiheadAttention(4, 2))
    for noticing in (HookAware(), AskingAHelper(), attention, nn.Sequential(HookAware())):
        assert may_notice_hooks(noticing)
    aware = capture_reference(HookAware(), (X,), {}, Selection(), confirm=False)
    assert aware.confirmed
    assert aware.outputs[0].tolist() == X.tolist()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_transformer_encoder_with_padding_is_captured() -> None:
    """Nested tensors inside: no crash, and the same result as without hooks."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[False, False, False], [False, False, True]])
    found = capture_reference(model, (x,), {"src_key_padding_mask": mask}, ALL)
    with torch.no_grad():
        plain = model(x, src_key_padding_mask=mask).numpy()
    assert found.outputs[0].tobytes() == plain.tobytes()
    np.testing.assert_allclose(found.values["(model)#0[0]"], plain, rtol=1.3e-6, atol=1e-5)
    assert not any("differ" in note for note in found.notes)


def test_a_forward_that_raises_is_a_model_error_in_one_line() -> None:
    """With what to try next."""
    with pytest.raises(ModelError, match=r"RuntimeError.*plain model") as caught:
        capture(nn.Linear(3, 3), X)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter(mode: Callable[[], Any]) -> None:
    """Inference tensors keep no version counter, and cannot be written to outside."""
    with mode():
        x = X.clone()
        found = capture(Forward(in_place_addition, a=nn.Tanh(), b=nn.ReLU(inplace=True)), x)
    assert found.values["a#0[0]"].tolist() == torch.tanh(X).tolist()


def test_inputs_made_in_inference_mode_can_be_used_outside() -> None:
    """The user's data may come from such a block."""
    with torch.inference_mode():
        x = X.clone()
    found = capture(nn.Sequential(nn.Linear(2, 2), nn.ReLU(inplace=True)), x)
    assert measure_noise(nn.Sequential(nn.Linear(2, 2)), (x,), {}, ALL, found, substitute=True)


def test_noise_is_the_distance_to_float64() -> None:
    """Along the whole model or of one segment; an exact operation has none."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    reference = capture(model, x)
    whole = measure_noise(model, (x,), {}, ALL, reference, substitute=False)
    own = measure_noise(model, (x,), {}, ALL, reference, substitute=True)
    assert 0 < whole["0#0[0]"].max_abs < 1e-6
    assert own["0#0[0]"].max_abs == whole["0#0[0]"].max_abs
    assert own["1#0[0]"].max_abs == 0.0
    assert 0 < whole["1#0[0]"].max_abs < 1e-6


def test_integer_and_boolean_values_stay_as_they_are_in_the_float64_run() -> None:
    """Indices and masks must not become floats; they have no noise."""
    model = Forward(lambda m, i, mask: m.emb(i) * mask[:, None], emb=nn.Embedding(4, 2))
    args = (torch.tensor([1, 3]), torch.tensor([True, False]))
    reference = capture(model, *args)
    noise = measure_noise(model, args, {}, ALL, reference, substitute=True)
    assert "(model)#0:in[0]" not in noise
    assert noise["emb#0[0]"].max_abs == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_noise_of_a_half_precision_model_is_that_of_its_precision(dtype: torch.dtype) -> None:
    """A half's own rounding is much larger than a float's."""
    model = nn.Sequential(nn.Linear(64, 64)).to(dtype)
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    noise = measure_noise(model, (x,), {}, ALL, capture(model, x), substitute=True)
    assert 1e-5 < noise["0#0[0]"].max_abs < 1e-1


def test_a_model_that_cannot_run_in_float64_says_why() -> None:
    """Values that come from outside torch in another type."""
    linear = nn.Linear(2, 2)
    outside = np.ones((2, 2), np.float32)
    model = Forward(lambda m, x: m.linear(x) @ torch.from_numpy(outside), linear=linear)
    reference = capture(model, X)
    with pytest.raises(ModelError, match=r"no float64 run: RuntimeError.*dtype"):
        measure_noise(model, (X,), {}, ALL, reference, substitute=True)
    assert linear.weight.dtype is torch.float32


def test_what_the_forward_casts_itself_runs_in_float64_too() -> None:
    """A layer kept in half precision between others: its rounding is its noise."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        half, linear = nn.Linear(2, 2).half(), nn.Linear(2, 2)
    model = Forward(
        lambda m, x: m.linear(m.half_layer(x.to(torch.float16)).float()), half_layer=half, linear=linear
    )
    noise = measure_noise(model, (X,), {}, ALL, capture(model, X), substitute=True)
    assert 0.0 < noise["half_layer#0[0]"].max_abs < 1e-2


def test_a_model_that_cannot_be_copied_says_why() -> None:
    """A lock, a file, a generator among its attributes."""
    model = nn.Linear(2, 2)
    model.lock = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(ModelError, match="no float64 run"):
        measure_noise(model, (X,), {}, ALL, capture(model, X), substitute=True)


def test_a_cast_to_float32_inside_does_not_count_as_noiseless() -> None:
    """A forward that rounds to float32 itself: the float64 run must not crash on the mixed types."""
    model = Forward(lambda m, x: m.act((x * 3).float() / 3), act=nn.Tanh())
    reference = capture(model, X)
    noise = measure_noise(model, (X,), {}, ALL, reference, substitute=True)
    assert noise["act#0[0]"].max_abs < 1e-6


def test_dropout_of_the_float64_run_drops_the_same_elements() -> None:
    """Other random numbers would be taken for noise and excuse everything."""
    model = nn.Sequential(nn.Dropout(0.5)).train()
    x = torch.ones(256)
    rng = torch.random.get_rng_state()
    reference = capture(model, x)
    noise = measure_noise(model, (x,), {}, ALL, reference, substitute=False)
    assert noise["0#0[0]"].max_abs == 0.0
    assert torch.equal(torch.random.get_rng_state(), rng)


def test_a_perturbation_shows_how_well_a_segment_is_conditioned() -> None:
    """Rounding of the input is magnified by a steep function and not by a flat one."""
    model = nn.Sequential(Forward(lambda _, x: x * 1.0), Forward(lambda _, x: (x - 1) * 1e4))
    x = torch.full((16,), 1.5)
    reference = capture(model, x)
    args = (model, (x,), {}, ALL, reference)
    calm = measure_noise(*args, substitute=True)["1#0[0]"].max_abs
    moved = measure_noise(*args, substitute=True, perturb=1.0)["1#0[0]"].max_abs
    assert moved > 1e-4 > calm


def _exporting() -> bool:
    return is_in_onnx_export()


def test_a_flag_that_a_model_imported_by_name_is_set_for_the_replay_too() -> None:
    """``from torch.onnx import …`` holds the function itself, and it is afterwards as before."""
    model = Forward(lambda m, x: m.act(x * 2 if _exporting() else x * 3), act=nn.Identity())
    reference = capture(model, X)
    for way in ("dynamo", "torchscript"):
        found = capture_replayed(model, (X,), {}, ALL, reference, way, {"act#0:in[0]"})
        np.testing.assert_array_equal(found["act#0:in[0]"], (X * 2).numpy())
        assert not _exporting()


def test_a_capture_is_freed_with_its_last_reference() -> None:
    """Gigabytes must not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        found = capture(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), X)
        array = weakref.ref(found.values["1#0[0]"])
        assert array() is not None
        del found
        assert array() is None
    finally:
        gc.enable()
