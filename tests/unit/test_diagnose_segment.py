"""Segments: the nodes between taps, as a model of their own and in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import NodeProto, helper, numpy_helper, parser

from alignkit.backends.onnxruntime import OnnxRuntime, Session
from alignkit.diagnose.segment import (
    describe_node,
    find_segment,
    main_operator,
    origin_notes,
    segment_model,
    telling_nodes,
)
from alignkit.extract import read_marked
from alignkit.graph import MarkedGraph
from alignkit.records import Source
from alignkit.source import line_in_trace

HEADER = '<ir_version: 10, opset_import: ["" : 20, "my" : 1]>'
CHAIN = """
g (float[2] x, float[2] k) => (float[2] y) <float[2] w = {2, 3}, float[2] other = {5, 5}> {
  a = Mul(x, w)
  a1 = my.Debug<name: string = "a">(a)
  c = Constant<value: tensor = float[2] {1, 2}>()
  b = Add(a1, c)
  d = Sub(b, k)
  d1 = my.Debug<name: string = "d">(d)
  y = Neg(d1)
  z = Mul(y, other)
}
"""


def marked(folder: Path, text: str = CHAIN) -> MarkedGraph:
    path = folder / "model.onnx"
    onnx.save(parser.parse_model(HEADER + text), path)
    return read_marked(path)


def test_a_segment_ends_at_known_taps_inputs_and_weights(tmp_path: Path) -> None:
    """Nothing before the taps, nothing behind the value, and only the weights that it reads."""
    graph = marked(tmp_path)
    segment = find_segment(graph, "d", {"a", "d"})
    assert [node.op_type for node in segment.nodes] == ["Constant", "Add", "Sub"]
    assert segment.borders == {"a1": "a", "k": "k"}
    assert segment.weights == ()
    first = find_segment(graph, "a", {"a", "d"})
    assert [tensor.name for tensor in first.weights] == ["w"]


def test_a_tap_without_a_reference_does_not_end_a_segment(tmp_path: Path) -> None:
    """There is nothing to feed there: the segment goes on."""
    segment = find_segment(marked(tmp_path), "d", {"d"})
    assert "Mul" in [node.op_type for node in segment.nodes]
    assert segment.borders == {"x": "x", "k": "k"}


def test_the_segment_of_a_tap_that_the_file_lacks_is_empty(tmp_path: Path) -> None:
    """Not an error: the row says that the tap is missing."""
    segment = find_segment(marked(tmp_path), "nowhere", {"a"})
    assert (segment.value, segment.nodes, segment.borders) == ("", (), {})


def test_nodes_that_only_prepare_constants_tell_little(tmp_path: Path) -> None:
    """They are left out, unless they are all there is."""
    segment = find_segment(marked(tmp_path), "d", {"a", "d"})
    assert [node.op_type for node in telling_nodes(segment)] == ["Add", "Sub"]
    text = 'g (float[1] x) => (float[1] y) { c = Identity(x) y = my.Debug<name: string = "c">(c) }'
    lone = find_segment(marked(tmp_path, text), "c", {"c"})
    assert [node.op_type for node in telling_nodes(lone)] == ["Identity"]


def test_a_segment_runs_as_a_model_of_its_own(tmp_path: Path) -> None:
    """Fed at its borders, with its weights inside, wherever they lay."""
    model = parser.parse_model(HEADER + CHAIN)
    for tensor in model.graph.initializer:  # only raw data can lie outside
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    graph = read_marked(tmp_path / "model.onnx")
    assert graph.weights["w"].external_data
    model = segment_model(graph, find_segment(graph, "d", {"d"}))
    onnx.checker.check_model(model, full_check=True)
    feeds = {"x": np.array([1, 1], np.float32), "k": np.array([0, 1], np.float32)}
    assert Session(model.SerializeToString(), OnnxRuntime()).run(feeds)["d"].tolist() == [3, 4]


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (
            helper.make_node("Resize", ["x"], ["y"], name="/up/Resize", mode="cubic", cubic_coeff_a=-0.5),
            'Resize "/up/Resize" cubic_coeff_a=-0.5 mode="cubic"',
        ),
        (helper.make_node("Odd", ["x"], ["y"], name="n", domain="f"), 'f::Odd "n"'),
        (helper.make_node("Neg", ["x"], ["y"]), 'Neg ""'),
        (helper.make_node("Pad", [], ["y"], name="p", pads=[0, 1]), 'Pad "p" pads=[0, 1]'),
        (
            helper.make_node("Pad", [], ["y"], name="p", pads=list(range(9))),
            'Pad "p" pads=[0, 1, 2, 3, 4, 5, 6, 7, …]',
        ),
        (helper.make_node("BN", [], [], name="b", epsilon=1e-5), 'BN "b" epsilon=1e-05'),
        (
            helper.make_node("Constant", [], ["y"], name="c", value=numpy_helper.from_array(np.zeros(3))),
            'Constant "c"',
        ),
        (helper.make_node("Names", [], ["y"], name="c", names=["a", "b"]), 'Names "c" names=…'),
    ],
)
def test_a_node_is_described_by_its_domain_name_and_attributes(node: NodeProto, text: str) -> None:
    """In one line; tensors and bodies are left out, long lists cut short."""
    assert describe_node(node) == text


def test_undecodable_attribute_text_is_shown_all_the_same() -> None:
    """A file may hold anything."""
    assert describe_node(helper.make_node("Odd", [], [], name="n", text=b"\xff")) == 'Odd "n" text="\ufffd"'


def test_large_whole_numbers_keep_their_digits() -> None:
    """An axis end of 2**31 - 1 reads as one."""
    node = helper.make_node("Slice", [], [], name="s", ends=[2147483647])
    assert describe_node(node) == 'Slice "s" ends=[2147483647]'


def test_rewrite_rules_are_told_where_the_exporter_noted_them() -> None:
    """Nodes without metadata are no error."""
    plain, noted = helper.make_node("Neg", [], []), helper.make_node("Gelu", [], [])
    noted.metadata_props.add(key="pkg.onnxscript.rewriter.rule_name", value="FuseGelu")
    assert origin_notes([plain]) == ()
    assert origin_notes([plain, noted]) == ("the exporter's rewrite rule FuseGelu made the Gelu",)


def test_the_exporters_own_note_of_the_place_is_told() -> None:
    """As the default exporter writes it: a list of scopes as text; nothing where it is empty or not there."""
    noted, bare = helper.make_node("Resize", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])
    noted.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'up', 'up.scale', 'upsample']")
    assert origin_notes([bare, noted]) == ("the exporter noted the Resize in up > up.scale > upsample",)
    assert origin_notes([noted, bare]) == ()
    assert origin_notes([]) == ()


def test_the_line_that_the_exporter_saw_is_told() -> None:
    """The innermost one of the user's own: torch's lines below it tell nothing of the model."""
    inner = Path(torch.__file__).parent / "nn" / "functional.py"
    frames = [("/models/net.py", 12, "return self.inner(x)"), ("/models/net.py", 30, "h = h * 0.98")]
    user = "\n".join(f'  File "{file}", line {line}, in forward\n    {text}' for file, line, text in frames)
    noted, bare = helper.make_node("Mul", ["x"], ["y"]), helper.make_node("Mul", ["x"], ["y"])
    trace = f'{user}\n  File "{inner}", line 5, in silu\n    return x'
    noted.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=trace)
    assert origin_notes([noted]) == ("the exporter noted the Mul at models/net.py:30: h = h * 0.98",)
    bare.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=f'File "{inner}", line 5, in silu')
    assert origin_notes([bare]) == ()


@pytest.mark.parametrize("library", ["/home/a/pytorch/torch/nn/functional.py", "/opt/lib/python3.10/abc.py"])
def test_a_file_from_another_machine_tells_the_same_line(library: str) -> None:
    """Its torch and its Python lie elsewhere; the user's own colon stays."""
    trace = (
        f'File "/m/net.py", line 3, in forward\n    if x > 0:\n  File "{library}", line 5, in f\n    return'
    )
    assert line_in_trace(trace) == Source("m/net.py:3", "if x > 0:")


RESHAPED = """
g (float[4] x) => (float[2, 2] y) <float[4] w = {1, 2, 3, 4}> {
  shape = Constant<value: tensor = int64[2] {2, 2}>()
  a = Mul(x, w)
  b = Reshape(a, shape)
  y = my.Debug<name: string = "fc">(b)
}
"""


def test_the_operator_is_what_computes_the_numbers(tmp_path: Path) -> None:
    """A Reshape at the end of a layer makes no number; a wrong shape it does make."""
    segment = find_segment(marked(tmp_path, RESHAPED), "fc", [])
    assert main_operator(segment) == "Mul"
    assert main_operator(segment, of_shape=True) == "Reshape"
    assert main_operator(find_segment(marked(tmp_path, RESHAPED), "no such tap", [])) == ""
