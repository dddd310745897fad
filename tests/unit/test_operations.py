"""Operations: what a module's own forward calls is tapped, and nothing of it is changed thereby."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _len_torch_function_stack  # type: ignore[attr-defined]

from alignkit.capture import capture_reference
from alignkit.errors import TapError
from alignkit.export import EXPORTERS, export_model
from alignkit.instrument import Instrument, Selection, tap_explicit
from alignkit.operations import operation_name
from alignkit.records import Tap, TapKind
from alignkit.twin import measure_noise
from tests import zoo
from tests.diagnosis import Forward
from tests.zoo.files import export_built

BOTH = pytest.mark.parametrize("exporter", EXPORTERS)
OPS = Selection(granularity="op")
X = torch.tensor([[-1.0, 2.0, -3.0], [4.0, -5.0, 6.0]])

Body = Callable[..., Any]


class Log:
    """A visitor that lists the operation taps with copies of their values, and may replace values."""

    def __init__(self, replace: Callable[[Tensor], Tensor] = lambda value: value) -> None:
        self.taps: dict[str, Tap] = {}
        self.values: dict[str, Tensor] = {}
        self.replace = replace

    def __call__(self, tap: Tap, value: Tensor) -> Tensor:
        if tap.id.kind is TapKind.OP:
            assert str(tap.id) not in self.taps
            self.taps[str(tap.id)] = tap
            self.values[str(tap.id)] = value.detach().clone()
        return self.replace(value)

    @property
    def names(self) -> list[str]:
        return [name.removeprefix("(model)#0/") for name in self.taps]


def logged(model: nn.Module | Body, *args: Any, selection: Selection = OPS) -> Log:
    log = Log()
    model = model if isinstance(model, nn.Module) else Forward(model)
    with Instrument(model, selection, log), torch.no_grad():
        model(*args)
    return log


def test_each_call_of_a_function_is_tapped_under_its_name() -> None:
    """Numbered per name; in the order of execution; with the module that owns the code."""
    log = logged(lambda _, x: torch.cat([x + 1, F.relu(x) + 2], dim=1).sum(), X)
    assert log.names == ["add#0[0]", "relu#0[0]", "add#1[0]", "cat#0[0]", "sum#0[0]"]
    assert log.values["(model)#0/add#1[0]"].tolist() == (X.relu() + 2).tolist()
    assert {(tap.owner, tap.module_type) for tap in log.taps.values()} == {("(model)", "Forward")}


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: 1 - x, "sub"),
        (lambda x: x - 1, "sub"),
        (lambda x: 2 / x, "div"),
        (lambda x: x / 2, "div"),
        (lambda x: x // 2, "floor_divide"),
        (lambda x: x % 2, "remainder"),
        (lambda x: 2**x, "pow"),
        (lambda x: x @ x.mT, "matmul"),
        (lambda x: -x, "neg"),
        (lambda x: x[0], "getitem"),
        (lambda x: x.T[0], "getitem"),
        (lambda x: F.interpolate(x[None], scale_factor=2.0)[0], "interpolate"),
        (lambda x: torch.ops.aten.add(x, x), "add"),
        (lambda x: torch.ops.aten.add.Tensor(x, x), "add"),
        (lambda x: F.max_pool1d(x, 2), "max_pool1d"),
        (lambda x: x.softmax(-1), "softmax"),
    ],
)
def test_names_are_readable_and_do_not_depend_on_the_spelling(call: Callable[..., Any], name: str) -> None:
    """The operator, the method and the function of one name are one operation."""
    assert f"{name}#0[0]" in logged(lambda _, x: call(x), X).names


def test_what_torch_calls_inside_a_function_or_a_module_is_not_tapped() -> None:
    """One tap for one call of the user's: not for the parts of einsum, LSTM or Conv2d."""
    model = Forward(
        lambda m, x: torch.einsum("ab,ac->bc", m.linear(x), m.lstm(x)[0]),
        linear=nn.Linear(3, 3),
        lstm=nn.LSTM(3, 2),
    )
    assert logged(model, X).names == ["einsum#0[0]"]


@pytest.mark.parametrize(
    "forward",
    [
        lambda _, x: x.argmax(-1) + x.shape[0],
        lambda _, x: (x > 0) & (x < 1),
        lambda _, x: (x.size(), x.shape, x.dtype, x.device, x.dim(), x.is_floating_point(), x.data, x.T),
        lambda _, x: x.clone().detach().contiguous(),
        lambda _, x: (torch.zeros(2, 2), torch.empty_like(x)),
        lambda _, x: torch.tensor(float(x.shape[0])).sqrt(),
    ],
)
def test_what_is_no_floating_value_or_computes_none_is_not_tapped(forward: Body) -> None:
    """Integers, booleans, sizes, attributes, copies, constants made from nothing."""
    assert logged(forward, X).names == []


