"""Taps find their values in files that hold no Debug node, and say why where they cannot."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from alignkit.capture import capture_reference
from alignkit.errors import CompareError
from alignkit.export import export_model
from alignkit.graph import load_graph
from alignkit.instrument import Selection
from alignkit.mapping import How, TapMapping, load_map, map_taps, save_map
from alignkit.mapping.values import read_values
from alignkit.records import Array, Capture, Tap, TapId, TapKind
from tests.mapping.subject import Subject, export, prepare, run_graph
from tests.mapping.truth import hold
from tests.zoo import EXPORTERS
from tests.zoo.tamper import tamper_node


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Four blocks of Conv, BatchNorm and ReLU."""
    return prepare("four-blocks")


@pytest.fixture(scope="module", params=EXPORTERS)
def plain(request: pytest.FixtureRequest, subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their plain export by either exporter; the default one keeps weights in a file of their own."""
    return export(subject, request.param, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def traced(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(subject, "torchscript", tmp_path_factory.mktemp("traced"))


def without_names(source: Path, target: Path) -> Path:
    """The same file with numbers for names: nothing tells where a node comes from."""
    model = onnx.load(source)
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    renamed: dict[str, str] = {"": ""}

    def rename(name: str) -> str:
        return name if name in kept else renamed.setdefault(name, f"v{len(renamed)}")

    for tensor in model.graph.initializer:
        tensor.name = rename(tensor.name)
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
        del node.metadata_props[:]
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    del model.graph.value_info[:]
    onnx.save(model, target)
    return target


def values_of(mapping: TapMapping) -> dict[str, str | None]:
    return {name: tap.onnx_value for name, tap in mapping.taps.items()}


def test_every_tap_of_a_plain_file_is_mapped_or_fused(subject: Subject, plain: Path) -> None:
    """Conv is folded into its BatchNorm, whose value is there; all else is found and confirmed."""
    mapping = subject.map_file(plain)
    assert list(mapping.taps) == list(subject.reference.taps)
    for number in range(1, 5):
        conv, norm = mapping.taps[f"block{number}.0#0[0]"], mapping.taps[f"block{number}.1#0[0]"]
        assert conv.how is How.FUSED
        assert f"computes block{number}.1#0[0]" in conv.reason
        assert norm.onnx_value is not None
        assert norm.confidence == "high"
        assert norm.distance is not None
        assert norm.distance < 1e-5
    unmapped = {name for name, tap in mapping.taps.items() if tap.onnx_value is None}
    assert unmapped == {f"block{i}.{name}" for i in range(1, 5) for name in ("0#0[0]", "1#0:in[0]")}


def test_mapped_values_are_right_on_other_inputs(subject: Subject, traced: Path, tmp_path: Path) -> None:
    """Held against what a marked export gives on an input that the mapping has not seen."""
    held = hold(subject, traced, subject.truth(tmp_path))
    pairs = {name: str(tap.onnx_value) for name, tap in subject.map_file(traced).found().items()}
    assert held.wrong(pairs) == ()
    assert held.present()
    assert held.present() <= pairs.keys() <= held.truth.keys()


def test_numbers_alone_find_the_same_values(subject: Subject, traced: Path, tmp_path: Path) -> None:
    """With every name taken away the mapping is the same but for the names."""
    named = subject.map_file(traced)
    bare = subject.map_file(without_names(traced, tmp_path / "bare.onnx"))
    assert {n for n, t in bare.taps.items() if t.onnx_value} == {
        n for n, t in named.taps.items() if t.onnx_value
    }
    order, bare_order = (read_values(m.model, tmp_path).producer for m in (named, bare))
    for name, tap in bare.found().items():
        assert tap.onnx_value is not None
        assert order.get(str(named.taps[name].onnx_value)) == bare_order.get(tap.onnx_value)


@pytest.mark.parametrize("bare", [False, True], ids=["named", "bare"])
@pytest.mark.parametrize("which", [0, 2], ids=["first", "third"])
def test_a_fault_does_not_hide_what_lies_behind_it(
    subject: Subject, traced: Path, tmp_path: Path, bare: bool, which: int
) -> None:
    """A Conv with other weights: its value keeps its tap, all behind it is found by number.

    The name tells, or without any the weight: it is folded with its BatchNorm, hence recognised.
    """
    source = without_names(traced, tmp_path / "bare.onnx") if bare else traced
    healthy = subject.map_file(source)
    tamper_node(source, tmp_path / "faulty.onnx", which, "weight")
    faulty = subject.map_file(tmp_path / "faulty.onnx")
    spoiled = faulty.taps[f"block{which + 1}.1#0[0]"]
    assert values_of(faulty) == values_of(healthy)
    assert spoiled.how is How.PROVENANCE
    assert spoiled.distance is not None
    assert spoiled.distance > 1e-3
    assert {t.how for n, t in faulty.found().items() if n.startswith("block4")} <= {How.VALUE, How.BOTH}


class Inner(nn.Module):
    """Three layers of one shape, in containers of containers inside a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(*(self.layer() for _ in range(3)))

    @staticmethod
    def layer() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Hardswish())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Sequential, Tensor, Path]:
    """Two of them, their input and their plain export."""
    torch.manual_seed(0)
    model, x = nn.Sequential(Inner(), Inner()).eval(), torch.randn(1, 4, 8, 8)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 2.0)  # a fresh one changes nothing
        nn.init.normal_(norm.bias)
    path = tmp_path_factory.mktemp("nested") / "m.onnx"
    export_model(model, (x,), {}, path, exporter="torchscript", options={"input_names": ["x"]})
    return model, x, path


