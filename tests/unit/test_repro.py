"""Repro bundles: the fewest nodes that still fail, names that harm nobody, and files that run."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from alignkit.diagnose import repro
from alignkit.diagnose.reduce import Budget, reduce_case, whole_case
from alignkit.diagnose.repro import bundle_name, make_bundle
from alignkit.diagnose.segment import Segment
from alignkit.records import Array, ReportData
from alignkit.report import files
from alignkit.report.files import BUNDLE_FILES, save_report
from alignkit.report.schema import report_to_json
from tests.repro_bench import culprit, operators, run_onnxruntime, text_bench
from tests.sample_report import sample_report

HOSTILE = [
    "../../x",
    "</script><img src=x onerror=alert(1)>",
    "con",
    "nul.txt#0[0]",
    "C:\\windows",
    "näßt/深い\u202e層",
    "`\n# title\n```",
    "x" * 5000,
    '\'; import os; \'"""$place',
    "\ud800",
    "",
    ".",
]
X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
CHAIN = (
    "g (float[3, 4] x) => (float[3, 4] y) { a = Exp(x) b = Neg(a) c = Softplus(b) d = Abs(c) y = Sqrt(d) }"
)


def loaded(bundle: Mapping[str, bytes]) -> onnx.ModelProto:
    model = onnx.load_from_string(bundle["segment.onnx"])
    onnx.checker.check_model(model, full_check=True)
    return model


def stored(bundle: Mapping[str, bytes], name: str) -> dict[str, Array]:
    with np.load(io.BytesIO(bundle[name])) as arrays:
        return dict(arrays)


def bundle_of(made: Mapping[str, bytes] | str) -> Mapping[str, bytes]:
    assert not isinstance(made, str), made
    return made


def written(bundle: Mapping[str, bytes], folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in bundle.items():
        (folder / name).write_bytes(content)
    return folder


def run_script(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(folder / "repro.py"), *options]
    return subprocess.run(command, capture_output=True, text=True)


def evaluated(text: str, name: str) -> Array:
    """What an inner value of ``text`` is for X."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    return np.asarray(ReferenceEvaluator(model).run([name], {"x": X})[0])  # type: ignore[index]


# ---------------------------------------------------------------- names


@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_names_are_harmless_and_tell_taps_apart(taps: list[str]) -> None:
    """Whatever the taps are called, the folders are plain words, short, and two."""
    names = [bundle_name(tap) for tap in taps]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,70}", name) for name in names)
    assert names[0] != names[1]


@pytest.mark.parametrize("tap", HOSTILE)
def test_hostile_names_become_plain_folders(tap: str) -> None:
    """No traversal, no reserved name, no markup; the same tap always gives the same name."""
    name = bundle_name(tap)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*-[0-9a-f]{8}", name)
    assert len(name) <= 70
    assert name == bundle_name(tap)


def test_a_name_is_readable() -> None:
    """A module's path can be read off it; taps that differ in signs only stay apart."""
    assert bundle_name("layer1.0.relu#1[0]").startswith("layer1_0_relu_1_0-")
    assert bundle_name("a.b") != bundle_name("a_b")


# ---------------------------------------------------------------- reduction


def test_known_values_leave_the_failing_node_alone() -> None:
    """With the reference of inner values at hand, an exporter's fault is cut down to its node."""
    right = CHAIN.replace("Softplus(b)", "Softsign(b)")
    known = {name: evaluated(right, name) for name in ("a", "b", "c", "d")}
    bench = text_bench(CHAIN, {"x": X}, np.zeros((3, 4), np.float32), allowed=1e-6)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench, known=known))
    model = loaded(bundle)
    assert operators(model) == ["Softplus"]
    assert [value.name for value in model.graph.input] == ["b"]
    np.testing.assert_array_equal(stored(bundle, "inputs.npz")["input_0"], known["b"])
    np.testing.assert_array_equal(stored(bundle, "expected.npz")["expected"], known["c"])


def test_few_known_values_cut_at_the_nearest_ones() -> None:
    """Where only some inner values are known, what lies between the two around the fault stays."""
    right = CHAIN.replace("Softplus(b)", "Softsign(b)")
    known = {name: evaluated(right, name) for name in ("a", "d")}
    bench = text_bench(CHAIN, {"x": X}, np.zeros((3, 4), np.float32), allowed=1e-6)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench, known=known))
    assert operators(loaded(bundle)) == ["Neg", "Softplus", "Abs"]