def test_results_are_numbered_among_all_tensors_of_the_result() -> None:
    """``max`` gives values and indices, ``chunk`` several values."""
    log = logged(lambda _, x: (x.max(dim=1), x.chunk(2)), X)
    assert log.names == ["max#0[0]", "chunk#0[0]", "chunk#0[1]"]


def test_complex_values_are_tapped() -> None:
    """As long as they are recorded; no exporter holds them."""
    assert logged(lambda _, x: torch.fft.fft(x).abs(), X).names == ["fft_fft#0[0]", "abs#0[0]"]


def test_weights_are_neither_tapped_nor_counted() -> None:
    """``weight.to(x.dtype)`` is the weight itself or not, by the dtype: the numbers must not move."""

    def forward(m: Any, x: Tensor) -> Tensor:
        return x.to(torch.float32) @ m.lin.weight.to(x.dtype).to(torch.float64).T.float()  # type: ignore[no-any-return]

    log = logged(Forward(forward, lin=nn.Linear(3, 3)), X)
    assert log.names == ["to#0[0]", "float#0[0]", "matmul#0[0]"]


def test_calls_belong_to_the_module_whose_forward_makes_them() -> None:
    """Back in the parent, its own counting goes on; every call of a module counts anew."""
    child = Forward(lambda _, x: x + 1)
    log = logged(Forward(lambda m, x: m.child(m.child(x + 2) + 3) + 4, child=child), X)
    assert list(log.taps) == [
        "(model)#0/add#0[0]",
        "child#0/add#0[0]",
        "(model)#0/add#1[0]",
        "child#1/add#0[0]",
        "(model)#0/add#2[0]",
    ]


class Block(nn.Module):
    """Code of its own around a child with code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.act = Forward(lambda _, x: x * x)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x - 1) / 3  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), []),
        (Selection(zoom=("b",)), ["b#0/sub#0[0]", "b#0/div#0[0]"]),
        (Selection(zoom=("b.act",), depth=0), ["b.act#0/mul#0[0]"]),
        (Selection(zoom=("(model)",)), ["(model)#0/add#0[0]"]),
        (Selection(granularity="op", include=("a",)), ["(model)#0/add#0[0]", "a#0/sub#0[0]", "a#0/div#0[0]"]),
        (Selection(granularity="op", exclude=("a*", "b")), ["(model)#0/add#0[0]", "b.act#0/mul#0[0]"]),
    ],
)
def test_a_selection_says_where_operations_are_tapped(selection: Selection, expected: list[str]) -> None:
    """Everywhere that modules are tapped, or inside the named ones; an untapped child is not its parent."""
    model = Forward(lambda m, x: m.b(m.a(x)) + 1, a=Block(), b=Block())
    assert set(logged(model, X, selection=selection).taps) == set(expected)


def test_a_misspelt_selection_is_refused() -> None:
    """One line with what is known."""
    with pytest.raises(TapError, match=r"'ops'.*module, op"):
        Selection(granularity="ops")
    with pytest.raises(TapError, match=r"'c'.*a \(Block\)"):
        Instrument(Forward(lambda m, x: x, a=Block()), Selection(zoom=("c",)), Log())


def test_torch_functions_hold_no_mode_afterwards_whatever_happens() -> None:
    """After a run, after an exception, and after one that the forward caught from a child."""

    def fail(_: Any, x: Tensor) -> Tensor:
        raise ValueError("no")

    def attempt(m: Any, x: Tensor) -> Tensor:
        try:
            return m.bad(x)  # type: ignore[no-any-return]
        except ValueError:
            return x * 2

    log = logged(Forward(attempt, bad=Forward(fail)), X)
    assert log.names == ["mul#0[0]"]
    with pytest.raises(ValueError, match="no"):
        logged(Forward(lambda m, x: m.bad(x + 1), bad=Forward(fail)), X)
    assert _len_torch_function_stack() == 0


def test_a_child_of_torchs_own_does_not_see_the_mode() -> None:
    """``has_torch_function`` is false there, as without taps: fused paths stay what they are."""
    depths: list[int] = []

    def ask(_: nn.Module, x: Tensor) -> Tensor:
        depths.append(_len_torch_function_stack())
        return x

    model = Forward(lambda m, x: m.seq(x + 1) + 1, seq=nn.Sequential(nn.Identity()))
    model.seq.register_forward_pre_hook(lambda module, args: depths.append(_len_torch_function_stack()))
    assert logged(model, X).names == ["add#0[0]", "add#1[0]"]
    child = Forward(ask)
    logged(Forward(lambda m, x: m.child(x), child=child), X, selection=Selection(zoom=("(model)",)))
    assert depths[-1] == 0


class Counting(TorchFunctionMode):
    """A mode of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        return func(*args, **(kwargs or {}))