def map_scaled(model: nn.Module, x: Tensor, path: Path, weight: str, factor: float) -> TapMapping:
    """The mapping of a file whose weight the model has multiplied since."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_parameter(weight).mul_(factor)
    reference = capture_reference(changed, (x,), {}, Selection())
    state = {name: value.numpy() for name, value in changed.state_dict().items()}
    feeds = {"x": x.numpy()}
    return map_taps(load_graph(path), path.parent, reference, feeds, run_graph, parameters=state)


@pytest.mark.parametrize("factor", [1.01, 1.5, -3.0])
@pytest.mark.parametrize("weight", ["0.block.0.0.weight", "1.block.1.0.weight", "1.block.0.1.weight"])
def test_a_stale_weight_moves_no_tap_to_another_layer(
    nested: tuple[nn.Sequential, Tensor, Path], weight: str, factor: float
) -> None:
    """Layers of one shape follow each other: every tap keeps the value that it has in a healthy file."""
    healthy, stale = map_scaled(*nested, weight, 1.0), map_scaled(*nested, weight, factor)
    assert values_of(stale) == values_of(healthy)
    assert str(stale.taps["1.block.2.2#0[0]"].onnx_value).startswith("/1/block/block.2/block.2.2/")
    spoiled = stale.taps[f"{weight.removesuffix('.weight')[:-1]}1#0[0]"]
    assert spoiled.how is How.PROVENANCE
    assert spoiled.distance is not None
    assert spoiled.distance > 1e-3


def test_a_scaled_weight_is_not_taken_for_a_folded_layer(tmp_path: Path) -> None:
    """With no names, a Conv whose weight was scaled looks folded; its numbers tell Conv from ReLU."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Sigmoid()]
    model, x = nn.Sequential(*layers).eval(), torch.randn(1, 4, 8, 8)
    path = tmp_path / "m.onnx"
    export_model(model, (x,), {}, path, exporter="torchscript", options={"input_names": ["x"]})
    bare = without_names(path, tmp_path / "bare.onnx")
    healthy, stale = (map_scaled(model, x, bare, "0.weight", factor) for factor in (1.0, 1.5))
    assert len(healthy.found()) == len(healthy.taps)
    assert values_of(stale) == values_of(healthy)
    assert stale.taps["0#0[0]"].how is How.PROVENANCE


