"""Every backend: one way to open a model, outputs by name, and one clear line for whatever goes wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from alignkit.backends import (
    BACKENDS,
    Backend,
    FunctionBackend,
    KernelError,
    OnnxRuntime,
    onnxruntime,
    resolve_backend,
)
from alignkit.backends.openvino import OpenVino
from alignkit.errors import AlignkitError, BackendError, InputError, OnnxFileError
from alignkit.memory import Buffers
from alignkit.records import Array

HEADER = '<ir_version: 8, opset_import: ["" : 18, "x.y" : 1]>'
X = np.array([[1.0, -2.0]], np.float32)


def parse(text: str) -> onnx.ModelProto:
    return parser.parse_model(HEADER + text)


def model(text: str) -> bytes:
    return bytes(parse(text).SerializeToString())


def load_in_ort(given: bytes | Path) -> Callable[[Mapping[str, Array]], Mapping[str, Array]]:
    """A runtime of the user's own."""
    session = ort.InferenceSession(given if isinstance(given, bytes) else str(given))
    names = [value.name for value in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))


EVERY = {
    "ort": "ort",
    "ort:cpu": "ort:cpu",
    "reference": "reference",
    "openvino": "openvino",
    "function": load_in_ort,
}
OTHERS = ["reference", "openvino"]
TWO = "g (float[N, 2] x) => (float[N, 2] y, float[N] s) { y = Neg(x) s = ReduceSum<keepdims = 0>(y, one) }"


def two() -> onnx.ModelProto:
    found = parse(TWO)
    found.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    return found


@pytest.fixture(params=EVERY)
def backend(request: pytest.FixtureRequest) -> Backend:
    return resolve_backend(EVERY[request.param])


def test_outputs_come_by_name_in_the_graphs_order(backend: Backend) -> None:
    """Whatever the order in which a runtime holds them; feeds that the graph lacks are left out."""
    session = backend.open(two().SerializeToString())
    found = session.run({"unknown": X, "x": X})
    assert {name: value.tolist() for name, value in found.items()} == {"y": [[-1.0, 2.0]], "s": [1.0]}
    assert list(found) == ["y", "s"]
    assert list(session.run({"x": X}, ["s"])) == ["s"]
    assert session.run({"x": np.concatenate([X, X])})["s"].tolist() == [1.0, 1.0]  # another size


def test_a_run_into_buffers_gives_the_same(backend: Backend) -> None:
    """Where a backend cannot write to them it gives memory of its own."""
    session = backend.open(two().SerializeToString())
    found = session.run_into(Buffers(), {"x": X}, {"y": X.shape})
    assert found["y"].tolist() == [[-1.0, 2.0]]
    assert found["s"].tolist() == [1.0]