def test_the_users_own_modes_keep_their_places() -> None:
    """A mode that the forward entered is on during a child's call, and left in its turn."""

    def forward(m: Any, x: Tensor) -> Tensor:
        with Counting() as counting, torch.device("cpu"):
            y = m.relu(x + 1) + 2
        m.seen = counting.seen
        return y * 3  # type: ignore[no-any-return]

    model = Forward(forward, relu=nn.ReLU())
    model(X)
    alone = model.seen
    assert logged(model, X).names == ["add#0[0]", "add#1[0]", "mul#0[0]"]
    assert model.seen >= alone
    assert _len_torch_function_stack() == 0


def test_explicit_taps_and_nested_instruments_are_no_operations() -> None:
    """What a visitor or a marker calls is no part of the model."""
    model = Forward(lambda _, x: tap_explicit(x + 1, "mine") * 2)
    outer = Log(torch.clone)
    with Instrument(model, OPS, outer):
        inner = logged(model, X)
    assert outer.names == inner.names == ["add#0[0]", "mul#0[0]"]


class Doubled(torch.autograd.Function):
    """One node for an exporter, whatever its forward calls."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x + x

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Add", x, x)


def test_the_inside_of_an_autograd_function_is_not_tapped() -> None:
    """The TorchScript exporter writes its symbolic instead."""
    assert logged(lambda _, x: Doubled.apply(x) * 2, X).names == ["mul#0[0]"]  # type: ignore[no-untyped-call]


def test_values_inside_vmap_are_not_tapped() -> None:
    """They are slices of a batch that has no array."""
    assert logged(lambda _, x: torch.vmap(lambda row: row + 1)(x) * 2, X).names == ["mul#0[0]"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_module_has_no_operations() -> None:
    """It runs without Python; its neighbours are tapped as ever."""
    scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
    assert logged(Forward(lambda m, x: m.s(x + 1) * 2, s=scripted), X).names == ["add#0[0]", "mul#0[0]"]


# In place. Every case is held against the same forward without taps, with visitors that look only,
# that replace every value (as the float64 run does), and through both exporters.


def added_in_place(m: Any, x: Tensor) -> Any:
    y = x * 2
    y += 1
    return y, y.relu_(), y


def added_to_a_view(m: Any, x: Tensor) -> Any:
    y = x * 2
    v = y[0]
    v += 1
    return y * 1, v


def written_by_index(m: Any, x: Tensor) -> Any:
    y = x * 2
    y[0] = x[1] + 5
    y[:, 1] += 7
    return y


def written_before_a_view_is_read(m: Any, x: Tensor) -> Any:
    y = x * 2
    v = y[0]
    y += 10
    return v * 1, y


def written_through_a_reshape(m: Any, x: Tensor) -> Any:
    y = x * 2
    y.view(-1).add_(1)
    return y * 1


def written_by_a_child(m: Any, x: Tensor) -> Any:
    y = x * 2
    m.relu(y)
    v = y[0]
    m.relu(v.sub_(1))
    return y, v * 1


def the_same_tensor_handed_on(m: Any, x: Tensor) -> Any:
    y = x * 2
    z = F.dropout(y, training=False)
    z += 1
    return y * 1, z


def converted_to_its_own_type(m: Any, x: Tensor) -> Any:
    y = x * 2
    z = y.to(torch.float32)
    z += 1
    return y * 1, z


def through_an_identity(m: Any, x: Tensor) -> Any:
    parts = (x * 2).unbind(0)
    return m.same(parts[0]) + m.same(parts[1])


def written_out(m: Any, x: Tensor) -> Any:
    y = torch.empty_like(x)
    torch.mul(x, 3, out=y)
    return F.relu(y, inplace=True), y + 1


IN_PLACE = [
    added_in_place,
    added_to_a_view,
    written_by_index,
    written_before_a_view_is_read,
    written_through_a_reshape,
    written_by_a_child,
    the_same_tensor_handed_on,
    converted_to_its_own_type,
    through_an_identity,
    written_out,
]


def model_of(function: Body) -> nn.Module:
    return Forward(function, relu=nn.ReLU(inplace=True), same=nn.Identity()).eval()


def flat(result: Any) -> list[list[list[float]]]:
    return [value.tolist() for value in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("function", IN_PLACE)
@pytest.mark.parametrize("replace", [torch.clone, lambda value: value])
def test_taps_do_not_cut_the_ties_between_tensors(
    function: Body, replace: Callable[[Tensor], Tensor]
) -> None:
    """A write reaches whoever holds the tensor, its base or a view of it, as without taps."""
    model = model_of(function)
    expected = flat(model(X.clone()))
    with Instrument(model, OPS, Log(replace)), torch.no_grad():
        assert flat(model(X.clone())) == expected


def marked_file(model: nn.Module, folder: Path, exporter: str, selection: Selection | None) -> Path:
    path = folder / f"{exporter}-{selection is not None}.onnx"
    export_model(model, (X,), {}, path, exporter=exporter, options={}, selection=selection)
    return path


def run_file(path: Path) -> list[Any]:
    """The file's outputs, its taps read as identities."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.domain == "my":
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (name,) = [value.name for value in session.get_inputs()]
    return [value.tolist() for value in session.run(None, {name: X.numpy()})]