class Guard(nn.Module):
    """Hands on its input, and limits it while it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=0.1) if torch.onnx.is_in_onnx_export() else x


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_is_handed_on_in_eager_alone_has_the_value_of_its_own_node(
    tmp_path: Path, exporter: str
) -> None:
    """Before and behind such a module the reference is one tensor, which the file has at two places."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8), Guard(), nn.Dropout(), nn.Linear(8, 8), Guard(), nn.Tanh()]
    model, x = nn.Sequential(*layers).eval(), torch.randn(4, 8)
    path = tmp_path / "m.onnx"
    export_model(model, (x,), {}, path, exporter=exporter, options={"input_names": ["x"]})
    clips = [node.output[0] for node in load_graph(path).graph.node if node.op_type == "Clip"]
    taps = map_scaled(model, x, path, "0.weight", 1.0).taps
    assert [taps[f"{layer}#0[0]"].onnx_value for layer in (1, 2, 4)] == [clips[0], clips[0], clips[1]]
    assert {taps[f"{layer}#0[0]"].how for layer in (1, 2, 4)} == {How.PROVENANCE}
    assert {taps[f"{layer}#0[0]"].how for layer in (0, 3, 5)} == {How.BOTH}
    assert len({taps[f"{layer}#0[0]"].onnx_value for layer in (0, 1, 3, 4, 5)}) == 5


class Residual(nn.Module):
    """A sum in the forward's own code, between modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.act(self.first(x) + x))
        return result


def subtract(source: Path, target: Path, value: str | None = None) -> str:
    """Write ``source`` with its one Add, or the one that makes ``value``, as Sub; the value it makes."""

    def is_meant(node: onnx.NodeProto) -> bool:
        return node.op_type == "Add" and value in (None, *node.output)

    return tamper_node(source, target, is_meant, "operator").outputs[0]


def test_a_wrong_sum_between_modules_lies_between_its_neighbours(tmp_path: Path) -> None:
    """No name and no number tells where it is; it is the one value that is left there."""
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(6, 8)
    path = tmp_path / "m.onnx"
    export_model(model, (x,), {}, path, exporter="torchscript", options={"input_names": ["x"]})
    bare = without_names(path, tmp_path / "bare.onnx")
    wrong = subtract(bare, tmp_path / "wrong.onnx")
    taps = map_scaled(model, x, tmp_path / "wrong.onnx", "first.weight", 1.0).taps
    assert taps["act#0:in[0]"].onnx_value == wrong
    assert taps["act#0:in[0]"].how is How.PROVENANCE
    assert {taps[f"{layer}#0[0]"].how for layer in ("first", "act", "last")} <= {How.BOTH, How.VALUE}


class Normed(nn.Module):
    """A sum, a norm that no weight tells from others, and two that read it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(self.first(x) + x)
        result: Tensor = self.query(normed) * self.key(normed)
        return result


def test_a_wrong_sum_and_what_is_made_of_it_stand_in_one_line(tmp_path: Path) -> None:
    """Neither has a name or the right numbers: two tensors, and two values left between what is known.

    What is known behind them is supposed by weights; a view of it agrees with itself alone.
    """
    torch.manual_seed(0)
    model, x = Normed().eval(), torch.randn(2, 3, 8)
    path = tmp_path / "m.onnx"
    export_model(model, (x,), {}, path, exporter="torchscript", options={"input_names": ["x"]})
    bare = without_names(path, tmp_path / "bare.onnx")
    norm = next(node for node in load_graph(bare).graph.node if node.op_type == "LayerNormalization")
    wrong = subtract(bare, tmp_path / "wrong.onnx", norm.input[0])
    taps = map_scaled(model, x, tmp_path / "wrong.onnx", "first.weight", 1.0).taps
    assert taps["norm#0:in[0]"].onnx_value == wrong
    assert taps["norm#0[0]"].onnx_value == norm.output[0]