def test_an_exporters_fault_without_known_values_stays_whole() -> None:
    """Nothing tells which node is wrong: all of them are shown, with the reference at both ends."""
    bench = text_bench(CHAIN, {"x": X}, np.ones((3, 4), np.float32), allowed=1e-6)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench))
    assert operators(loaded(bundle)) == ["Exp", "Neg", "Softplus", "Abs", "Sqrt"]
    np.testing.assert_array_equal(stored(bundle, "inputs.npz")["input_0"], X)


def with_wrong_kernel(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
    """A runtime whose Softplus is wrong at every level."""
    changed = onnx.load_from_string(model)
    for node in changed.graph.node:
        if node.op_type == "Softplus":
            node.op_type = "Relu"
    return run_onnxruntime(changed.SerializeToString(), feeds, level)


def test_a_wrong_kernel_is_found_by_the_reference_evaluator() -> None:
    """A runtime's fault is cut down to the one node whose kernel differs from ONNX's definition."""
    expected = evaluated(CHAIN, "y")
    bench = text_bench(CHAIN, {"x": X}, expected, allowed=1e-6, run=with_wrong_kernel)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "runtime"), bench))
    assert operators(loaded(bundle)) == ["Softplus"]
    assert b"EXPECTED_FROM = 'the ONNX reference evaluator'" in bundle["repro.py"]
    np.testing.assert_allclose(stored(bundle, "expected.npz")["expected"], evaluated(CHAIN, "c"), rtol=1e-6)


def with_wrong_fusion(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
    """A runtime that spoils a Neg read by a Softplus, and nothing when it does not optimise."""
    changed = onnx.load_from_string(model)
    negated = {node.output[0] for node in changed.graph.node if node.op_type == "Neg"}
    for node in changed.graph.node:
        if level != "disable" and node.op_type == "Softplus" and node.input[0] in negated:
            node.op_type = "Relu"
    return run_onnxruntime(changed.SerializeToString(), feeds, level)


def test_a_wrong_fusion_keeps_the_nodes_it_fuses() -> None:
    """An optimiser's fault needs its nodes together: those stay, the others go."""
    bench = text_bench(CHAIN, {"x": X}, evaluated(CHAIN, "y"), allowed=1e-6, run=with_wrong_fusion)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "optimizer"), bench))
    assert operators(loaded(bundle)) == ["Neg", "Softplus"]


def test_constants_are_folded_and_identities_dropped() -> None:
    """What only prepares a weight becomes one, and the issue says by which operators it was made."""
    text = """g (float[3, 4] x) => (float[3, 4] y) {
        k = Constant <value: tensor = float[1] {2.0}> ()
        r = Sqrt(k)  same = Identity(x)  m = Mul(same, r)  y = Tanh(m)
    }"""
    bench = text_bench(text, {"x": X}, np.tanh(X * 2), allowed=1e-5)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench))
    model = loaded(bundle)
    assert operators(model) == ["Mul", "Tanh"]
    (weight,) = model.graph.initializer
    np.testing.assert_allclose(onnx.numpy_helper.to_array(weight), [np.sqrt(2.0)], rtol=1e-6)
    assert "computed in the file by Sqrt" in bundle["issue.md"].decode()


def test_random_nodes_are_no_constants() -> None:
    """A node that draws numbers reads nothing, but is not the same twice."""
    text = """g (float[3, 4] x) => (float[3, 4] y) {
        r = RandomNormal <shape = [3, 4]> ()  y = Add(x, r)
    }"""
    bench = text_bench(text, {"x": X}, X + 100, allowed=1.0)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench))
    assert operators(loaded(bundle)) == ["RandomNormal", "Add"]


