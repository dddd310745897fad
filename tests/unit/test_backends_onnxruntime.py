"""ONNX Runtime: outputs by name, with one clear error for whatever it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from alignkit.backends import KernelError
from alignkit.backends.binding import cast_to
from alignkit.backends.onnxruntime import (
    LEVELS,
    OnnxRuntime,
    Session,
    available_providers,
    resolve_providers,
)
from alignkit.errors import AlignkitError, BackendError, InputError

FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"


def model(text: str) -> bytes:
    header = '<ir_version: 10, opset_import: ["" : 18, "x.y" : 1]>'
    return bytes(parser.parse_model(header + text).SerializeToString())


ADD = model(
    "g (float[2] a, float[2] b) => (float[2] total, float[2] twice) { total = Add(a, b) twice = Add(b, b) }"
)
A, B = np.array([1, 2], np.float32), np.array([10, 20], np.float32)


def test_outputs_come_by_name() -> None:
    """Every output under its own name, however the feeds are ordered."""
    session = Session(ADD, OnnxRuntime())
    values = session.run({"b": B, "a": A})
    assert {name: value.tolist() for name, value in values.items()} == {"total": [11, 22], "twice": [20, 40]}
    assert session.inputs == {"a": "tensor(float)", "b": "tensor(float)"}
    assert session.outputs == ["total", "twice"]


def test_only_wanted_outputs_are_fetched() -> None:
    """Names may be given."""
    assert list(Session(ADD, OnnxRuntime()).run({"a": A, "b": B}, ["twice"])) == ["twice"]


def test_feeds_that_the_graph_does_not_know_are_left_out() -> None:
    """A lost input must not fail the run."""
    assert Session(ADD, OnnxRuntime()).run({"a": A, "b": B, "c": B})["total"].tolist() == [11, 22]


def test_a_missing_feed_is_named() -> None:
    """An input that was not given is an input error."""
    with pytest.raises(InputError, match="'b'"):
        Session(ADD, OnnxRuntime()).run({"a": A})


def test_a_feed_of_the_wrong_rank_is_one_clear_line() -> None:
    """The runtime's own refusal, translated."""
    with pytest.raises(AlignkitError) as caught:
        Session(ADD, OnnxRuntime()).run({"a": A.reshape(1, 2), "b": B})
    assert "\n" not in str(caught.value)
    assert "a" in str(caught.value)


@pytest.mark.parametrize("level", LEVELS)
def test_every_optimisation_level_runs(level: str) -> None:
    """The level that the product runs at."""
    assert Session(ADD, OnnxRuntime(optimization=level)).run({"a": A, "b": B})["total"].tolist() == [11, 22]


def test_an_unknown_level_lists_what_is_known() -> None:
    """One line with the choices."""
    with pytest.raises(BackendError, match=r"'99'.*disable, basic, extended, all"):
        Session(ADD, OnnxRuntime(optimization="99"))


def test_threads_and_disabled_optimizers_are_accepted() -> None:
    """Names of transformers, as the verbose log of the runtime gives them."""
    settings = OnnxRuntime(threads=1, disabled_optimizers=("ConstantFolding", "MatMulAddFusion"))
    assert Session(ADD, settings).run({"a": A, "b": B})["total"].tolist() == [11, 22]


def test_a_disabled_optimizer_really_stays_off(tmp_path: Path) -> None:
    """The optimised graph that the runtime saves keeps the nodes that the optimiser would fuse."""
    text = "g (float[2,2] x, float[2,2] w, float[2] b) => (float[2,2] y) { m = MatMul(x, w) y = Add(m, b) }"
    found = {}
    for name, disabled in (("on", ()), ("off", ("MatMulAddFusion",))):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        Session(model(text), OnnxRuntime(session_options=options, disabled_optimizers=disabled))
        found[name] = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert found == {"on": ["Gemm"], "off": ["MatMul", "Add"]}