def test_a_step_that_changes_nothing_belongs_to_its_module(tmp_path: Path) -> None:
    """A bias of zeros: the product is the layer's value by its numbers, and the wrong sum by its name."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).eval(), torch.randn(2, 3, 8)
    nn.init.zeros_(model.get_parameter("0.bias"))
    path = tmp_path / "m.onnx"
    export_model(model, (x,), {}, path, exporter="torchscript", options={"input_names": ["x"]})
    wrong = subtract(path, tmp_path / "wrong.onnx")
    taps = map_scaled(model, x, tmp_path / "wrong.onnx", "0.weight", 1.0).taps
    assert taps["0#0[0]"].onnx_value == wrong == "/0/Add_output_0"
    assert taps["0#0[0]"].how is How.PROVENANCE
    assert taps["1#0[0]"].how is How.BOTH


def test_a_pool_without_a_name_is_what_the_next_layer_reads(tmp_path: Path) -> None:
    """Its result has another shape than what it was given: it is not folded away into that layer."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
    model, x = nn.Sequential(*layers).eval(), torch.randn(2, 3, 8, 8)
    path = tmp_path / "m.onnx"
    export_model(model, (x,), {}, path, exporter="torchscript", options={"input_names": ["x"]})
    bare = without_names(path, tmp_path / "bare.onnx")
    wrong = tamper_node(bare, tmp_path / "wrong.onnx", lambda node: "Pool" in node.op_type, "operator")
    taps = map_scaled(model, x, tmp_path / "wrong.onnx", "0.weight", 1.0).taps
    assert taps["1#0[0]"].onnx_value == wrong.outputs[0]
    assert taps["1#0[0]"].how is How.PROVENANCE


def test_a_small_budget_fetches_in_batches(subject: Subject, plain: Path) -> None:
    """No run hands out more than the budget, and the mapping is the same."""
    handed_out: list[int] = []

    def run(model: onnx.ModelProto, folder: Path, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        found = run_graph(model, folder, feeds)
        handed_out.append(sum(array.nbytes for array in found.values()) if len(found) > 1 else 0)
        return found

    budget = 60_000
    large = subject.map_file(plain)
    small = subject.map_file(plain, budget_bytes=budget, run=run)
    assert values_of(small) == values_of(large)
    assert small.runs > large.runs
    assert max(handed_out) <= budget
    assert large.notes == ()
    tiny = subject.map_file(plain, budget_bytes=1_000)
    assert values_of(tiny) == values_of(large)
    assert any("each was fetched alone" in note for note in tiny.notes)


def graph_of(nodes: list[onnx.NodeProto], outputs: list[str], **weights: Array) -> onnx.ModelProto:
    """A model with the float input ``x``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def recording(values: Mapping[str, Array]) -> Capture:
    """A reference whose taps are the outputs of modules of those names."""
    taps = {str(TapId(name)): Tap(TapId(name, kind=TapKind.MODULE), "Module") for name in values}
    return Capture(taps, {str(TapId(name)): value for name, value in values.items()}, {}, ())


X = np.random.default_rng(3).standard_normal((2, 3, 4, 5)).astype(np.float32)


def map_graph(model: onnx.ModelProto, values: Mapping[str, Array], **options: object) -> TapMapping:
    return map_taps(model, Path(), recording(values), {"x": X}, run_graph, **options)  # type: ignore[arg-type]


def test_a_value_in_another_layout_is_mapped_with_its_transform() -> None:
    """Channels last in the file, channels first in torch."""
    model = graph_of(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
            helper.make_node("Tanh", ["t"], ["y"]),
        ],
        ["y"],
    )
    tap = map_graph(model, {"act": np.tanh(X)}).taps["act#0[0]"]
    assert tap.onnx_value == "y"
    assert tap.transform is not None
    np.testing.assert_allclose(tap.transform.apply(np.tanh(X.transpose(0, 2, 3, 1))), np.tanh(X), rtol=1e-6)
    assert str(tap.transform) == "transpose [0, 3, 1, 2]"


def test_a_tie_is_stated_unless_names_break_it() -> None:
    """Two nodes compute the same: a name decides, luck does not."""

    def twins(first: str, second: str) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Tanh", ["x"], ["a"], name=first),
            helper.make_node("Tanh", ["x"], ["b"], name=second),
            helper.make_node("Add", ["a", "b"], ["y"]),
        ]
        return graph_of(nodes, ["y"])

    values = {"left": np.tanh(X), "right": np.tanh(X), "sum": np.tanh(X) * 2}
    tied = map_graph(twins("", ""), values)
    assert tied.taps["left#0[0]"].how is How.AMBIGUOUS
    assert "'a', 'b'" in tied.taps["left#0[0]"].reason
    assert tied.taps["sum#0[0]"].onnx_value == "y"
    told = map_graph(twins("/left/Tanh", "/up/Tanh"), {"left": np.tanh(X)})
    assert told.taps["left#0[0]"].onnx_value == "a"
    assert told.taps["left#0[0]"].how is How.BOTH


def test_a_decision_that_agrees_vouches_for_no_number() -> None:
    """The index of the largest is right although the numbers are not: they still belong to their tap."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["scaled"], name="/act/Mul"),
        helper.make_node("ArgMax", ["scaled"], ["best"], axis=-1, name="/best/ArgMax"),
    ]
    model = graph_of(nodes, ["scaled"], w=np.array(1.5, np.float32))
    taps = map_graph(model, {"act": X * 1.2, "best": X.argmax(-1, keepdims=True)}).taps
    assert taps["best#0[0]"].onnx_value == "best"
    assert (taps["act#0[0]"].onnx_value, taps["act#0[0]"].how) == ("scaled", How.PROVENANCE)