def test_a_spent_budget_leaves_the_segment_whole() -> None:
    """Reduction stops at the number of runs it was given, and what it returns still fails."""
    runs = []

    def counting(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
        runs.append(level)
        return with_wrong_kernel(model, feeds, level)

    bench = text_bench(CHAIN, {"x": X}, evaluated(CHAIN, "y"), allowed=1e-6, run=counting)
    for budget in (Budget(attempts=0), Budget(seconds=0.0)):
        assert len(reduce_case(whole_case(bench), "runtime", None, bench, budget).nodes) == 5
    assert not runs
    assert len(reduce_case(whole_case(bench), "runtime", None, bench, Budget(attempts=1)).nodes) < 5
    assert len(runs) == 1


def test_bodies_keep_the_values_they_read() -> None:
    """A control-flow node whose body reads outer values is cut with them."""
    text = """g (float[3, 4] x, bool c) => (float[3, 4] y) {
        a = Exp(x)  b = Neg(a)
        n = If (c) <then_branch = t () => (float[3, 4] p) { p = Add(a, b) },
                    else_branch = e () => (float[3, 4] q) { q = Identity(b) }>
        y = Sqrt(n)
    }"""
    feeds = {"x": X, "c": np.array(False)}
    bench = text_bench(text, feeds, np.ones((3, 4), np.float32), allowed=1e-6)
    known = {"n": np.full((3, 4), 4.0, np.float32), "a": np.exp(X)}
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench, known=known))
    model = loaded(bundle)
    assert operators(model) == ["Neg", "If"]
    assert {value.name for value in model.graph.input} == {"a", "c"}


def test_traces_of_the_exporting_machine_are_left_out() -> None:
    """A bundle is passed on: neither doc strings nor the exporters' stack traces go with it."""
    bench = text_bench(CHAIN, {"x": X}, np.ones((3, 4), np.float32), allowed=1e-6)
    for node in bench.segment.nodes:
        node.doc_string = "/home/someone/model.py(42)"
        node.metadata_props.add(key="stack_trace", value="/home/someone/model.py")
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench))
    assert b"someone" not in bundle["segment.onnx"]
    assert bench.segment.nodes[0].doc_string  # the bench's own graph is as before


# ---------------------------------------------------------------- none at all


@pytest.mark.parametrize("cause", ["input", "train-mode", "nondeterministic"])
def test_causes_outside_the_graph_have_no_bundle(cause: str) -> None:
    """What no part of the graph can show has a reason instead."""
    bench = text_bench(CHAIN, {"x": X}, np.ones((3, 4), np.float32), allowed=1e-6)
    reason = make_bundle(culprit(bench.tap, cause), bench)
    assert isinstance(reason, str)
    assert reason


def fails_to_run(model: bytes, feeds: Mapping[str, Array], level: str) -> Mapping[str, Array]:
    raise RuntimeError("device lost")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"segment": Segment("y", (), {}, ())}, "no ONNX node"),
        ({"allowed": 1e9}, "on its own the segment is right"),
        ({"run": fails_to_run}, "could not be built: RuntimeError: device lost"),
    ],
)
def test_a_segment_that_cannot_show_it_has_a_reason(change: dict[str, Any], reason: str) -> None:
    """No nodes, no failure on its own, no run: one line that says so, and no exception."""
    bench = text_bench(CHAIN, {"x": X}, np.ones((3, 4), np.float32), allowed=1e-6)
    made = make_bundle(culprit(bench.tap, "exporter"), replace(bench, **change))
    assert isinstance(made, str)
    assert reason in made


def test_a_custom_operator_has_a_reason() -> None:
    """An operator from a library would not run elsewhere."""
    text = "g (float[3, 4] x) => (float[3, 4] y) { y = mine.Magic(x) }"
    bench = text_bench(text, {"x": X}, X, allowed=1e-6)
    made = make_bundle(culprit(bench.tap, "exporter"), bench)
    assert made == "mine::Magic comes from a custom-op library, which a bundle cannot hold"


