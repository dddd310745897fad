"""Candidates: both probes run, and go on without what the runtime cannot run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from alignkit.backends import OnnxRuntime
from alignkit.candidate import ProbeRunner
from alignkit.errors import BackendError
from alignkit.extract import read_marked
from alignkit.records import Array, Candidate, Capture
from tests.captures import capture_of

HEADER = '<ir_version: 10, opset_import: ["" : 18, "my" : 1, "f" : 1]>'


def runner(text: str, folder: Path, reshape: str = "") -> ProbeRunner:
    """The probes of a model written in ONNX's text form; ``reshape`` names its Reshape nodes."""
    path = folder / "model.onnx"
    model = parser.parse_model(HEADER + text)
    for node in model.graph.node:
        if node.op_type == "Reshape":
            node.name = reshape
    onnx.save(model, path)
    return ProbeRunner(read_marked(path), OnnxRuntime())


def reference(**values: Array) -> Capture:
    return capture_of(values)


def whole(parts: Iterable[Candidate]) -> Candidate:
    """All parts as one; their arrays are copied, for they hold until the next part only."""
    values: dict[str, Array] = {}
    absent: dict[str, str] = {}
    trivial: frozenset[str] = frozenset()
    for part in parts:
        values.update({tap: value.copy() for tap, value in part.values.items()})
        absent.update(part.absent)
        trivial |= part.trivial
    return Candidate(values, absent, {}, trivial)


def lists(values: Mapping[str, Array]) -> dict[str, object]:
    return {name: value.tolist() for name, value in values.items()}


X = np.array([1, 2], np.float32)
ODD = """
g (float[n] x) => (float[n] y, float[n] z) {
  x1 = my.Debug<name: string = "in">(x)
  a = Neg(x1)
  a1 = my.Debug<name: string = "a">(a)
  b = f.Odd(a1)
  b1 = my.Debug<name: string = "b">(b)
  c = Neg(b1)
  y = my.Debug<name: string = "c">(c)
  z = Abs(a1)
}
"""


def test_a_session_whose_kernel_is_missing_goes_on_without_it(tmp_path: Path) -> None:
    """The reason names the operator; behind it, only the introduced probe still compares."""
    probes = runner(ODD, tmp_path)
    known = reference(**{"in": X, "a": -X, "b": X * 10, "c": -X * 10})
    introduced = whole(probes.introduced({"x": X}, known))
    propagated = whole(probes.propagated({"x": X}, known))
    assert lists(propagated.values) == {"in": [1, 2], "a": [-1, -2]}
    assert set(propagated.absent) == {"b", "c"}
    assert lists(introduced.values) == {"in": [1, 2], "a": [-1, -2], "c": [-10, -20]}
    assert set(introduced.absent) == {"b"}
    assert "f::Odd" in introduced.absent["b"]


def test_a_second_sample_is_run_with_its_own_values(tmp_path: Path) -> None:
    """Sessions are kept, values are not."""
    probes = runner(ODD, tmp_path)
    for scale in (1.0, 3.0):
        x = np.float32(scale) * X
        known = reference(**{"in": x, "a": -x, "b": x, "c": -x})
        assert lists(whole(probes.propagated({"x": x}, known)).values)["a"] == (-x).tolist()
        assert lists(whole(probes.introduced({"x": x}, known)).values)["c"] == (-x).tolist()


FAILS = """
g (float[n] x, int64[1] shape) => (float[m] y) {
  a = Neg(x)
  a1 = my.Debug<name: string = "a">(a)
  b = Reshape(a1, shape)
  b1 = my.Debug<name: string = "b">(b)
  y = Abs(b1)
}
"""


def test_a_node_that_fails_on_its_values_is_left_out(tmp_path: Path) -> None:
    """The other taps are compared, and the reason names the node."""
    probes = runner(FAILS, tmp_path, reshape="the_reshape")
    candidate = whole(probes.propagated({"x": X, "shape": np.array([7])}, reference()))
    assert lists(candidate.values) == {"a": [-1, -2]}
    assert "the_reshape" in candidate.absent["b"]


def test_a_node_that_failed_on_one_sample_is_tried_again_on_the_next(tmp_path: Path) -> None:
    """What failed was that sample's values, not the operator."""
    probes = runner(FAILS, tmp_path, reshape="the_reshape")
    whole(probes.propagated({"x": X, "shape": np.array([7])}, reference()))
    assert lists(whole(probes.propagated({"x": X, "shape": np.array([2])}, reference())).values)["b"] == [
        -1,
        -2,
    ]


