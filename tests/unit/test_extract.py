"""Extract: probes that the runtime loads and onnx.checker passes, with a reason for every tap left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from alignkit.backends.onnxruntime import OnnxRuntime, Session
from alignkit.errors import CompareError, OnnxFileError
from alignkit.extract import Probe, extract_introduced, extract_propagated, read_marked
from alignkit.graph import MarkedGraph

HEADER = '<ir_version: 10, opset_import: ["" : 18, "my" : 1, "f" : 1]>'


def parsed(text: str) -> ModelProto:
    return parser.parse_model(HEADER + text)


def saved(text: str | ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(parsed(text) if isinstance(text, str) else text, path)
    return path


def marked(text: str | ModelProto, folder: Path) -> MarkedGraph:
    return read_marked(saved(text, folder))


def domains(model: ModelProto) -> set[str]:
    """Every operator domain that is used or imported anywhere in the model."""
    found = {entry.domain for entry in model.opset_import}

    def walk(nodes: object) -> None:
        for node in nodes:  # type: ignore[attr-defined]
            found.add(node.domain)
            for attribute in node.attribute:
                for body in (attribute.g, *attribute.graphs):
                    walk(body.node)

    walk(model.graph.node)
    for function in model.functions:
        found.update(entry.domain for entry in function.opset_import)
        walk(function.node)
    return found


def require_sound(probe: Probe) -> None:
    """The probe passes the full check, holds no my domain, and ONNX Runtime loads it."""
    onnx.checker.check_model(probe.model, full_check=True)
    assert "my" not in domains(probe.model)
    ort.InferenceSession(probe.model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(probe: Probe, **feeds: object) -> dict[str, object]:
    """The value of every tap that is an output of the probe."""
    session = ort.InferenceSession(probe.model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {name: feeds[name] for name in (i.name for i in session.get_inputs())}
    values = dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))
    return {tap: values[name].tolist() for tap, name in probe.outputs.items()}


CHAIN = """
g (float[n] x) => (float[n] y) {
  x1 = my.Debug<name: string = "in">(x)
  a = Mul(x1, x1)
  a1 = my.Debug<name: string = "a">(a)
  a2 = my.Debug<name: string = "a again">(a1)
  b = Neg(a2)
  y = my.Debug<name: string = "b">(b)
}
"""
X = np.array([1, 2], np.float32)


def test_the_propagated_probe_shows_every_tap_of_the_ordinary_run(tmp_path: Path) -> None:
    """Taps on an input, on a value, behind another tap and on the output."""
    probe = extract_propagated(marked(CHAIN, tmp_path))
    require_sound(probe)
    assert run(probe, x=X) == {"in": [1, 2], "a": [1, 4], "a again": [1, 4], "b": [-1, -4]}


def test_the_introduced_probe_feeds_every_segment_with_the_reference(tmp_path: Path) -> None:
    """One run: each segment computes from what is fed, not from the segment before."""
    probe = extract_introduced(marked(CHAIN, tmp_path), ["in", "a", "a again", "b"])
    require_sound(probe)
    feeds = {name: np.array([10, 20], np.float32) for name in probe.feeds}
    assert set(probe.feeds.values()) == {"in", "a again"}
    assert probe.passthrough == {"in": "x", "a again": "a"}
    assert run(probe, x=X, **feeds) == {"a": [100, 400], "b": [-10, -20]}


def test_a_tap_without_reference_is_not_cut(tmp_path: Path) -> None:
    """There is nothing to feed behind it: its segment's value flows on."""
    probe = extract_introduced(marked(CHAIN, tmp_path), ["in"])
    require_sound(probe)
    assert set(probe.feeds.values()) == {"in"}
    feeds = {name: np.array([3.0], np.float32) for name in probe.feeds}
    found = run(probe, x=X[:1], **feeds)
    assert found["b"] == [-9.0]


def test_the_file_on_disk_stays_as_it_is(tmp_path: Path) -> None:
    """Extraction reads."""
    path = saved(CHAIN, tmp_path)
    before = path.read_bytes()
    graph = read_marked(path)
    extract_propagated(graph)
    extract_introduced(graph, ["a"])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_one_marked_graph_serves_many_extractions(tmp_path: Path) -> None:
    """An extraction does not change what it was made from."""
    graph = marked(CHAIN, tmp_path)
    before = graph.model.SerializeToString(deterministic=True)
    first = extract_propagated(graph).model.SerializeToString(deterministic=True)
    extract_introduced(graph, ["in", "a"])
    assert extract_propagated(graph).model.SerializeToString(deterministic=True) == first
    assert graph.model.SerializeToString(deterministic=True) == before