def test_a_segment_beyond_the_size_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap counts weights and values; the reason gives both figures."""
    text = "g (float[3, 4] x) => (float[3, 4] y) { y = Add(x, w) }"
    weights = {"w": np.zeros((3, 4), np.float32)}
    bench = text_bench(text, {"x": X}, X + 1, weights=weights, allowed=1e-6)
    monkeypatch.setattr(repro, "MOST_BYTES", 3 * 48)
    assert not isinstance(make_bundle(culprit(bench.tap, "exporter"), bench), str)
    monkeypatch.setattr(repro, "MOST_BYTES", 3 * 48 - 1)
    made = make_bundle(culprit(bench.tap, "exporter"), bench)
    assert isinstance(made, str)
    assert re.search(r"take \d+ MiB, more than \d+ MiB", made)


# ---------------------------------------------------------------- content


@pytest.mark.parametrize(
    ("kind", "dtype"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16), ("int64", np.int64)]
)
def test_narrow_and_integer_types_run(kind: str, dtype: Any, tmp_path: Path) -> None:
    """Values of types that numpy or a double cannot hold come through the files unchanged."""
    large = 2**53 if kind == "int64" else 1
    x = (np.arange(12).reshape(3, 4) + large).astype(dtype)
    text = f"g ({kind}[3, 4] x) => ({kind}[3, 4] y) {{ y = Identity(x) }}"
    wrong = x.copy()
    wrong[1, 2] += np.asarray(1, dtype)
    for expected, code in ((wrong, 1), (x, 0)):
        bench = text_bench(text, {"x": x}, wrong, allowed=0.0)
        bundle = dict(bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench)))
        exact = expected.astype(np.float32) if kind == "bfloat16" else expected
        np.testing.assert_array_equal(stored(bundle, "expected.npz")["expected"].dtype, exact.dtype)
        buffer = io.BytesIO()
        np.savez(buffer, expected=exact)
        folder = written({**bundle, "expected.npz": buffer.getvalue()}, tmp_path / str(code))
        done = run_script(folder)
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr == ""


def test_bfloat16_is_stored_as_bits() -> None:
    """An .npz file has no bfloat16: inputs are uint16, which the script says."""
    x = X.astype(ml_dtypes.bfloat16)
    text = "g (bfloat16[3, 4] x) => (bfloat16[3, 4] y) { y = Identity(x) }"
    bench = text_bench(text, {"x": x}, -x, allowed=0.0)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench))
    bits = stored(bundle, "inputs.npz")["input_0"]
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(bits.view(ml_dtypes.bfloat16), x)
    assert b"stored as their bits, in uint16" in bundle["repro.py"]


@pytest.mark.parametrize(
    ("output", "expected", "code", "words"),
    [
        ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], 0, "= 0 "),
        ([1.0, 2.0, 3.0], [1.0, np.nan, 3.0], 1, "= inf "),
        ([1.0, np.inf, 3.0], [1.0, -np.inf, 3.0], 1, "= inf "),
        ([1.0, 2.0, 3.0], [1.0, 2.5, 3.0], 1, "at       [1]: output 2.0, expected 2.5"),
        ([1.0, 2.0, 3.0], [[1.0, 2.0, 3.0]], 1, "the shape is [3], expected [1, 3]"),
    ],
)
def test_the_script_measures_as_the_report_does(
    output: list[float], expected: Any, code: int, words: str, tmp_path: Path
) -> None:
    """NaN and infinities at the same places agree, elsewhere they are an infinite error; shapes count."""
    x = np.array(output, np.float32)
    text = "g (float[N] x) => (float[N] y) { y = Identity(x) }"
    bench = text_bench(text, {"x": x}, np.full(3, 9.0, np.float32), allowed=1e-3)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench))
    buffer = io.BytesIO()
    np.savez(buffer, expected=np.array(expected, np.float32))
    done = run_script(written({**bundle, "expected.npz": buffer.getvalue()}, tmp_path / "bundle"))
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout
    assert done.stderr == ""


def test_the_level_is_the_products_unless_another_is_asked_for() -> None:
    """The script runs at the bench's level, with its providers and disabled transformers."""
    bench = text_bench(CHAIN, {"x": X}, np.ones((3, 4), np.float32), allowed=0.25, optimization="basic")
    options = {"providers": [("CPUExecutionProvider", {"a": 1})], "disabled_optimizers": ["MatMulAddFusion"]}
    script = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench, **options))["repro.py"].decode()
    constants = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(script).body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id not in ("FOLDER", "LEVELS")
    }
    assert constants["OPTIMIZATION"] == "basic"
    assert constants["ALLOWED"] == 0.25
    assert constants["PROVIDERS"] == [("CPUExecutionProvider", {"a": "1"})]
    assert constants["DISABLED_OPTIMIZERS"] == ["MatMulAddFusion"]


def test_the_script_exits_2_when_it_cannot_run(tmp_path: Path) -> None:
    """A missing file, a damaged model, an unknown level and a missing provider are no verdict."""
    bench = text_bench(CHAIN, {"x": X}, np.ones((3, 4), np.float32), allowed=1e-6)
    bundle = bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench))
    without = {name: content for name, content in bundle.items() if name != "inputs.npz"}
    elsewhere = bundle["repro.py"].replace(b"CPUExecutionProvider", b"MoonExecutionProvider")
    for number, (broken, words) in enumerate(
        [
            (without, "inputs.npz"),
            ({**bundle, "segment.onnx": b"no model"}, "cannot run"),
            ({**bundle, "repro.py": elsewhere}, "no execution provider MoonExecutionProvider"),
        ]
    ):
        done = run_script(written(broken, tmp_path / str(number)))
        assert done.returncode == 2
        assert words in done.stderr
    assert run_script(written(bundle, tmp_path / "whole"), "--optimization", "much").returncode == 2


