"""The public face: the user's own calls, unchanged, by both exporters, and reports that blame rightly."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import alignkit
from alignkit.errors import AlignkitWarning, CompareError, InputError, TapError
from alignkit.records import Verdict
from tests.zoo import tamper

BOTH = pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])


class Forward(nn.Module):
    """A root whose forward is a function; ``children`` become its submodules."""

    def __init__(self, function: Callable[..., Any], **children: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)
        self.eval()

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self.function(self, x) if y is None else self.function(self, x, y)


def data(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def exporters_may_warn() -> Iterator[None]:
    """torch's own warnings inside an export are not alignkit's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def tap_names(path: str | Path) -> list[str]:
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return [n.attribute[0].s.decode() for n in nodes if (n.domain, n.op_type) == ("my", "Debug")]


def require_aligned(report: Any) -> None:
    """Aligned with no culprit, and every tap compared."""
    assert report.aligned, str(report)
    assert not report.culprits
    assert {row.verdict for row in report.layers} == {Verdict.OK}, str(report)


def in_place(m: Any, x: Tensor) -> Tensor:
    """Every kind of write after a tap, with later uses of what was written."""
    y = m.a(x)
    m.relu(y)  # writes into its input; the result is not used
    y += 1
    z = m.b(y)
    z.mul_(2)
    w = m.relu(z - 1)
    z[:, 0] = 5
    return torch.cat([w, z, y], 1)


@BOTH
def test_writes_in_place_after_a_tap_are_aligned(exporter: str) -> None:
    """A module writes into its argument and the caller goes on using it; both exporters agree."""
    model = Forward(in_place, a=nn.Linear(4, 4), b=nn.Linear(4, 4), relu=nn.ReLU(inplace=True))
    require_aligned(alignkit.compare(model, data(2, 4), exporter=exporter))


def alias(m: Any, x: Tensor) -> Tensor:
    shortcut = m.a(x)
    y = m.same(shortcut)
    m.relu(y)
    return y + shortcut


@BOTH
def test_a_module_that_returns_its_own_input_keeps_the_alias(exporter: str) -> None:
    """An Identity where a DropPath stood: what is written into its result is written into its input."""
    model = Forward(alias, a=nn.Linear(4, 4), same=nn.Identity(), relu=nn.ReLU(inplace=True))
    require_aligned(alignkit.compare(model, data(2, 4), exporter=exporter))


def shared(m: Any, x: Tensor) -> Tensor:
    y = m.relu(m.a(m.relu(m.a(x)) - 1))
    z, (h, c) = m.lstm(y[None])
    return m.tied(z) + m.relu(h) + c


@BOTH
def test_shared_modules_tied_weights_and_tuple_outputs_are_aligned(exporter: str) -> None:
    """Call indices, an LSTM's nested outputs, one parameter in two modules."""
    model = Forward(shared, a=nn.Linear(4, 4), relu=nn.ReLU(), lstm=nn.LSTM(4, 4), tied=nn.Linear(4, 4))
    model.tied.weight = model.a.weight  # type: ignore[union-attr, assignment]
    report = alignkit.compare(model, data(2, 4), exporter=exporter)
    require_aligned(report)
    taps = {row.tap for row in report.layers}
    assert {"a#0[0]", "a#1[0]", "relu#2[0]", "lstm#0[0]", "lstm#0[1]", "lstm#0[2]"} <= taps