def test_the_users_session_options_are_used_and_left_alone(tmp_path: Path) -> None:
    """What one session needs must not stay in options that the user goes on using."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    Session(ADD, OnnxRuntime(session_options=options, threads=2), folder=tmp_path)
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert options.intra_op_num_threads == 1
    try:
        folder = options.get_session_config_entry(FOLDER_ENTRY)
    except RuntimeError:  # how the runtime says that there is no such entry
        folder = ""
    assert folder == ""


def with_external_weight(folder: Path, value: float) -> Path:
    """A model ``y = x + w`` whose w lies in ``weights.bin`` beside it."""
    folder.mkdir()
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (float[1024] x) => (float[1024] y) { y = Add(x, w) }'
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.full(1024, value, np.float32), "w"))
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_weights_beside_the_file_are_found_for_bytes_too(tmp_path: Path) -> None:
    """A probe is bytes; its weights stay beside the file that it was cut from."""
    path = with_external_weight(tmp_path / "a", 3.0)
    proto = onnx.load(path, load_external_data=False)
    x = np.zeros(1024, np.float32)
    assert Session(proto.SerializeToString(), OnnxRuntime(), path.parent).run({"x": x})["y"][0] == 3.0
    assert Session(path, OnnxRuntime()).run({"x": x})["y"][0] == 3.0


def test_two_files_with_the_users_options_keep_their_own_weights(tmp_path: Path) -> None:
    """The probe's folder must not be where the deployed file then finds its weights."""
    marked, deployed = with_external_weight(tmp_path / "a", 3.0), with_external_weight(tmp_path / "b", 5.0)
    settings = OnnxRuntime(session_options=ort.SessionOptions())
    x = np.zeros(1024, np.float32)
    proto = onnx.load(marked, load_external_data=False)
    assert Session(proto.SerializeToString(), settings, marked.parent).run({"x": x})["y"][0] == 3.0
    assert Session(deployed, settings).run({"x": x})["y"][0] == 5.0


def test_an_operator_without_kernel_is_named() -> None:
    """So that the caller can go on without it."""
    with pytest.raises(KernelError, match=r"x\.y::Nothing") as caught:
        Session(model("g (float[2] a) => (float[2] y) { y = x.y.Nothing(a) }"), OnnxRuntime())
    assert caught.value.op == "x.y::Nothing"
    assert not caught.value.while_running


def test_a_kernel_missing_for_a_type_is_named() -> None:
    """ONNX allows the type, this runtime has no kernel for it."""
    proto = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 18]> g (uint16[2] a, uint16[2] b) => (uint16[2] y)'
        ' { y = Mod(a, b) z = BitShift <direction: string = "LEFT"> (a, b) }'
    )
    proto.graph.node[1].name = "the shift"
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.UINT16, [2]))
    with pytest.raises(KernelError, match="BitShift") as caught:
        Session(proto.SerializeToString(), OnnxRuntime())
    assert (caught.value.op, caught.value.node) == ("BitShift", "the shift")


def test_a_node_that_fails_on_its_values_is_named() -> None:
    """Told apart from an operator without kernel: other nodes of the type are sound."""
    proto = onnx.load_from_string(
        model("g (float[2] a, int64[1] shape) => (float[n] y) { y = Reshape(a, shape) }")
    )
    proto.graph.node[0].name = "the reshape"
    session = Session(proto.SerializeToString(), OnnxRuntime())
    with pytest.raises(KernelError, match="the reshape") as caught:
        session.run({"a": A, "shape": np.array([7])})
    assert caught.value.while_running
    assert caught.value.node == "the reshape"


@pytest.mark.parametrize("content", [b"", b"no onnx"])
def test_what_is_no_model_is_a_backend_error(content: bytes, tmp_path: Path) -> None:
    """From bytes and from a file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for given in (content, path):
        with pytest.raises(BackendError):
            Session(given, OnnxRuntime())


def test_every_runtime_error_is_translated() -> None:
    """No exception of the runtime's own leaves this module."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    from alignkit.backends import onnxruntime as run

    own = {c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception)}
    assert own
    assert own == set(run._RUNTIME_ERRORS)