@pytest.mark.parametrize("tap", HOSTILE)
def test_hostile_names_stay_text(tap: str, tmp_path: Path) -> None:
    """In script and issue a name is a string and nothing else: the script runs and shows it."""
    bench = text_bench(CHAIN, {"x": X}, np.ones((3, 4), np.float32), allowed=1e-6, tap=tap)
    accused = culprit(tap, "exporter", source="a.py:1", source_line=tap)
    bundle = bundle_of(make_bundle(accused, bench))
    compile(bundle["repro.py"], "repro.py", "exec")
    assert f"PLACE = {tap!a}  #".encode() in bundle["repro.py"]
    issue = bundle["issue.md"].decode()
    assert "\n# title" not in issue
    outside = re.sub(r"(?ms)^(`{3,})\n.*?^\1$", "", issue)  # what is not inside a code block
    assert "script" not in outside.replace("repro.py", "")
    if tap in HOSTILE[:1] + HOSTILE[5:7]:  # a process each: some of them
        done = run_script(written(bundle, tmp_path / "bundle"))
        assert done.returncode == 1, done.stderr


def test_the_issue_tells_all() -> None:
    """Title, difference, place, nodes with attributes, how to run it, experiments and versions."""
    text = (
        "g (float[1, 1, 4] x) => (float[1, 1, 2] y) { y = MaxPool <kernel_shape = [2], strides = [2]> (x) }"
    )
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4)
    bench = text_bench(text, {"x": x}, np.array([[[1.0, 3.25]]], np.float32), allowed=1e-6)
    accused = culprit(bench.tap, "exporter", source="net.py:7", source_line="y = pool(x)")
    bundle = bundle_of(make_bundle(accused, bench))
    issue = bundle["issue.md"].decode()
    assert issue.startswith("# MaxPool: the exported graph computes something else than PyTorch\n")
    for words in (
        "off by at most 0.25 (3 instead of 3.25 at [0, 0, 1])",
        "net.py:7: y = pool(x)",
        "kernel_shape = [2]",
        "strides = [2]",
        'input       "x" float32[1, 1, 4]',
        "python repro.py",
        "ai.onnx 20",
        f"onnxruntime {json.loads(bundle['versions.json'])['onnxruntime']}",
    ):
        assert words in issue


# ---------------------------------------------------------------- saving


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ReportData:
    """A report with two bundles whose culprits point at them."""
    monkeypatch.setattr(files, "render_plots", lambda report: {"error_by_layer.png": b"x"})
    monkeypatch.setattr(files, "render_html", lambda report: "page")
    sample = sample_report(12)
    culprits = [
        replace(sample.culprits[0], tap=tap, repro=f"repro/{bundle_name(tap)}") for tap in ("../../x", "con")
    ]
    bundles = {one.repro: dict.fromkeys(sorted(BUNDLE_FILES), b"first") for one in culprits if one.repro}
    return replace(sample, culprits=culprits, bundles=bundles)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_of_a_bundle_is_known_to_the_writer() -> None:
    """The two lists of file names are one."""
    bench = text_bench(CHAIN, {"x": X}, np.ones((3, 4), np.float32), allowed=1e-6)
    assert bundle_of(make_bundle(culprit(bench.tap, "exporter"), bench)).keys() == BUNDLE_FILES


def test_bundles_are_saved_where_the_report_points(report: ReportData, tmp_path: Path) -> None:
    """report.json names a folder that holds the bundle; nothing lies outside the report's folder."""
    folder = save_report(report, tmp_path / "a" / "report")
    named = [item["repro"] for item in json.loads((folder / "report.json").read_text())["culprits"]]
    assert len(set(named)) == 2
    for name in named:
        assert tree(folder / name) == dict.fromkeys(BUNDLE_FILES, b"first")
    assert all(path.startswith("a/report/") for path in tree(tmp_path))