@pytest.fixture(scope="module")
def spoilt_mul(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Path]]:
    """``x = self.a(x) * k; self.b(x)`` inside a block, with the Mul of the marked file spoilt."""
    found = {}
    for exporter in ("dynamo", "torchscript"):
        block = Forward(lambda m, x: m.b(m.a(x) * 1.7), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
        model = Forward(lambda m, x: m.after(m.block(x)), block=block, after=nn.Linear(4, 4))
        folder = tmp_path_factory.mktemp(exporter)
        with alignkit.Debugger(model), exporters_may_warn():
            torch.onnx.export(
                model, (data(2, 4),), str(folder / "m.onnx"), dynamo=exporter == "dynamo", verbose=False
            )
        tamper.tamper_node(
            folder / "m.onnx", folder / "spoilt.onnx", lambda n: n.op_type == "Mul", "operator"
        )
        found[exporter] = (model, folder / "spoilt.onnx")
    return found


@BOTH
def test_functional_code_between_modules_is_blamed_on_the_parent(
    exporter: str, spoilt_mul: dict[str, tuple[nn.Module, Path]]
) -> None:
    """The culprit is the block whose own code it is, not the child that is given the wrong value."""
    model, path = spoilt_mul[exporter]
    report = alignkit.compare(model, data(2, 4), onnx=path, exporter=exporter)
    assert not report.aligned
    assert [culprit.module for culprit in report.culprits] == ["block"]
    rows = {row.tap: row.verdict for row in report.layers}
    assert rows["block.a#0[0]"] is Verdict.OK
    assert rows["block.b#0:in[0]"] is Verdict.INTRODUCED
    assert rows["block.b#0[0]"] is Verdict.PROPAGATED
    assert rows["after#0[0]"] is Verdict.PROPAGATED


@pytest.mark.parametrize("dynamo", [True, False])
def test_the_users_own_call_is_marked_whatever_its_arguments(dynamo: bool, tmp_path: Path) -> None:
    """Names, axes, keyword arguments, opset, external data: the file is as asked for, with taps."""
    model = Forward(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(64, 64), b=nn.Linear(64, 2))
    path = tmp_path / "model.onnx"
    options: dict[str, Any] = {"input_names": ["pixels"], "output_names": ["scores"], "opset_version": 18}
    if dynamo:
        options |= {"external_data": True, "dynamic_shapes": ({0: torch.export.Dim("n")},)}
    else:
        options |= {"dynamic_axes": {"pixels": {0: "n"}}, "do_constant_folding": False, "export_params": True}
    with alignkit.Debugger(model) as debugger, exporters_may_warn():
        result = torch.onnx.export(model, (data(2, 64),), str(path), dynamo=dynamo, verbose=False, **options)
    assert (result is not None) == dynamo
    proto = onnx.load(str(path), load_external_data=False)
    assert [i.name for i in proto.graph.input] == ["pixels"]
    assert [o.name for o in proto.graph.output] == ["scores"]
    assert set(tap_names(path)) >= {"a#0[0]", "b#0:in[0]", "b#0[0]"}
    require_aligned(debugger.compare(path))
    require_aligned(debugger.compare(path, data(5, 64)))


@pytest.mark.parametrize(
    "options",
    [
        {"opset_version": 11},
        {"export_params": False},
        {"keep_initializers_as_inputs": True},
        {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False},
        {"custom_opsets": {"mine": 3}},
        {"operator_export_type": torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_torchscript_exporters_options_do_not_disturb_the_taps(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Each option alone: the file holds the taps, and the model's modes are as before the call."""
    model = Forward(lambda m, x: m.norm(m.a(x)), a=nn.Linear(4, 4), norm=nn.BatchNorm1d(4))
    path = str(tmp_path / "model.onnx")
    with alignkit.Debugger(model), exporters_may_warn():
        torch.onnx.export(model, (data(2, 4),), path, dynamo=False, **options)
    assert {"a#0[0]", "norm#0[0]", "(model)#0[0]"} <= set(tap_names(path))


def test_keyword_arguments_of_the_call_are_bound_by_name(tmp_path: Path) -> None:
    """``kwargs=`` of the user's call, given in another order than the signature's."""

    class Model(nn.Module):
        def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
            return x * scale - shift

    model, path = Model().eval(), str(tmp_path / "model.onnx")
    kwargs = {"shift": torch.tensor([3.0]), "scale": torch.tensor([5.0])}
    with alignkit.Debugger(model) as debugger, exporters_may_warn():
        torch.onnx.export(model, (data(2, 4),), path, kwargs=kwargs, dynamo=False)
    require_aligned(debugger.compare(path))


@pytest.mark.parametrize("how", ["relu", "raise"])
def test_after_the_context_everything_is_as_before(how: str, tmp_path: Path) -> None:
    """The model, its forward and hooks, the generator, and ``torch.onnx.export`` itself."""

    def forward(m: Any, x: Tensor) -> Tensor:
        if how == "raise" and torch.onnx.is_in_onnx_export():
            raise RuntimeError("no export")
        return m.a(x).relu_()  # type: ignore[no-any-return]

    model = Forward(forward, a=nn.BatchNorm1d(4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    call, export, rng = model.forward, torch.onnx.export, torch.random.get_rng_state()
    outcome = pytest.raises(Exception, match="no export") if how == "raise" else contextlib.nullcontext()
    with outcome, alignkit.Debugger(model), exporters_may_warn():
        model(data(2, 4))
        torch.onnx.export(model, (data(2, 4),), str(tmp_path / "model.onnx"), dynamo=False)
    assert torch.onnx.export is export
    assert model.forward == call
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m.training for m in model.modules())
    assert torch.equal(torch.random.get_rng_state(), rng)
    with exporters_may_warn():
        if how == "relu":
            torch.onnx.export(model, (data(2, 4),), str(tmp_path / "plain.onnx"), dynamo=False)
            assert tap_names(tmp_path / "plain.onnx") == []


def test_a_context_can_be_entered_again() -> None:
    """One debugger, several rounds."""
    model = Forward(lambda m, x: m.a(x), a=nn.ReLU())
    debugger = alignkit.Debugger(model)
    for _ in range(2):
        with debugger:
            model(data(1, 2))
        assert debugger.values["a#0[0]"].tolist() == data(1, 2).relu().tolist()


def test_tracing_inside_the_context_neither_warns_nor_crashes() -> None:
    """torch.jit.trace and torch.export of the user's own: there is no value to record, or it is copied."""
    model = Forward(lambda m, x: m.a(x) + 1, a=nn.Linear(4, 4))
    with alignkit.Debugger(model):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning, message=r".*torch\.jit\.")
            traced = torch.jit.trace(model, (data(2, 4),), check_trace=False)
        torch.export.export(model, (data(2, 4),), strict=False)
    assert "Debug" not in str(traced.inlined_graph)
    assert "numpy" not in str(traced.inlined_graph)


@BOTH
def test_explicit_taps_are_rows_and_their_names_may_be_anything(exporter: str) -> None:
    """``alignkit.debug`` in a forward, inside and outside a comparison."""
    name = '=</script> "x_0"\né'
    model = Forward(lambda m, x: m.a(alignkit.debug(x * 2, name)), a=nn.Linear(4, 4))
    assert model(data(2, 4)).shape == (2, 4)
    report = alignkit.compare(model, data(2, 4), exporter=exporter)
    require_aligned(report)
    assert name in {row.tap for row in report.layers}


def test_an_explicit_name_used_twice_is_one_clear_error() -> None:
    """A TapError of alignkit, not an error of the exporter or the model."""
    model = Forward(lambda m, x: alignkit.debug(alignkit.debug(x, "twice") + 1, "twice"))
    with pytest.raises(TapError, match="'twice' is used twice"):
        alignkit.compare(model, data(2, 4), exporter="torchscript")


def test_a_baked_in_shape_shows_at_another_shape() -> None:
    """Exported at one batch size with a dynamic axis, compared at another: aligned, or the culprit named."""
    options = {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]}
    sound = Forward(lambda m, x: m.a(x).flatten(1) * 2, a=nn.Linear(4, 4))
    report = alignkit.compare(
        sound, data(2, 4), inputs=data(5, 4, seed=1), exporter="torchscript", export_options=options
    )
    require_aligned(report)
    baked = Forward(lambda m, x: m.b(m.a(x) / int(x.shape[0])), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    with exporters_may_warn():
        report = alignkit.compare(
            baked, data(2, 4), inputs=data(5, 4, seed=1), exporter="torchscript", export_options=options
        )
    assert not report.aligned
    assert report.culprit is not None
    assert report.culprit.module == "(model)"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cast", ["inside", "outside"])
def test_half_precision_models_are_compared_end_to_end(dtype: torch.dtype, cast: str) -> None:
    """Half inputs, or float inputs cast inside; what the runtime has no kernel for is skipped, no crash.

    Where that leaves nothing but the model's own inputs, it is no pass.
    """
    if cast == "outside":
        model, x = Forward(lambda m, x: m.a(x) * 2, a=nn.Linear(4, 4)).to(dtype), data(2, 4).to(dtype)
    else:
        model = Forward(lambda m, x: (m.a(x.to(m.a.weight.dtype)) * 2).float(), a=nn.Linear(4, 4)).to(dtype)
        x = data(2, 4)
    if cast == "outside" and dtype is torch.bfloat16:
        with pytest.raises(CompareError, match="no tap could be compared: skipped: needs"):
            alignkit.compare(model, x, exporter="torchscript")
        return
    report = alignkit.compare(model, x, exporter="torchscript")
    assert report.aligned, str(report)
    verdicts = {row.verdict for row in report.layers}
    assert verdicts <= {Verdict.OK, Verdict.SKIPPED}
    assert Verdict.OK in verdicts
    if dtype is torch.float16:
        assert verdicts == {Verdict.OK}


def test_a_model_that_cannot_run_in_float64_is_judged_all_the_same() -> None:
    """The reason is a note, and the rows say which tolerance judged them."""
    outside = np.eye(4, dtype=np.float32)
    model = Forward(lambda m, x: m.a(x) @ torch.from_numpy(outside), a=nn.Linear(4, 4))
    report = alignkit.compare(model, data(2, 4), exporter="torchscript")
    require_aligned(report)
    assert any("No noise floor" in note and "dtype" in note for note in report.data.notes)
    assert any("torch.testing" in row.tolerance for row in report.layers)


def test_integer_and_boolean_taps_are_exact() -> None:
    """Index arithmetic and masks are compared element for element."""
    mask = Forward(lambda _, i: i > 2)
    embed = nn.Embedding(8, 4)
    model = Forward(lambda m, i: m.embed(i + 1) * m.mask(i)[..., None], embed=embed, mask=mask)
    report = alignkit.compare(model, torch.tensor([[1, 5]]), exporter="torchscript")
    require_aligned(report)
    dtypes = {row.tap: row.dtype for row in report.layers}
    assert (dtypes["mask#0[0]"], dtypes["embed#0:in[0]"]) == ("bool", "int64")


def test_another_input_on_the_deployed_side_is_the_inputs_fault() -> None:
    """The first culprit is the model's input, with its cause; no layer is accused."""
    model = Forward(lambda m, x: m.a(x), a=nn.Linear(4, 4))
    report = alignkit.compare(model, data(2, 4), candidate_inputs=data(2, 4) * 255, exporter="torchscript")
    assert not report.aligned
    assert [(c.cause, c.module) for c in report.culprits] == [("input", "(model)")]
    assert report.culprit is not None
    assert report.culprit.tap == "(model)#0:in[0]"
    rows = {row.tap: row.verdict for row in report.layers}
    assert rows["a#0[0]"] is Verdict.PROPAGATED


@BOTH
def test_live_dropout_is_not_blamed_on_the_exporter(exporter: str) -> None:
    """A model in training mode: warned of, noted, and the cause of whatever differs."""
    model = Forward(
        lambda m, x: m.b(m.drop(m.a(x))), a=nn.Linear(4, 64), drop=nn.Dropout(), b=nn.Linear(64, 4)
    )
    model.train()
    options = {} if exporter == "dynamo" else {"training": torch.onnx.TrainingMode.PRESERVE}
    if exporter == "torchscript":
        options["do_constant_folding"] = False  # type: ignore[assignment]
    with pytest.warns(AlignkitWarning, match="training mode"):
        report = alignkit.compare(model, data(2, 4), exporter=exporter, export_options=options)
    assert any("training mode" in note for note in report.data.notes)
    assert {culprit.cause for culprit in report.culprits} <= {"train-mode", "nondeterministic"}
    assert {culprit.module for culprit in report.culprits} <= {"drop", "(model)"}
    assert model.training


def test_a_random_forward_is_called_nondeterministic() -> None:
    """Functional dropout in a model in eval mode: no module is in training mode, and it is random."""
    model = Forward(lambda m, x: m.a(x + torch.rand_like(x)), a=nn.Linear(4, 4))
    with exporters_may_warn():
        report = alignkit.compare(model, data(2, 64)[:, :4], exporter="torchscript")
    assert {culprit.cause for culprit in report.culprits} <= {"nondeterministic"}


def test_the_encoders_fast_path_is_no_fault() -> None:
    """Hooks may switch a fused kernel off: aligned, and said where it changes a single bit."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    model = Forward(
        lambda m, x: m.b(m.encoder(m.a(x))), a=nn.Linear(8, 8), encoder=encoder, b=nn.Linear(8, 8)
    )
    with exporters_may_warn():
        report = alignkit.compare(model, data(2, 3, 8), exporter="torchscript")
    assert report.aligned, str(report)
    assert "encoder#0[0]" in {row.tap for row in report.layers}
    assert Verdict.MISSING not in {row.verdict for row in report.layers}


def test_the_encoders_fast_path_with_padding_is_no_fault() -> None:
    """Tapped inside or from outside, it is the same on both sides."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    model = Forward(
        lambda m, x, pad: m.b(m.encoder(x, src_key_padding_mask=pad)), encoder=encoder, b=nn.Linear(8, 8)
    )
    pad = torch.tensor([[False, False, False], [False, False, True]])
    with exporters_may_warn():
        report = alignkit.compare(model, (data(2, 3, 8), pad), exporter="torchscript")
    assert not [row.tap for row in report.layers if row.verdict is Verdict.MISSING]
    assert report.aligned, str(report)


def test_what_a_watched_model_computes_otherwise_is_seen_without_hooks() -> None:
    """However it finds them: the deployed file disagrees, and then a run without hooks is made."""

    def twice_when_watched(m: Any, x: Tensor) -> Tensor:
        return x * 2 if vars(m)["_forward" + "_hooks"] else x

    report = alignkit.compare(Forward(twice_when_watched), (data(2, 3),), exporter="torchscript")
    (output,) = report.outputs
    assert output.plain is not None
    assert output.plain.max_abs == 0.0
    assert output.observer_effect


def test_an_optimizer_that_nobody_knows_is_noted() -> None:
    """ONNX Runtime ignores such a name without a word."""
    model = Forward(lambda m, x: m.a(x), a=nn.Linear(4, 4))
    names = ["ConstantFolding", "ConstantFoldin"]
    report = alignkit.compare(model, data(2, 4), exporter="torchscript", disabled_optimizers=names)
    assert [note for note in report.notes if "'ConstantFoldin'" in note]
    assert not [note for note in report.notes if "'ConstantFolding'" in note]


def test_options_of_the_run_are_accepted_and_reported() -> None:
    """Levels, threads, session options, disabled optimisers; a wrong one is one clear line."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    model = Forward(lambda m, x: m.a(x), a=nn.Linear(4, 4))
    report = alignkit.compare(
        model,
        data(2, 4),
        exporter="torchscript",
        threads=1,
        optimization="basic",
        disabled_optimizers=["ConstantFolding"],
        providers=["cpu"],
        session_options=options,
    )
    require_aligned(report)
    assert report.data.settings["disabled_optimizers"] == ["ConstantFolding"]
    with pytest.raises(CompareError, match="'most'"):
        alignkit.compare(model, data(2, 4), optimization="most")


def test_a_file_without_taps_is_mapped(tmp_path: Path) -> None:
    """Exported outside the context, it is compared all the same."""
    model, path = Forward(lambda m, x: m.a(x), a=nn.Linear(4, 4)), str(tmp_path / "m.onnx")
    with exporters_may_warn():
        torch.onnx.export(model, (data(2, 4),), path, dynamo=False)
    report = alignkit.Debugger(model).compare(path, data(2, 4))
    assert report.aligned
    produced = {value.name for value in onnx.load(path).graph.output}
    assert {row.onnx_value for row in report.layers if row.module == "a"} == produced


class SizeAsNumber(nn.Linear):
    """A dynamic size as a Python number: the default exporter falls back to a tracing without hooks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float(x.shape[0])


def test_an_export_that_taps_would_break_is_made_without_them(tmp_path: Path) -> None:
    """The user's call succeeds as it does outside the context; a warning says why the taps are mapped."""
    model, path = nn.Sequential(SizeAsNumber(4, 4), nn.ReLU()).eval(), tmp_path / "m.onnx"
    options = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},), "verbose": False}
    with alignkit.Debugger(model) as debugger, exporters_may_warn():
        with pytest.warns(AlignkitWarning, match="cannot be exported with taps"):
            torch.onnx.export(model, (data(3, 4),), path, **options)
        model(data(3, 4))
    assert tap_names(path) == []
    assert debugger.values
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    report = debugger.compare(path)
    assert report.aligned
    assert report.coverage.not_compared == 0


def test_comparing_without_inputs_or_model_is_an_error(tmp_path: Path) -> None:
    """Each says what is missing."""
    with pytest.raises(InputError, match="no inputs"):
        alignkit.Debugger(nn.Linear(4, 4).eval()).compare(tmp_path / "m.onnx")
    with pytest.raises(CompareError, match="without a model"):
        alignkit.Debugger().compare(tmp_path / "m.onnx", data(2, 4))


def test_assert_aligned_names_the_culprit() -> None:
    """An AssertionError whose text holds the layer; an aligned model gives its report."""
    model = Forward(lambda m, x: m.a(x), a=nn.Linear(4, 4))
    require_aligned(alignkit.assert_aligned(model, data(2, 4), exporter="torchscript"))
    with pytest.raises(AssertionError, match=re.escape("(model)#0:in[0]")):
        alignkit.assert_aligned(model, data(2, 4), candidate_inputs=data(2, 4) + 1, exporter="torchscript")


def test_a_data_set_shows_its_worst_sample() -> None:
    """A list of inputs is a data set; one bad sample is enough."""
    model = Forward(lambda m, x: m.a(x), a=nn.Linear(4, 4))
    inputs = [data(2, 4, seed=i) for i in range(3)]
    report = alignkit.compare(
        model,
        inputs[0],
        inputs=inputs,
        candidate_inputs=[inputs[0], inputs[1] + 1, inputs[2]],
        exporter="torchscript",
    )
    assert not report.aligned
    assert [row.aligned for row in report.samples] == [True, False, True]
    assert report.data.settings["shown"] == "sample 1"


def test_weights_in_external_files_are_compared_where_they_lie(tmp_path: Path) -> None:
    """The marked file and the deployed one keep their weights outside, under one name in two folders."""
    model = Forward(lambda m, x: m.a(x), a=nn.Linear(64, 64))
    with exporters_may_warn():
        torch.onnx.export(model, (data(2, 64),), str(tmp_path / "one.onnx"), dynamo=False)
    deployed = tmp_path / "deployed"
    deployed.mkdir()
    proto = onnx.load(tmp_path / "one.onnx")
    weight = onnx.numpy_helper.to_array(proto.graph.initializer[0]) * np.float32(2)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, proto.graph.initializer[0].name))
    onnx.save(proto, deployed / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    report = alignkit.compare(model, data(2, 64), onnx=deployed / "m.onnx", exporter="torchscript")
    assert not report.aligned, "the deployed file's first weight is doubled"
