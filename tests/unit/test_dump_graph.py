"""The run of an ONNX file as a dump: its taps where it has some, else every value, whatever its type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from alignkit.backends.onnxruntime import OnnxRuntime, Session
from alignkit.dump import About, write_dump
from alignkit.dump.graph import capture_graph, flatten_value
from alignkit.dump.records import FULL
from alignkit.errors import BackendError
from alignkit.records import Array

X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
HEAD = '<ir_version: 9, opset_import: ["" : 17, "ai.onnx.ml" : 3, "my" : 1]>'

PLAIN = """
agraph (float[n, 3] x) => (float[n, 3] y) <float[1] one = {1}> {
  [sum_of_ones] two = Add(one, one)
  [scale] up = Mul(x, two)
  [shift] sum = Add(up, x)
  [bound] y = Tanh(sum)
}
"""
MARKED = """
agraph (float[n] x) => (float[n] y) <bool yes = {1}> {
  x0 = my.Debug<name: string = "(model)#0:in[0]">(x)
  a = Mul(x0, x0)
  a1 = my.Debug<name: string = "a#0[0]">(a)
  a2 = my.Debug<name: string = "b#0:in[0]">(a1)
  b = If(yes) <
    then_branch = t () => (float[n] tb) { u = Add(a2, x0) tb = my.Debug<name: string = "inside">(u) },
    else_branch = e () => (float[n] eb) { eb = Identity(a2) }
  >
  y = my.Debug<name: string = "(model)#0[0]">(b)
}
"""


def save(path: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(HEAD + text), path)
    return path


def captured(path: Path, x: Array = X, budget_bytes: int = 2**20) -> tuple[About, dict[str, Array]]:
    about, tensors = capture_graph(path, {"x": x}, OnnxRuntime(), tier=FULL, budget_bytes=budget_bytes)
    return about, dict(tensors)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("graph") / "plain.onnx", PLAIN)


def test_every_value_that_depends_on_the_inputs(plain: Path) -> None:
    """In the order of the file, by name, with the node that makes it and the values that it reads."""
    about, tensors = captured(plain)
    assert [(t.name, t.op, t.onnx_node, t.onnx_value, t.reads) for t in about.taps] == [
        ("up", "Mul", "scale", "up", ()),
        ("sum", "Add", "shift", "sum", ("up",)),
        ("y", "Tanh", "bound", "y", ("sum",)),
    ]
    assert [entry.name for entry in about.inputs] == ["x"]
    assert (about.outputs, about.origin) == (("y",), "plain.onnx")
    np.testing.assert_array_equal(tensors["input/x"], X)
    np.testing.assert_allclose(tensors["tap/up"], 2 * X)
    np.testing.assert_allclose(tensors["tap/sum"], 3 * X)
    np.testing.assert_allclose(tensors["tap/y"], np.tanh(3 * X), rtol=1e-6)


def test_a_small_budget_gives_the_same_in_more_runs(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values come in batches; how many does not show in them."""
    runs: list[int] = []
    run = Session.run

    def counted(self: Session, *arguments: Any) -> dict[str, Any]:
        found = run(self, *arguments)
        runs.append(len(found))
        return found

    monkeypatch.setattr(Session, "run", counted)
    _, large = captured(plain)
    few = len(runs)
    _, small = captured(plain, budget_bytes=1)
    assert len(runs) - few == few + 1  # "up" and "sum" no longer in one run
    assert small.keys() == large.keys()
    assert all(small[key].tobytes() == large[key].tobytes() for key in small)


def test_a_marked_file_is_seen_at_its_taps(tmp_path: Path) -> None:
    """Taps on one value share it, one on an input is fed, one inside a body says why it has no value."""
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    about, tensors = captured(save(tmp_path / "marked.onnx", MARKED), x)
    taps = {tap.name: tap for tap in about.taps}
    assert list(taps) == ["(model)#0:in[0]", "a#0[0]", "b#0:in[0]", "(model)#0[0]", "inside"]
    assert taps["b#0:in[0]"].tensor == "tap/a#0[0]"
    assert taps["(model)#0[0]"].op == "If"
    assert set(taps["(model)#0[0]"].reads or ()) == {"(model)#0:in[0]", "b#0:in[0]"}
    assert "inside the body of If" in taps["inside"].absent
    assert about.outputs == ("(model)#0[0]",)
    np.testing.assert_array_equal(tensors["tap/(model)#0:in[0]"], x)
    np.testing.assert_array_equal(tensors["tap/a#0[0]"], x * x)
    np.testing.assert_array_equal(tensors["tap/(model)#0[0]"], x * x + x)


def test_a_name_twice_in_a_marked_file_is_told(tmp_path: Path) -> None:
    """The file is not taken for one without taps."""
    text = MARKED.replace('"b#0:in[0]"', '"a#0[0]"')
    with pytest.raises(Exception, match="more than once"):
        captured(save(tmp_path / "twice.onnx", text), X[0])


def test_sequences_and_maps_become_tensors(tmp_path: Path) -> None:
    """A ZipMap's rows by key over the samples, a split's parts by number; strings are absent."""
    text = """
    agraph (float[n, 3] x) => (seq(map(int64, float)) rows, seq(float[m, 3]) parts, string[n] words) {
      soft = Softmax(x)
      [zip] rows = ai.onnx.ml.ZipMap<classlabels_int64s = [7, 8, 9]>(soft)
      [split] parts = SplitToSequence<axis = 0>(x)
      top = ArgMax<axis = 1, keepdims = 0>(x)
      [label] words = ai.onnx.ml.LabelEncoder<keys_int64s=[0,1,2], values_strings=["a", "b", "c"]>(top)
    }
    """
    path = save(tmp_path / "sequences.onnx", text)
    about, tensors = captured(path)
    found = {tap.name: tap for tap in about.taps}
    assert list(found) == [
        "soft", "rows[7]", "rows[8]", "rows[9]", "parts[0]", "parts[1]", "top", "words",
    ]  # fmt: skip
    assert (found["rows[8]"].op, found["rows[8]"].reads) == ("ZipMap", ("soft",))
    np.testing.assert_array_equal(tensors["tap/rows[8]"], tensors["tap/soft"][:, 1])
    assert tensors["tap/rows[8]"].dtype == np.float32
    np.testing.assert_array_equal(tensors["tap/parts[1]"], X[1:])
    entries = write_dump(tmp_path / "run", about, tensors.items()).taps
    assert [tap.name for tap in entries if tap.absent] == ["words"]


def test_values_of_every_shape_flatten() -> None:
    """Maps with other keys in every sample stay apart; what is None or empty has no tensor."""
    uneven = dict(flatten_value("m", [{"a": 1.0}, {"b": 2.0}], element=11))
    assert uneven == {"m[0][a]": 1.0, "m[1][b]": 2.0}
    assert uneven["m[0][a]"].dtype == np.float64
    assert dict(flatten_value("s", [])) == {}
    assert dict(flatten_value("o", None)) == {}


def test_a_file_that_the_runtime_refuses(tmp_path: Path) -> None:
    """One line from the runtime's own words."""
    text = "agraph (float[n, 3] x) => (float[n, 3] y) { y = my.Nonsense(x) }"
    with pytest.raises(BackendError, match="Nonsense"):
        captured(save(tmp_path / "bad.onnx", text))