def test_a_failure_has_one_line_without_the_runtimes_source_locations() -> None:
    """What, not where in somebody's C++."""
    with pytest.raises(BackendError) as caught:
        Session(model("g (float[2] a) => (float[2] y) { y = Add(a, missing) }"), OnnxRuntime())
    assert "\n" not in str(caught.value)
    assert ".cc:" not in str(caught.value)


def test_providers_by_full_name_by_short_form_and_with_options() -> None:
    """``cpu`` and ``CPUExecutionProvider`` are one; options travel along."""
    full = "CPUExecutionProvider"
    assert full in available_providers()
    assert resolve_providers(["cpu"]) == resolve_providers([full]) == resolve_providers(["CPU"]) == (full,)
    assert resolve_providers([("cpu", {"a": "1"})]) == ((full, {"a": "1"}),)


def test_an_unknown_provider_lists_what_is_installed() -> None:
    """One line with the choices."""
    with pytest.raises(BackendError, match=r"'Teapot'.*available: .*CPUExecutionProvider"):
        resolve_providers(["Teapot"])


def test_a_custom_op_library_that_is_not_there_is_a_backend_error(tmp_path: Path) -> None:
    """With the path in it."""
    with pytest.raises(BackendError, match=r"nowhere.so"):
        Session(ADD, OnnxRuntime(custom_op_libraries=(str(tmp_path / "nowhere.so"),)))


def test_an_array_of_the_right_type_is_not_copied() -> None:
    """Cast only where the graph's type demands it."""
    assert cast_to(A, "tensor(float)", "a") is A
    assert cast_to(np.array(3, np.int64), "tensor(int64)", "a").shape == ()


@pytest.mark.parametrize(
    ("value", "kind", "dtype"),
    [
        (A, "tensor(float16)", np.float16),
        (A.astype(np.float64), "tensor(float)", np.float32),
        (A.astype(ml_dtypes.bfloat16), "tensor(float)", np.float32),
        (np.array([1, 2]), "tensor(int32)", np.int32),
        (np.array([1, 2]), "tensor(float)", np.float32),
        (np.array([True]), "tensor(float)", np.float32),
    ],
)
def test_an_array_is_cast_to_the_graphs_type(value: Any, kind: str, dtype: Any) -> None:
    """A file converted to float16 takes float16, values unchanged as far as the type holds them."""
    found = cast_to(value, kind, "a")
    assert found.dtype == dtype
    assert found.astype(np.float64).tolist() == value.astype(np.float64).tolist()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.array([1.5], np.float32), "tensor(int64)"),
        (np.array([-1]), "tensor(uint8)"),
        (np.array([2**40]), "tensor(int32)"),
        (np.array([2]), "tensor(bool)"),
        (np.array([np.nan]), "tensor(int64)"),
        (np.array([1 + 2j]), "tensor(float)"),
        (A, "seq(tensor(float))"),
    ],
)
def test_a_cast_that_would_change_values_is_refused(value: Any, kind: str) -> None:
    """Wrapped or truncated integers would be blamed on the model; the input is named instead."""
    with pytest.raises(InputError, match="'a'"):
        cast_to(value, kind, "a")


def test_bfloat16_inputs_and_outputs_travel() -> None:
    """numpy has no bfloat16: a deployed bfloat16 file is fed and read all the same."""
    session = Session(model("g (bfloat16[2] a) => (bfloat16[2] y) { y = Identity(a) }"), OnnxRuntime())
    found = session.run({"a": A.astype(ml_dtypes.bfloat16)})["y"]
    assert np.asarray(found).dtype == ml_dtypes.bfloat16
    assert found.astype(np.float32).tolist() == [1, 2]


def test_a_rowmajor_copy_is_fed_of_a_strided_array() -> None:
    """A transposed view is bound by its values."""
    session = Session(model("g (float[2,3] a) => (float[2,3] y) { y = Identity(a) }"), OnnxRuntime())
    value = np.arange(6, dtype=np.float32).reshape(3, 2).T
    assert session.run({"a": value})["y"].tolist() == value.tolist()