def test_a_file_without_taps_is_an_error(tmp_path: Path) -> None:
    """Zero compared is not a pass; the next step is named."""
    with pytest.raises(CompareError, match=r"my::Debug.*Debugger"):
        marked("g (float[n] x) => (float[n] y) { y = Neg(x) }", tmp_path)


def test_a_name_used_twice_is_an_error(tmp_path: Path) -> None:
    """The join by name would compare one of them with the other's reference."""
    text = CHAIN.replace('"a again"', '"a"')
    with pytest.raises(CompareError, match="'a' more than once"):
        marked(text, tmp_path)


def test_a_name_inside_a_body_that_is_used_outside_too_is_an_error(tmp_path: Path) -> None:
    """Bodies count as well."""
    text = IN_AN_IF.replace('"inside"', '"outside"')
    with pytest.raises(CompareError, match="'outside' more than once"):
        marked(text, tmp_path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x0a\x12"])
def test_a_file_that_is_no_model_is_an_error(content: bytes, tmp_path: Path) -> None:
    """Empty, foreign, truncated."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError, match=r"model\.onnx"):
        read_marked(path)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(OnnxFileError, match=r"nowhere\.onnx"):
        read_marked(tmp_path / "nowhere.onnx")


IN_AN_IF = """
g (float[n] x, bool c) => (float[n] y) {
  a = Neg(x)
  a1 = my.Debug<name: string = "outside">(a)
  b = If (c) <
    then_branch = t () => (float[n] tb) { u = Mul(a1, w) tb = my.Debug<name: string = "inside">(u) },
    else_branch = e () => (float[n] eb) { eb = Add(a1, x) }
  >
  y = my.Debug<name: string = "after">(b)
}
"""


def in_an_if() -> ModelProto:
    """A body that reads a tapped value, an input and a weight of the outer graph."""
    model = parsed(IN_AN_IF)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], np.float32), "w"))
    return model


def test_a_tap_inside_an_if_is_absent_with_its_reason(tmp_path: Path) -> None:
    """It is no graph output; the taps around it are compared all the same."""
    graph = marked(in_an_if(), tmp_path)
    c = np.array(True)
    probe = extract_propagated(graph)
    require_sound(probe)
    assert run(probe, x=X, c=c) == {"outside": [-1, -2], "after": [-2, -4]}
    assert "If" in probe.absent["inside"]

    probe = extract_introduced(graph, ["outside", "after"])
    require_sound(probe)
    assert "If" in probe.absent["inside"]
    (feed,) = [name for name, tap in probe.feeds.items() if tap == "outside"]
    assert run(probe, x=X, c=c, **{feed: np.array([5, 6], np.float32)})["after"] == [10, 12]


IN_A_LOOP = """
g (float[n] x, int64 times) => (float[n] y) {
  on = Constant<value: tensor = bool {1}>()
  a = Abs(x)
  b = Loop (times, on, a) <
    body = body (int64 i, bool go, float[n] s) => (bool going, float[n] next) {
      going = Identity(go)
      d = Add(s, x)
      inner = If (go) <
        then_branch = t () => (float[n] tb) { tb = my.Debug<name: string = "deep">(d) },
        else_branch = e () => (float[n] eb) { eb = Identity(d) }
      >
      next = my.Debug<name: string = "inside">(inner)
    }
  >
  y = my.Debug<name: string = "after">(b)
}
"""


def test_taps_inside_a_loop_and_inside_an_if_in_it_are_absent_with_their_reason(tmp_path: Path) -> None:
    """However deep; both probes go on."""
    graph = marked(IN_A_LOOP, tmp_path)
    for probe in (extract_propagated(graph), extract_introduced(graph, ["after"])):
        require_sound(probe)
        assert run(probe, x=X, times=np.array(2)) == {"after": [3, 6]}
        assert "Loop" in probe.absent["inside"]
        assert "Loop" in probe.absent["deep"]


IN_A_FUNCTION = """
g (float[n] x) => (float[n] y) {
  a = f.twice(x)
  a1 = my.Debug<name: string = "outside">(a)
  y = f.twice(a1)
}
<domain: "f", opset_import: ["" : 18, "my" : 1]>
twice (v) => (r) {
  s = Add(v, v)
  r = my.Debug<name: string = "inside">(s)
}
"""


def test_a_tap_inside_a_local_function_is_absent_with_its_reason(tmp_path: Path) -> None:
    """The function stays callable, without the my domain in it."""
    graph = marked(IN_A_FUNCTION, tmp_path)
    for probe in (extract_propagated(graph), extract_introduced(graph, ["outside"])):
        require_sound(probe)
        assert run(probe, x=X, **dict.fromkeys(probe.feeds, X)) == {"outside": [2, 4]}
        assert "'twice'" in probe.absent["inside"]


def test_a_file_whose_only_taps_are_inside_a_body_is_read(tmp_path: Path) -> None:
    """So that the rows can say so; it is not the same as a file without taps."""
    text = IN_AN_IF.replace('my.Debug<name: string = "outside">', "Identity")
    text = text.replace('my.Debug<name: string = "after">', "Identity").replace("(u) }", "(a1) }")
    graph = marked(text.replace("u = Mul(a1, w)", ""), tmp_path)
    assert list(graph.nested) == ["inside"]
    assert graph.debugs == ()


def test_weights_outside_the_file_stay_outside(tmp_path: Path) -> None:
    """Neither probe carries their data, and both find them beside the file."""
    model = parsed(
        'g (float[1024] x) => (float[1024] y) { a = Add(x, w) y = my.Debug<name: string = "a">(a) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.full(1024, 3, np.float32), "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.bin", size_threshold=0)
    graph = read_marked(path)
    assert graph.folder == tmp_path
    for probe in (extract_propagated(graph), extract_introduced(graph, ["a"])):
        (weight,) = probe.model.graph.initializer
        assert weight.data_location == TensorProto.EXTERNAL
        assert not weight.raw_data
        checked = tmp_path / "checked.onnx"
        checked.write_bytes(probe.model.SerializeToString())
        onnx.checker.check_model(str(checked), full_check=True)
        session = ort.InferenceSession(checked)
        assert session.run(None, {"x": np.zeros(1024, np.float32)})[0][0] == 3


@pytest.mark.parametrize("outside", [False, True])
def test_large_weights_stay_where_they_lie(outside: bool, tmp_path: Path) -> None:
    """In the file itself or beside it: a probe names their place, holds the small ones, and runs."""
    size = 20_000
    model = parsed(
        f"g (float[{size}] x) => (float[{size}] y)"
        '{ a = Add(x, w) b = Mul(a, s) y = my.Debug<name: string = "b">(b) }'
    )
    weight, scale = np.arange(size, dtype=np.float32), np.array(2, np.float32)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in ((weight, "w"), (scale, "s")))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=outside, location="model.bin", size_threshold=1024)
    probe = extract_propagated(read_marked(path))
    content = probe.model.SerializeToString()
    assert len(content) < 1000
    session = Session(content, OnnxRuntime(), probe.folder)
    found = session.run({"x": np.zeros(size, np.float32)})[probe.outputs["b"]]
    assert found.tolist() == (2 * weight).tolist()


def test_external_weights_that_end_too_early_are_named(tmp_path: Path) -> None:
    """A copy that was interrupted."""
    model = parsed(
        'g (float[2000] x) => (float[2000] y) { a = Add(x, w) y = my.Debug<name: string = "a">(a) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2000, np.float32), "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.bin", size_threshold=0)
    with (tmp_path / "model.bin").open("r+b") as file:
        file.truncate(4000)
    with pytest.raises(OnnxFileError, match=r"model\.bin is too short"):
        read_marked(path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    """A file that was moved without its weights."""
    model = parsed(
        'g (float[1024] x) => (float[1024] y) { a = Add(x, w) y = my.Debug<name: string = "a">(a) }'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.full(1024, 3, np.float32), "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="model.bin", size_threshold=0)
    (tmp_path / "model.bin").unlink()
    with pytest.raises(OnnxFileError, match=r"model\.bin"):
        read_marked(path)


def test_a_tapped_weight_is_exposed(tmp_path: Path) -> None:
    """A tap may observe a constant of the graph."""
    model = parsed("""g (float[2] x) => (float[2] y) {
      v = my.Debug<name: string = "weight">(w)
      y = Add(x, v)
    }""")
    model.graph.initializer.append(numpy_helper.from_array(X, "w"))
    graph = marked(model, tmp_path)
    probe = extract_propagated(graph)
    require_sound(probe)
    assert run(probe, x=X) == {"weight": [1, 2]}
    require_sound(extract_introduced(graph, ["weight"]))


def test_values_without_a_stated_type_are_inferred(tmp_path: Path) -> None:
    """Integers, booleans and floats between the taps, none of them declared in the file."""
    graph = marked(
        """g (float[n] x) => (int64 y) {
      a = Greater(x, x)
      a1 = my.Debug<name: string = "bool">(a)
      b = Cast<to: int = 7>(a1)
      b1 = my.Debug<name: string = "int">(b)
      y = ReduceSum<keepdims: int = 0>(b1)
    }""",
        tmp_path,
    )
    for probe in (extract_propagated(graph), extract_introduced(graph, ["bool", "int"])):
        require_sound(probe)
    assert run(extract_propagated(graph), x=X) == {"bool": [False, False], "int": [0, 0]}


@pytest.mark.parametrize("name", ["</script>", "=1+1", 'a"b\\c', "名前", "a b\nc", "x" * 5000])
def test_a_tap_may_have_any_name(name: str, tmp_path: Path) -> None:
    """Names are data: they come back as they were, and make no ONNX name invalid."""
    model = parsed(CHAIN)
    model.graph.node[2].attribute[0].s = name.encode()
    probe = extract_propagated(marked(model, tmp_path))
    require_sound(probe)
    assert run(probe, x=X)[name] == [1, 4]


def test_bfloat16_cuts_are_fed_as_float(tmp_path: Path) -> None:
    """Neither numpy nor the runtime's binding has bfloat16: casts stand at the borders."""
    graph = marked(
        """g (float[2] x) => (float[2] y) {
      a = Cast<to: int = 16>(x)
      a1 = my.Debug<name: string = "a">(a)
      y = Cast<to: int = 1>(a1)
    }""",
        tmp_path,
    )
    for probe in (extract_propagated(graph), extract_introduced(graph, ["a"])):
        require_sound(probe)
        types = {v.type.tensor_type.elem_type for v in (*probe.model.graph.input, *probe.model.graph.output)}
        assert types == {TensorProto.FLOAT}


def test_what_cannot_run_is_left_out_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Behind it the ordinary run is lost, but every segment that does not hold it is not."""
    graph = marked(
        """g (float[n] x) => (float[n] y, float[n] z) {
      a = Neg(x)
      a1 = my.Debug<name: string = "a">(a)
      b = f.Odd(a1)
      b1 = my.Debug<name: string = "b">(b)
      c = Neg(b1)
      y = my.Debug<name: string = "c">(c)
      z = Abs(a1)
    }""",
        tmp_path,
    )

    def odd(node: onnx.NodeProto) -> str:
        return "no f::Odd here" if node.domain == "f" else ""

    probe = extract_propagated(graph, without=odd)
    assert run(probe, x=X) == {"a": [-1, -2]}
    assert set(probe.absent) == {"b", "c"}
    assert "f::Odd" in probe.absent["c"]
    probe = extract_introduced(graph, ["a", "b", "c"], without=odd)
    assert set(probe.outputs) == {"a", "c"}
    assert set(probe.absent) == {"b"}


def test_a_sequence_output_does_not_stop_the_extraction(tmp_path: Path) -> None:
    """It is no tensor to compare; the taps are."""
    graph = marked(
        """g (float[n] x) => (float[n] y) {
      y0 = Neg(x)
      y = my.Debug<name: string = "a">(y0)
      s = SequenceConstruct(y, y)
    }""",
        tmp_path,
    )
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"])
    graph.model.graph.output.append(helper.make_value_info("s", helper.make_sequence_type_proto(tensor)))
    probe = extract_propagated(graph)
    require_sound(probe)
    assert run(probe, x=X) == {"a": [-1, -2]}


def test_optional_inputs_of_a_node_are_no_values(tmp_path: Path) -> None:
    """An empty name stands for an input that is not given."""
    graph = marked(
        """g (float[n] x) => (float[n] y) {
      top = Constant<value: tensor = float {1}>()
      a = Clip(x, , top)
      y = my.Debug<name: string = "a">(a)
    }""",
        tmp_path,
    )
    for probe in (extract_propagated(graph), extract_introduced(graph, ["a"])):
        require_sound(probe)
        assert run(probe, x=X) == {"a": [1, 1]}
