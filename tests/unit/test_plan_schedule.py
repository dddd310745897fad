"""Schedule of a plan: bytes, parts and sessions are those of the run that it predicts."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper, parser

from alignkit.budget import Budget
from alignkit.errors import InputError, OnnxFileError
from alignkit.load.shapes import InputShape, parse_shape
from alignkit.plan.records import GraphPlan, Rates
from alignkit.plan.schedule import plan_graph, read_file
from alignkit.plan.taps import BOUNDARIES, DEBUG_NODES, VALUES
from tests import zoo
from tests.benchmarks.bench_plan import input_shapes, observe, planned_counts
from tests.zoo.files import marked_file, plain_file

RATES = Rates(flops=50e9, bandwidth=10e9)
HEADER = '<ir_version: 10, opset_import: ["" : 20, "my" : 1, "f" : 1]>\n'
CHAIN = """g (float[n, 4] x) => (float[n, 4] y) {
  a = Neg(x)       a1 = my.Debug<name: string = "a">(a)
  b = Abs(a1)      b1 = my.Debug<name: string = "b">(b)
  c = Add(b1, a1)  y = my.Debug<name: string = "c">(c)
}"""


def plan(path: Path, *shapes: str | InputShape, budget: int | None = None) -> GraphPlan:
    given = [parse_shape(shape) if isinstance(shape, str) else shape for shape in shapes]
    return plan_graph(read_file(path, given), RATES, budget=budget and Budget(budget), threads=1)


def saved(folder: Path, text: str) -> Path:
    path = folder / "model.onnx"
    onnx.save(parser.parse_model(HEADER + text), path)
    return path


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        *((name, "torchscript") for name in ("shared-relu", "unet", "gpt2", "vit", "lstm")),
        ("four-blocks", "dynamo"),
    ],
)
def test_bytes_parts_and_sessions_are_those_of_the_run(name: str, exporter: str) -> None:
    """Exactly, with a budget that cuts the run into parts; from the graph alone."""
    case = zoo.resolve(name)
    built, path = case.build(), marked_file(case, exporter)
    shapes = input_shapes(built)
    largest = plan(path, *shapes).largest
    assert largest is not None
    assert largest.nbytes is not None
    budget = 2 * largest.nbytes
    planned = plan(path, *shapes, budget=budget)
    assert planned.taps_are == DEBUG_NODES
    assert len(planned.parts) > 1
    assert planned_counts(planned) == observe(path, built, Budget(budget)).counts
    assert [note for note in planned.notes if "counts as nothing" in note] == []


def test_a_plan_is_of_other_sizes_than_the_export() -> None:
    """A file with dynamic axes is planned at the sizes that are asked for."""
    case = zoo.resolve("unet")
    built, path = case.build(), marked_file(case, "torchscript")
    assert built.other_inputs is not None
    other = zoo.Built(built.model, built.other_inputs)
    largest = plan(path, *input_shapes(other)).largest
    assert largest is not None
    assert largest.nbytes is not None
    planned = planned_counts(plan(path, *input_shapes(other), budget=largest.nbytes))
    assert planned == observe(path, other, Budget(largest.nbytes)).counts


@pytest.mark.parametrize("exporter", zoo.EXPORTERS)
def test_a_file_without_taps_is_planned_where_modules_meet(exporter: str) -> None:
    """What each convolution and block returns; what lies inside a layer of the graph is no tap."""
    path = plain_file(zoo.resolve("srcnn"), exporter)
    planned = plan(path)
    assert planned.taps_are == BOUNDARIES
    convolutions = {node.output[0] for node in onnx.load(path).graph.node if node.op_type == "Conv"}
    tapped = {tap.value for tap in planned.taps}
    assert convolutions <= tapped
    assert planned.operators["Conv"].nodes == len(convolutions) == 3
    layers = [
        tap.name.partition(":")[0].rpartition("/")[2] for tap in planned.taps if tap.value in convolutions
    ]
    assert layers == ["conv1", "conv2", "conv3"]


def test_without_scopes_every_value_is_a_tap(tmp_path: Path) -> None:
    """Those that depend on the inputs, which count as well."""
    text = "g (float[2, 4] x) => (float[2, 4] y) <float w = {2}> { v = Neg(w) a = Mul(x, v) y = Abs(a) }"
    planned = plan(saved(tmp_path, text))
    assert planned.taps_are == VALUES
    assert [tap.value for tap in planned.taps] == ["x", "a", "y"]
    assert planned.tap_bytes == 3 * 32


def test_parts_carry_what_later_ones_read(tmp_path: Path) -> None:
    """The first value is added to the second in the last part, and only there."""
    planned = plan(saved(tmp_path, CHAIN), "x:2x4", budget=32)
    assert [(part.taps, part.nbytes, part.carried) for part in planned.parts] == [
        (1, 32, 0),
        (1, 32, 32),
        (1, 32, 64),
    ]
    assert planned.sessions == 6
    assert planned.memory.carried == 64
    assert planned.memory.reference + planned.memory.spilled == 96
    assert [part.introduced.work.moved for part in planned.parts if part.introduced] == [64, 64, 96]


def test_a_tap_on_an_input_needs_no_session_of_its_own(tmp_path: Path) -> None:
    """In the introduced run: what is fed is known. The ordinary run hands it out."""
    text = """g (float[4] x) => (float[4] y) {
        a = my.Debug<name: string = "in">(x)  b = Neg(a)  y = my.Debug<name: string = "out">(b) }"""
    planned = plan(saved(tmp_path, text), budget=8 * 16)
    first, last = planned.parts
    assert first.introduced is None
    assert first.propagated is not None
    assert last.introduced is not None
    assert planned.sessions == 3


def test_a_budget_below_the_largest_tap_names_the_smallest_that_works(tmp_path: Path) -> None:
    """And that one works."""
    path = saved(tmp_path, CHAIN)
    with pytest.raises(InputError, match=r"'a' takes 32 bytes. Give at least --max-memory 32\."):
        plan(path, "x:2x4", budget=31)
    assert len(plan(path, "x:2x4", budget=32).parts) == 3


def test_a_free_dimension_is_named(tmp_path: Path) -> None:
    """With the option that binds it."""
    with pytest.raises(InputError, match=r"free dimension 'n' \(axis 0\): .*--input-shape x:1x4"):
        plan(saved(tmp_path, CHAIN))


def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    """By content, not by name; and a file that is not there."""
    path = tmp_path / "model.onnx"
    path.write_text("hello")
    with pytest.raises(OnnxFileError, match=r"model\.onnx is not an ONNX model"):
        plan(path)
    with pytest.raises(OnnxFileError, match="no ONNX file"):
        plan(tmp_path / "other.onnx")


def test_local_functions_are_counted_and_their_taps_are_said(tmp_path: Path) -> None:
    """The work inside counts; a tap inside is seen by no comparison."""
    text = """g (float[3, 4] x) => (float[3, 4] y) <float[4, 4] w> {
        a = f.twice(x, w)  y = my.Debug<name: string = "out">(a) }
      <domain: "f", opset_import: ["" : 20, "my" : 1]>
      twice (a, w) => (c) { b = MatMul(a, w) d = my.Debug<name: string = "within">(b) c = MatMul(d, w) }"""
    model = parser.parse_model(
        HEADER + text.replace("<float[4, 4] w>", "<float[4, 4] w = {" + "1," * 15 + "1}>")
    )
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    planned = plan(path)
    assert planned.operators["MatMul"].total == 2 * 2 * 3 * 4 * 4
    assert [tap.name for tap in planned.taps] == ["out"]
    assert any("'within' is inside the local function 'twice'" in note for note in planned.notes)


def test_bodies_are_said_and_not_counted(tmp_path: Path) -> None:
    """What lies behind one has the shape that the file states for it."""
    text = """g (float[3, 4] x, bool c) => (float[3, 4] y) {
        a = If(c) <then_branch = t () => (float[3, 4] u) { u = Neg(x) },
                   else_branch = e () => (float[3, 4] v) { v = MatMul(x, x) }>
        b = my.Debug<name: string = "chosen">(a)  y = Abs(b) }"""
    model = parser.parse_model(HEADER + text)
    model.graph.value_info.append(helper.make_tensor_value_info("a", 1, [3, 4]))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    planned = plan(path)
    assert planned.taps[0].nbytes == 48
    assert planned.work.total == 0
    assert any(note.startswith("If ''") for note in planned.notes)


def test_a_plan_of_nothing_says_so(tmp_path: Path) -> None:
    """Where the only tap is inside a body, there is no session, and nothing to compare."""
    text = """g (float[4] x, bool c) => (float[4] y) {
        y = If(c) <then_branch = t () => (float[4] u) { u = my.Debug<name: string = "in">(x) },
                   else_branch = e () => (float[4] v) { v = Neg(x) }> }"""
    planned = plan(saved(tmp_path, text))
    assert (planned.taps, planned.sessions) == ((), 0)
    assert any("nothing to compare" in note for note in planned.notes)
    assert any("'in' is inside the body of If" in note for note in planned.notes)


def test_an_input_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    """No shape can be bound to a sequence."""
    text = "g (seq(float[2]) x) => (float[k] y) { y = ConcatFromSequence<axis: int = 0>(x) }"
    with pytest.raises(InputError, match=r"'x' of model\.onnx is no tensor"):
        plan(saved(tmp_path, text))


def test_a_tap_of_unknown_size_is_said(tmp_path: Path) -> None:
    """It counts as nothing, and the plan does not hide that."""
    text = """g (float[4] x) => (int64[k] y) {
        a = my.Debug<name: string = "in">(x)  b = NonZero(a)  y = my.Debug<name: string = "where">(b) }"""
    planned = plan(saved(tmp_path, text))
    assert [tap.nbytes for tap in planned.taps] == [16, None]
    assert any("1 taps have a shape that the graph alone does not tell" in note for note in planned.notes)


def test_external_weights_are_not_read(tmp_path: Path) -> None:
    """Their sizes count; a file that may not be read is none of a plan's business."""
    text = "g (float[2, 64] x) => (float[2, 64] y) <float[64, 64] w> { y = MatMul(x, w) }"
    model = parser.parse_model(HEADER + text.replace("<float[64, 64] w>", ""))
    weight = onnx.TensorProto(name="w", data_type=1, dims=[64, 64], data_location=1)
    weight.external_data.add(key="location", value="weights.bin")
    model.graph.initializer.append(weight)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    (tmp_path / "weights.bin").write_bytes(bytes(64 * 64 * 4))
    (tmp_path / "weights.bin").chmod(0)
    planned = plan(path)
    assert planned.memory.weights == 64 * 64 * 4
    assert planned.memory.stored == 0
    assert planned.work.total == 2 * 2 * 64 * 64


def test_the_working_set_is_what_is_alive_at_once(tmp_path: Path) -> None:
    """A node's input and output, a value that is read later, none that is over; taps hold no copy."""
    planned = plan(saved(tmp_path, CHAIN), "x:2x4")
    assert planned.memory.working == 3 * 32  # a, b and c, while c is computed


def test_faster_machines_take_less_time(tmp_path: Path) -> None:
    """Each rate is used; no stage comes for free."""
    file = read_file(saved(tmp_path, CHAIN), [parse_shape("x:200000x4")])
    slow = plan_graph(file, RATES, threads=1).stages
    moving = plan_graph(file, Rates(RATES.flops, 10 * RATES.bandwidth), threads=1).stages
    assert all(0 < moving[stage] <= slow[stage] for stage in slow)
    assert moving["capture"] < 0.5 * slow["capture"]
    assert moving["introduced runs"] < 0.5 * slow["introduced runs"]
    computing = plan_graph(file, Rates(10 * RATES.flops, RATES.bandwidth), threads=1).stages
    assert computing["metrics"] < 0.5 * slow["metrics"]
    assert plan_graph(file, RATES, threads=2).stages["metrics"] == slow["metrics"] / 2