def tap_names(path: Path) -> set[str]:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return {n.attribute[0].s.decode() for n in nodes if (n.domain, n.op_type) == ("my", "Debug")}


# The TorchScript exporter has no translation for `out=`.
@pytest.mark.parametrize("function", [function for function in IN_PLACE if function is not written_out])
def test_the_marked_file_computes_what_the_plain_one_does(function: Body, tmp_path: Path) -> None:
    """Also where the exporter loses a write: taps must not heal what they measure."""
    model = model_of(function)
    plain = run_file(marked_file(model, tmp_path, "torchscript", None))
    marked = marked_file(model, tmp_path, "torchscript", OPS)
    assert run_file(marked) == plain
    assert any("/" in name for name in tap_names(marked))


class EveryCase(nn.Module):
    """All forwards above in one, since each export by the default exporter takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = nn.ModuleList(model_of(function) for function in IN_PLACE)

    def forward(self, x: Tensor) -> Any:
        return tuple(case(x) for case in self.cases)


def test_the_default_exporter_is_not_changed_by_taps_either(tmp_path: Path) -> None:
    """It functionalizes the forward; what the taps put in must be functionalized as well."""
    model = EveryCase().eval()
    path = marked_file(model, tmp_path, "dynamo", OPS)
    assert run_file(path) == run_file(marked_file(model, tmp_path, "dynamo", None))
    capture = capture_reference(model, (X,), {}, OPS)
    absent = [tap.id.op for name, tap in capture.taps.items() if name not in tap_names(path)]
    # Nothing reads a view that is only written into.
    assert set(absent) <= {"getitem", "view", "to", "dropout"}


def test_in_place_results_are_recorded_when_they_are_written() -> None:
    """Each record is the value at its time, though the tensor is one."""
    values = capture_reference(model_of(added_in_place), (X,), {}, OPS).values
    assert values["(model)#0/mul#0[0]"].tolist() == (X * 2).tolist()
    assert values["(model)#0/add_#0[0]"].tolist() == (X * 2 + 1).tolist()
    assert values["(model)#0/relu_#0[0]"].tolist() == (X * 2 + 1).relu().tolist()
    values = capture_reference(model_of(written_by_index), (X,), {}, OPS).values
    assert values["(model)#0/setitem#0[0]"].tolist() == [[9, 0, 11], [8, -10, 12]]


class Shapes(nn.Module):
    """Arithmetic on sizes, which are tensors under the TorchScript tracer."""

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        scale = size**-0.5 * (size / 2)
        mean = x.sum() / size
        return x * scale + mean * (size * 2)


class Branches(nn.Module):
    """Other operations when exported, before and between those that eager runs too."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            x = x * 1.5
        x = x * 2
        if not torch.onnx.is_in_onnx_export():
            x = x * 2.5
        return x * 3


@BOTH
def test_arithmetic_on_sizes_moves_no_number(exporter: str, tmp_path: Path) -> None:
    """Eager computes with integers what the tracer computes with tensors."""
    eager = capture_reference(Shapes(), (X,), {}, OPS).taps
    assert tap_names(marked_file(Shapes(), tmp_path, exporter, OPS)) == set(eager)