def test_force_replaces_bundles_that_are_ours(report: ReportData, tmp_path: Path) -> None:
    """Of an older report's bundles those that are gone go, their folders too; a user's file stays."""
    save_report(report, tmp_path)
    kept, gone = report.bundles
    (tmp_path / gone / "notes.txt").write_text("mine")
    (tmp_path / "repro" / "my-own").mkdir()
    (tmp_path / "repro" / "my-own" / "repro.py").write_text("mine")
    newer = replace(report, culprits=report.culprits[:1], bundles={kept: {"repro.py": b"second"}})
    save_report(newer, tmp_path, force=True)
    assert tree(tmp_path / "repro") == {
        f"{Path(kept).name}/repro.py": b"second",
        f"{Path(gone).name}/notes.txt": b"mine",
        "my-own/repro.py": b"mine",
    }
    (tmp_path / gone / "notes.txt").unlink()
    save_report(report, tmp_path, force=True)
    save_report(replace(report, culprits=(), bundles={}), tmp_path, force=True)
    assert tree(tmp_path / "repro") == {"my-own/repro.py": b"mine"}
    assert not (tmp_path / gone).exists()


def test_a_loaded_report_keeps_the_bundles_it_points_at(report: ReportData, tmp_path: Path) -> None:
    """Saving a report again that was read from its folder does not take its bundles away."""
    save_report(report, tmp_path)
    save_report(files.load_report(tmp_path), tmp_path, force=True)
    assert tree(tmp_path / next(iter(report.bundles))) == dict.fromkeys(BUNDLE_FILES, b"first")


@pytest.mark.parametrize("folder", ["../x", "repro/../x", "repro/", "x", "/repro/x", "repro/a/b", "repro/.."])
def test_a_bundle_elsewhere_is_refused(report: ReportData, tmp_path: Path, folder: str) -> None:
    """A folder outside repro/ is one clear error before anything is written."""
    with pytest.raises(files.ReportError, match="no name for a repro bundle"):
        save_report(replace(report, bundles={folder: {"repro.py": b""}}), tmp_path / "out")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["../repro.py", "a/repro.py", "index.html", ""])
def test_a_foreign_file_in_a_bundle_is_refused(report: ReportData, tmp_path: Path, name: str) -> None:
    """Only the files that a bundle has are written into one."""
    with pytest.raises(files.ReportError, match="no file of a repro bundle"):
        save_report(replace(report, bundles={"repro/x": {name: b""}}), tmp_path / "out")
    assert tree(tmp_path) == {}


def test_a_manipulated_report_removes_nothing_elsewhere(report: ReportData, tmp_path: Path) -> None:
    """An older report.json may say anything: only bundles inside repro/ are taken away."""
    folder = save_report(report, tmp_path / "out")
    (tmp_path / "repro.py").write_text("mine")
    (folder / "repro.py").write_text("mine")
    culprits = [replace(report.culprits[0], repro=path) for path in ("..", "repro/../..", "repro/..", ".")]
    (folder / "report.json").write_text(report_to_json(replace(report, culprits=culprits)))
    save_report(replace(report, culprits=(), bundles={}), folder, force=True)
    assert (tmp_path / "repro.py").read_text() == "mine"
    assert (folder / "repro.py").read_text() == "mine"


@pytest.mark.parametrize("place", ["repro", "bundle"])
@pytest.mark.parametrize("kind", ["link", "file"])
def test_links_and_files_in_the_way_are_refused(
    report: ReportData, tmp_path: Path, place: str, kind: str
) -> None:
    """A link could lead anywhere, and a file is not ours: neither is written through or removed."""
    mine = tmp_path / "mine"
    mine.mkdir()
    folder = tmp_path / "out"
    at = folder / ("repro" if place == "repro" else next(iter(report.bundles)))
    at.parent.mkdir(parents=True)
    if kind == "link":
        at.symlink_to(mine, target_is_directory=True)
    else:
        at.write_text("mine")
    with pytest.raises(files.ReportError, match="is in the way"):
        save_report(report, folder, force=True)
    assert list(mine.iterdir()) == []
    assert not (folder / "report.json").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_write_leaves_nothing(
    report: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, exists: bool
) -> None:
    """Neither temporary files nor folders made for bundles stay; what was there does."""
    folder = tmp_path / "out"
    if exists:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")

    def failing(source: object, target: object) -> None:
        raise error

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises((files.ReportError, KeyboardInterrupt)):
        save_report(report, folder, force=True)
    assert [path.name for path in tmp_path.rglob("*")] == (["out", "notes.txt"] if exists else [])