def test_a_shared_module_is_known_by_every_path() -> None:
    """A node under the second path of a module belongs to the taps of its first."""
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"], name="/second/Mul")]
    model = graph_of(nodes, ["y"], w=np.array(1.5, np.float32))
    nothing = map_graph(model, {"first": X * 1.2}).taps["first#0[0]"]
    known = map_graph(model, {"first": X * 1.2}, aliases={"second": "first"}).taps["first#0[0]"]
    assert nothing.onnx_value is None
    assert (known.onnx_value, known.how) == ("y", How.PROVENANCE)


def test_a_constant_is_not_matched_by_chance() -> None:
    """Zeros are everywhere."""
    nodes = [helper.make_node("Sub", ["x", "x"], [name]) for name in ("a", "b")]
    mapping = map_graph(graph_of(nodes, ["a", "b"]), {"zero": np.zeros_like(X)})
    assert mapping.taps["zero#0[0]"].how is How.AMBIGUOUS
    assert "constant numbers" in mapping.taps["zero#0[0]"].reason


def test_local_functions_are_opened() -> None:
    """A value inside a function is a value of the inlined graph."""
    body = [helper.make_node("Tanh", ["a"], ["b"]), helper.make_node("Exp", ["b"], ["c"])]
    opset = helper.make_opsetid("", 18)
    model = graph_of([helper.make_node("Act", ["x"], ["y"], domain="mine")], ["y"])
    model.functions.append(helper.make_function("mine", "Act", ["a"], ["c"], body, [opset]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    mapping = map_graph(model, {"tanh": np.tanh(X), "exp": np.exp(np.tanh(X))})
    assert mapping.taps["exp#0[0]"].onnx_value == "y"
    inner = mapping.taps["tanh#0[0]"].onnx_value
    assert inner in {name for node in mapping.model.graph.node for name in node.output}


def test_values_inside_bodies_are_said_to_be_out_of_reach() -> None:
    """They are no values of the main graph."""

    def branch(op: str) -> onnx.GraphProto:
        nodes = [helper.make_node(op, ["x"], ["inner"]), helper.make_node("Exp", ["inner"], ["out"])]
        return helper.make_graph(
            nodes, op, [], [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
        )

    switch = helper.make_node(
        "If", ["yes"], ["y"], "pick", then_branch=branch("Tanh"), else_branch=branch("Sin")
    )
    model = graph_of([switch], ["y"], yes=np.array(True))
    mapping = map_graph(model, {"tanh": np.tanh(X), "exp": np.exp(np.tanh(X))})
    assert mapping.taps["exp#0[0]"].onnx_value == "y"
    assert mapping.taps["tanh#0[0]"].how is How.MISSING
    assert "inside the body of If 'pick'" in mapping.taps["tanh#0[0]"].reason
    assert "If 'pick'" in mapping.notes[0]


def test_nodes_in_any_order_are_read(subject: Subject, traced: Path, tmp_path: Path) -> None:
    """Some converters append a cast at the end and leave sorting to the runtime."""
    model = onnx.load(traced)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))
    onnx.save(model, tmp_path / "turned.onnx")
    assert values_of(subject.map_file(tmp_path / "turned.onnx")) == values_of(subject.map_file(traced))


class Shared(nn.Module):
    """One ReLU called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(6, 8), nn.Linear(8, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.first(x))))  # type: ignore[no-any-return]


def test_calls_of_a_shared_module_keep_their_order(tmp_path: Path) -> None:
    """By the exporter's ``_1`` suffix, also where a fault lies between the calls."""
    torch.manual_seed(0)
    model, x = Shared().eval(), torch.randn(4, 6)
    options = {"input_names": ["x"]}
    export_model(model, (x,), {}, tmp_path / "m.onnx", exporter="torchscript", options=options)
    reference = capture_reference(model, (x,), {}, Selection())
    tamper_node(tmp_path / "m.onnx", tmp_path / "f.onnx", 1, "weight")
    for name in ("m.onnx", "f.onnx"):
        mapping = map_taps(load_graph(tmp_path / name), tmp_path, reference, {"x": x.numpy()}, run_graph)
        assert mapping.taps["relu#0[0]"].onnx_value == "/relu/Relu_output_0"
        assert mapping.taps["relu#1[0]"].onnx_value == mapping.model.graph.output[0].name


def test_a_pin_is_followed_and_survives_a_file(subject: Subject, traced: Path, tmp_path: Path) -> None:
    """What was saved can be corrected by hand and given back."""
    save_map(tmp_path / "map.json", subject.map_file(traced))
    pins = load_map(tmp_path / "map.json")
    assert pins["block1.1#0[0]"] == "/block1/block1.0/Conv_output_0"
    mapping = subject.map_file(traced, pinned={"block1.0#0[0]": "/block1/block1.0/Conv_output_0"})
    pinned = mapping.taps["block1.0#0[0]"]
    assert (pinned.how, pinned.onnx_value) == (How.PINNED, "/block1/block1.0/Conv_output_0")


@pytest.mark.parametrize(
    ("pinned", "message"),
    [
        ({"block9#0[0]": "y"}, r"the tap 'block9#0\[0\]', which the model has not; did you mean 'block"),
        ({"block1#0[0]": "nowhere"}, r"the value 'nowhere', which the main graph of the ONNX file has not"),
        ({"block1#0[0]": "x"}, r"'x', which has shape \[.*\], while the tap has shape"),
    ],
)
def test_a_wrong_pin_is_one_clear_line(
    subject: Subject, traced: Path, pinned: dict[str, str], message: str
) -> None:
    """Unknown tap, unknown value, a value of another size."""
    with pytest.raises(CompareError, match=message) as caught:
        subject.map_file(traced, pinned=pinned)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has the schema None"),
        ('{"schema": "alignkit.map/2", "taps": {}}', "has the schema 'alignkit.map/2'"),
        ('{"schema": "alignkit.map/1", "taps": {"a": 1}}', "does not map taps to names"),
    ],
)
def test_a_map_file_of_another_form_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With what to write instead; a file that is not there likewise."""
    path = tmp_path / "map.json"
    with pytest.raises(CompareError, match="no map file"):
        load_map(path)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CompareError, match=message) as caught:
        load_map(path)
    assert "alignkit.map/1" in str(caught.value)