@BOTH
def test_with_the_eager_taps_known_a_branch_moves_no_number(exporter: str, tmp_path: Path) -> None:
    """What both run has one name, what only eager runs is missing, what only the export runs unmarked."""
    known = capture_reference(Branches(), (X,), {}, OPS).taps
    path = tmp_path / "model.onnx"
    export_model(Branches(), (X,), {}, path, exporter=exporter, options={}, selection=OPS, known=known)
    assert set(known) - tap_names(path) == {"(model)#0/mul#1[0]"}
    assert tap_names(path) < set(known)


def test_the_float64_run_sees_the_same_operations() -> None:
    """Their noise is measured like any tap's."""
    model = model_of(written_by_a_child)
    reference = capture_reference(model, (X,), {}, OPS)
    operations = {name for name, tap in reference.taps.items() if tap.id.kind is TapKind.OP}
    for substitute in (True, False):
        assert operations <= set(measure_noise(model, (X,), {}, OPS, reference, substitute=substitute))


@pytest.mark.parametrize("name", ["resnet18", "vit-timm", "gpt2", "lstm", "unet", "detector-dict"])
def test_the_file_holds_every_operation_of_the_eager_run(name: str, tmp_path: Path) -> None:
    """Real architectures through the TorchScript exporter: the same names on both sides."""
    built = zoo.resolve(name).build()
    eager = capture_reference(built.model, built.args, built.kwargs, OPS).taps
    operations = {name for name, tap in eager.items() if tap.id.kind is TapKind.OP}
    path = export_built(built, "torchscript", tmp_path / "model.onnx", OPS)
    assert operations <= tap_names(path) <= set(eager)
    assert all(eager[name].source for name in operations)


@pytest.mark.slow
def test_the_default_exporter_holds_every_operation_of_an_attention_model(tmp_path: Path) -> None:
    """Views, rotations, masks and reshapes of a Llama."""
    built = zoo.resolve("llama").build()
    eager = capture_reference(built.model, built.args, built.kwargs, OPS).taps
    path = export_built(built, "dynamo", tmp_path / "model.onnx", OPS)
    operations = {name for name, tap in eager.items() if tap.id.kind is TapKind.OP}
    assert len(operations) > 100
    assert operations <= tap_names(path)


def test_a_fast_path_that_taps_must_not_touch_keeps_its_callers_closed() -> None:
    """A mode that is on in the caller would switch it off like a hook."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = Forward(lambda m, x: m.layer(x + 1), layer=layer).eval()
    outside = Selection(granularity="op", outside=("layer",))
    assert logged(model, torch.ones(1, 2, 4), selection=outside).names == []
    assert logged(model, torch.ones(1, 2, 4)).names == ["add#0[0]"]


def test_functions_that_compute_nothing_have_no_name() -> None:
    """The table of names, at its edges."""
    assert operation_name(torch.ops.aten.relu.default) == "relu"
    assert operation_name(Tensor.__getitem__) == "getitem"
    assert operation_name(Tensor.__setitem__) == "setitem"
    assert operation_name(Tensor.shape.__get__) is None
    assert operation_name(Tensor.detach) is None
    assert operation_name(Tensor.__len__) is None


def test_a_module_that_writes_in_place_adds_no_node_but_its_taps(tmp_path: Path) -> None:
    """The caller's tensor takes the marked value's place in the trace; it is not copied."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Identity(), nn.Linear(3, 3)).eval()
    nodes = [
        onnx.load(marked_file(model, tmp_path, "torchscript", selection)).graph.node
        for selection in (None, Selection())
    ]
    plain, marked = ([node.op_type for node in graph if node.op_type != "Debug"] for graph in nodes)
    assert marked == plain == ["Gemm", "Relu", "Gemm"]


class Converting(nn.Module):
    """Calls of one name on one line, of which some concern a weight and some only the export."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        for factor in (1, 2):
            x = (self.weight.to(torch.float32) * x.to(torch.float32)).to(x.dtype) * factor
        return x


def test_a_float64_run_gives_the_calls_on_one_line_the_same_numbers() -> None:
    """There ``to`` copies the weight; the values at each tap must still be those of the same call."""
    reference = capture_reference(Converting(), (X,), {}, OPS)
    names = [str(t.id).removeprefix("(model)#0/") for t in reference.taps.values() if t.id.op == "to"]
    assert names == ["to#0[0]", "to#1[0]", "to#2[0]", "to#3[0]"]
    noise = measure_noise(Converting(), (X,), {}, OPS, reference, substitute=False)
    assert all(found.max_abs == 0 for found in noise.values())
    assert set(noise) == set(reference.taps)