def test_a_part_that_is_tried_again_leaves_the_one_before_alone(tmp_path: Path) -> None:
    """Its values may still be being measured."""
    text = FAILS.replace("  b = Reshape", '  z = Exp(a1) z1 = my.Debug<name: string = "z">(z)\n  b = Reshape')
    text = text.replace("y = Abs(b1)", 'c = Abs(a1) c1 = my.Debug<name: string = "c">(c) y = Abs(b1)')
    probes = runner(text, tmp_path, reshape="the_reshape")
    probes.part_bytes = 2 * X.nbytes
    known = reference(a=-X, z=np.exp(-X), b=X, c=X)
    feeds = {"x": X, "shape": np.array([7])}
    for parts in (probes.propagated(feeds, known), probes.introduced(feeds, known)):
        first, second = parts
        assert lists(first.values)["a"] == [-1, -2]
        assert lists(second.values) == {"c": [1, 2]}
        assert "the_reshape" in second.absent["b"]


def test_a_failing_node_without_a_name_ends_in_one_clear_error(tmp_path: Path) -> None:
    """It cannot be singled out: no endless retry, no wrong node left out."""
    probes = runner(FAILS, tmp_path)
    with pytest.raises(BackendError, match="Reshape"):
        whole(probes.propagated({"x": X, "shape": np.array([7])}, reference()))


def test_when_nothing_can_run_every_tap_is_absent(tmp_path: Path) -> None:
    """No session is made of an empty model."""
    probes = runner(
        'g (float[n] x) => (float[n] y) { a = f.Odd(x) y = my.Debug<name: string = "a">(a) }', tmp_path
    )
    assert set(whole(probes.propagated({"x": X}, reference())).absent) == {"a"}
    assert set(whole(probes.introduced({"x": X}, reference(a=X))).absent) == {"a"}


def test_only_taps_that_show_the_fed_array_itself_are_trivial(tmp_path: Path) -> None:
    """A tap behind a tap says nothing new when both are one tensor, and something when they are not."""
    text = """g (float[n] x) => (float[n] y) {
      a = Neg(x)
      a1 = my.Debug<name: string = "a">(a)
      a2 = my.Debug<name: string = "b">(a1)
      y = Abs(a2)
    }"""
    shared = -X
    probes = runner(text, tmp_path)
    assert whole(probes.introduced({"x": X}, reference(a=shared, b=shared))).trivial == {"b"}
    found = whole(probes.introduced({"x": X}, reference(a=shared, b=shared + 1)))
    assert found.trivial == frozenset()
    assert found.values["b"].tolist() == shared.tolist()


CHAIN = """
g (float[n] x) => (float[n] y) {
  a = Neg(x)
  a1 = my.Debug<name: string = "a">(a)
  b = Exp(a1)
  b1 = my.Debug<name: string = "b">(b)
  c = Add(b1, a1)
  c1 = my.Debug<name: string = "c">(c)
  c2 = my.Debug<name: string = "c again">(c1)
  s = Shape(b1)
  d = Expand(c2, s)
  y = my.Debug<name: string = "d">(d)
}
"""


@pytest.mark.parametrize("part_bytes", [1, 8, 16, 10**9])
def test_a_run_in_parts_gives_what_a_whole_run_gives(part_bytes: int, tmp_path: Path) -> None:
    """Every part goes on from the values of earlier ones, also of those two parts before."""
    a, b = -X, np.exp(-X)
    known = reference(a=a, b=b, c=a + b, **{"c again": a + b, "d": a + b})
    probes = runner(CHAIN, tmp_path)
    probes.part_bytes = part_bytes
    assert len(list(probes.propagated({"x": X}, known))) == (
        1 if part_bytes > 100 else 4 if part_bytes < 16 else 2
    )
    for found in (whole(probes.propagated({"x": X}, known)), whole(probes.introduced({"x": X}, known))):
        assert set(found.values) == {"a", "b", "c", "c again", "d"}
        for tap, value in found.values.items():
            np.testing.assert_allclose(value, known.values[tap], rtol=1e-6)


def test_a_missing_kernel_in_one_part_is_missing_in_the_parts_behind(tmp_path: Path) -> None:
    """What cannot be computed has no value to go on from; the introduced probe compares behind it."""
    probes = runner(ODD, tmp_path)
    probes.part_bytes = 1
    known = reference(**{"in": X, "a": -X, "b": X * 10, "c": -X * 10})
    propagated, introduced = (
        whole(probes.propagated({"x": X}, known)),
        whole(probes.introduced({"x": X}, known)),
    )
    assert set(propagated.absent) == {"b", "c"}
    assert set(introduced.absent) == {"b"}
    assert lists(introduced.values)["c"] == [-10, -20]