def test_weights_outside_the_file_are_found(backend: Backend, tmp_path: Path) -> None:
    """Beside a file, and in the folder that is named with serialised bytes."""
    weight = np.arange(4096, dtype=np.float32)
    whole = parse("g (float[4096] x) => (float[4096] y) { y = Add(x, w) }")
    whole.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "model.onnx"
    onnx.save(whole, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    zeros = np.zeros(4096, np.float32)
    for session in (backend.open(path), backend.open(path.read_bytes(), path.parent)):
        assert np.array_equal(session.run({"x": zeros})["y"], weight)
    (path.parent / "weights.bin").unlink()
    with pytest.raises(AlignkitError):
        backend.open(path.read_bytes(), path.parent)


def test_weights_too_large_for_a_message_lie_beside_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a runtime is given a path; it can read the weights as long as the session lives."""
    monkeypatch.setattr("alignkit.backends.graph._MOST_INLINED", 0)
    whole = parse("g (float[2] x) => (float[2] y) { y = Add(x, w) }")
    whole.graph.initializer.append(numpy_helper.from_array(np.array([1, 2], np.float32), "w"))
    path = tmp_path / "model.onnx"
    (tmp_path / "deep").mkdir()
    onnx.save(whole, path, save_as_external_data=True, location="deep/w.bin", size_threshold=0)
    given: list[object] = []

    def load(found: bytes | Path) -> Any:
        given.append(found)
        return load_in_ort(found)

    for backend in (OpenVino(), FunctionBackend(load, "load")):
        session = backend.open(path.read_bytes(), tmp_path)
        assert session.run({"x": np.zeros(2, np.float32)})["y"].tolist() == [1, 2]
    assert isinstance(given[0], Path)
    (tmp_path / "deep" / "w.bin").unlink()
    with pytest.raises(OnnxFileError, match=r"w\.bin"):
        OpenVino().open(path.read_bytes(), tmp_path)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("double", np.array([1.5]), np.array([-1.5])),
        ("float16", np.array([1.5], np.float16), np.array([-1.5], np.float16)),
        ("float", np.array([1.5]), np.array([-1.5], np.float32)),
        ("int64", np.array([3]), np.array([-3])),
        ("int32", np.array([3]), np.array([-3], np.int32)),
        ("int8", np.array([3], np.int8), np.array([-3], np.int8)),
    ],
)
def test_feeds_are_cast_to_what_the_graph_declares(
    backend: Backend, kind: str, value: Array, expected: Array
) -> None:
    """The result has the graph's type."""
    found = backend.open(model(f"g ({kind}[1] x) => ({kind}[1] y) {{ y = Neg(x) }}")).run({"x": value})["y"]
    assert found.dtype == expected.dtype
    assert np.array_equal(found, expected)


def test_bfloat16_keeps_its_bits() -> None:
    """No runtime's stand-in for it in numpy is shown as numbers."""
    graph = model("g (bfloat16[2] x) => (bfloat16[2] y, bool[2] b) { y = Identity(x) b = Cast<to = 9>(x) }")
    value = np.array([1.5, 0.0], ml_dtypes.bfloat16)
    for name in OTHERS:
        found = resolve_backend(name).open(graph).run({"x": value})
        assert found["y"].dtype == ml_dtypes.bfloat16
        assert found["y"].tolist() == [1.5, 0.0]
        assert found["b"].tolist() == [True, False]


def test_a_missing_feed_is_named(backend: Backend) -> None:
    """An input that was not given is an input error, on every backend the same."""
    with pytest.raises(InputError, match="'x'"):
        backend.open(two().SerializeToString()).run({})


@pytest.mark.parametrize("content", [b"", b"no onnx"])
def test_what_is_no_model_is_a_backend_error(backend: Backend, content: bytes, tmp_path: Path) -> None:
    """From bytes and from a file, in one line."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for given in (content, path):
        with pytest.raises(BackendError) as caught:
            backend.open(given)
        assert "\n" not in str(caught.value)


def refused(name: str, graph: bytes, feeds: Mapping[str, Array] | None = None) -> KernelError:
    with pytest.raises(KernelError) as caught:
        resolve_backend(name).open(graph).run(feeds or {"x": np.ones((2, 2), np.float32)})
    assert "\n" not in str(caught.value)
    return caught.value


def test_an_operator_without_a_kernel_is_named() -> None:
    """By operator and node, so that the rest can be compared without it; it accuses nobody."""
    unknown = model("g (float[2, 2] x) => (float[2, 2] z) { y = Neg(x) [the_node] z = x.y.Odd(y) }")
    for name in ("ort", *OTHERS):
        error = refused(name, unknown)
        assert error.op == "x.y::Odd"
        assert (error.while_running, error.conclusive) == (False, False)
    lacking = refused("openvino", model("g (float[2, 2] x) => (float d) { y = Neg(x) [n] d = Det(y) }"))
    assert (lacking.op, lacking.node) == ("Det", "n")
    assert "OpenVINO" in str(lacking)


def test_a_node_that_fails_on_its_values_is_named() -> None:
    """A runtime's failure speaks against the file, the evaluator's own may be a bug of its own."""
    graph = model(
        "g (float[N, M] x, int64[K] s) => (float[A, B] z) { y = Neg(x) [the_reshape] z = Reshape(y, s) }"
    )
    feeds = {"x": np.ones((3, 1), np.float32), "s": np.array([2, 2])}
    for name, conclusive in (("ort", True), ("openvino", True), ("reference", False)):
        error = refused(name, graph, feeds)
        assert (error.op, error.node, error.while_running) == ("Reshape", "the_reshape", True), name
        assert error.conclusive is conclusive, name


def test_openvino_computes_in_float32_unless_told_otherwise() -> None:
    """Its own default, where the machine has it, is a narrower type."""
    assert OpenVino().describe()["options"] == {"INFERENCE_PRECISION_HINT": "f32"}
    told = OpenVino(options={"PERFORMANCE_HINT": "LATENCY"}, threads=1)
    assert told.open(two().SerializeToString()).run({"x": X})["s"].tolist() == [1.0]
    assert told.describe()["options"] == {"PERFORMANCE_HINT": "LATENCY"}


def test_openvino_knows_which_devices_there_are() -> None:
    """One line with the choices."""
    with pytest.raises(BackendError, match=r"no device 'ROCKET' here; available: .*CPU"):
        resolve_backend("openvino:rocket").open(two().SerializeToString())


def test_openvino_needs_no_rank_in_the_file(tmp_path: Path) -> None:
    """Neither in a part of a graph nor in a file: what it is fed tells."""
    graph = two()
    graph.graph.input[0].type.tensor_type.ClearField("shape")
    path = tmp_path / "model.onnx"
    onnx.save(graph, path)
    for given in (path, path.read_bytes()):
        assert OpenVino().open(given).run({"x": X})["y"].tolist() == [[-1.0, 2.0]]


def test_openvino_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it; and the list of backends says so."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendError, match=r"pip install 'alignkit\[openvino\]'"):
        resolve_backend("openvino")
    with pytest.raises(BackendError, match=r"openvino \(not installed\)"):
        resolve_backend("opnvino")


def test_openvino_is_loaded_when_it_opens_a_model() -> None:
    """Not before: an export may fork, and threads do not survive that."""
    code = (
        "import sys, alignkit.backends as b; b.resolve_backend('openvino'); "
        "sys.exit('openvino' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", BACKENDS)
def test_every_name_in_the_table_is_a_backend(name: str) -> None:
    """Its name is the one it was asked by."""
    found = resolve_backend(name)
    assert isinstance(found, Backend)
    assert found.name == name
    assert isinstance(found.describe(), Mapping)
    assert resolve_backend(found) is found


def test_an_unknown_name_lists_what_is_known() -> None:
    """Each backend, with the providers that are installed."""
    with pytest.raises(BackendError, match="'teapot'") as caught:
        resolve_backend("teapot")
    for name in (*BACKENDS, "ort:cpu"):
        assert name in str(caught.value)
    with pytest.raises(BackendError, match="int is no backend"):
        resolve_backend(3)
    with pytest.raises(BackendError, match="behind a colon"):
        resolve_backend("reference:fast")


def test_a_provider_is_part_of_the_name() -> None:
    """``ort:cpu`` keeps the other settings; an unknown one lists what is installed."""
    found = resolve_backend("ort:cpu", OnnxRuntime(optimization="basic", threads=1))
    assert isinstance(found, OnnxRuntime)
    assert (found.name, found.optimization, found.threads) == ("ort:cpu", "basic", 1)
    assert found.providers == ("CPUExecutionProvider",)
    with pytest.raises(BackendError, match=r"available: .*CPUExecutionProvider"):
        resolve_backend("ort:rocket")


def test_a_provider_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime itself would quietly go on with another one."""

    class Fallen(ort.InferenceSession):  # type: ignore[misc]
        def get_providers(self) -> list[str]:
            return ["OtherExecutionProvider"]

    monkeypatch.setattr(onnxruntime.ort, "InferenceSession", Fallen)
    with pytest.raises(BackendError, match="CPUExecutionProvider did not start"):
        OnnxRuntime().open(two().SerializeToString())


def _raises(given: bytes | Path) -> Any:
    raise ValueError("no licence\nfor this model")


def _exits(given: bytes | Path) -> Any:
    sys.exit("gone")


def _runs_badly(given: bytes | Path) -> Any:
    def run(feeds: Mapping[str, Array]) -> Any:
        raise RuntimeError("out of memory")

    return run


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (_raises, "_raises could not load the model: ValueError: no licence for this model"),
        (_exits, "_exits could not load the model: SystemExit: gone"),
        (lambda given: None, "returned NoneType, not a callable"),
        (_runs_badly, "_runs_badly could not run the model: RuntimeError: out of memory"),
        (lambda given: lambda feeds: [1], "returned list, not a mapping"),
        (lambda given: lambda feeds: {"z": X}, "returned no output 'y'; it returned 'z'"),
    ],
)
def test_a_callable_that_fails_is_named_in_one_line(load: Any, message: str) -> None:
    """With what it raised or returned."""
    with pytest.raises(BackendError) as caught:
        resolve_backend(load).open(two().SerializeToString()).run({"x": X})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_callable_may_tell_of_a_missing_kernel() -> None:
    """By the exception that the other backends use: then the rest is compared without that operator."""

    def load(given: bytes | Path) -> Any:
        raise KernelError("no Neg here", "Neg", "", while_running=False)

    with pytest.raises(KernelError, match="no Neg here"):
        resolve_backend(load).open(two().SerializeToString())


def test_a_callable_is_given_the_deployed_file_as_it_is(tmp_path: Path) -> None:
    """Its path, not its bytes: the runtime may look for more beside it."""
    path = tmp_path / "model.onnx"
    onnx.save(two(), path)
    given: list[bytes | Path] = []

    def load(found: bytes | Path) -> Any:
        given.append(found)
        return load_in_ort(found)

    resolve_backend(load).open(path)
    assert given == [path]
