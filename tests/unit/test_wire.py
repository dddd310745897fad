"""An ONNX file without its weights: nothing of it is lost, and what is no such file is told as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from alignkit.errors import OnnxFileError
from alignkit.graph import load_without_weights
from alignkit.records import Array
from alignkit.wire import read_without_weights
from tests import zoo
from tests.zoo.plain import quiet_exporter

LARGE = (130, 130)  # float32: 66 KiB, above the 64 KiB that are left in the file


def array(*shape: int, dtype: str = "float32") -> Array:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def model_of(*tensors: TensorProto) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        tensors,
        doc_string="a graph",
    )
    model = helper.make_model(graph, producer_name="a test", opset_imports=[helper.make_opsetid("", 17)])
    model.metadata_props.add(key="who", value="me")
    return model


def written(folder: Path, model: ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def as_floats(name: str, value: Array) -> TensorProto:
    """Weights as numbers of the message's own, not as bytes."""
    return helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.ravel().tolist())


def test_large_weights_stay_in_the_file_and_all_else_is_read(tmp_path: Path) -> None:
    """With the data put back the message is the one that onnx reads, field by field."""
    tensors = (
        numpy_helper.from_array(array(*LARGE), "large"),
        numpy_helper.from_array(array(3), "small"),
        numpy_helper.from_array(array(*LARGE, dtype="float16"), "half"),  # 33 KiB
        as_floats("numbers", array(*LARGE)),
    )
    path = written(tmp_path, model_of(*tensors))
    found = read_without_weights(path)
    outside = {t.name for t in found.graph.initializer if t.data_location == TensorProto.EXTERNAL}
    assert outside == {"large"}
    assert len(found.SerializeToString()) < path.stat().st_size - array(*LARGE).nbytes + 200
    onnx.load_external_data_for_model(found, str(tmp_path))
    for tensor in found.graph.initializer:
        tensor.ClearField("data_location")  # onnx writes the default down
    assert found == onnx.load(path)


def test_weights_that_lie_outside_are_left_where_they_are(tmp_path: Path) -> None:
    """Their place is what the file says, whatever its name."""
    model = model_of(numpy_helper.from_array(array(*LARGE), "w"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = read_without_weights(path)
    assert found == onnx.load(path, load_external_data=False)
    assert next(iter(found.graph.initializer[0].external_data)).value == "w.bin"


def test_an_exported_file_reads_as_onnx_reads_it(tmp_path: Path) -> None:
    """A real architecture: the same message once the data are back, and every weight bit for bit."""
    built, path = zoo.resolve("resnet18").build(), tmp_path / "model.onnx"
    with quiet_exporter():
        torch.onnx.export(built.model, built.args, str(path), kwargs=dict(built.kwargs), dynamo=False)
    whole, found = onnx.load(path), load_without_weights(path)
    named = {tensor.name: tensor for tensor in whole.graph.initializer}
    outside = [t for t in found.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert len(outside) > 10
    for tensor in outside:
        np.testing.assert_array_equal(
            numpy_helper.to_array(tensor, str(tmp_path)),
            numpy_helper.to_array(named[tensor.name]),
            strict=True,
        )
    onnx.load_external_data_for_model(found, str(tmp_path))
    for tensor in found.graph.initializer:
        tensor.ClearField("data_location")
    assert found == whole


def test_an_empty_file_is_an_empty_message(tmp_path: Path) -> None:
    """As onnx reads it; that it holds no graph is said by who asks for one."""
    path = tmp_path / "empty.onnx"
    path.write_bytes(b"")
    assert read_without_weights(path) == ModelProto()
    with pytest.raises(OnnxFileError, match="holds no graph"):
        load_without_weights(path)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.97, 0.9999])
def test_a_truncated_file_is_told_as_one(share: float, tmp_path: Path) -> None:
    """Wherever it was cut off: in a weight, before it, or in what follows."""
    path = written(tmp_path, model_of(numpy_helper.from_array(array(*LARGE), "w"), as_floats("v", array(9))))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(OnnxFileError, match="is not an ONNX model, or it is truncated") as caught:
        load_without_weights(path)
    assert "Export it again" in str(caught.value)


def test_of_several_data_of_one_weight_the_last_ones_count(tmp_path: Path) -> None:
    """So says the format, and so does every other reader."""
    large, small = array(*LARGE).tobytes(), array(2).tobytes()
    for first, last in ((large, small), (small, large)):
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[len(last) // 4])
        doubled = (
            b"".join(TensorProto(raw_data=data).SerializeToString() for data in (first, last))
            + tensor.SerializeToString()
        )
        graph = b"\x2a" + _varint(len(doubled)) + doubled  # an initializer: field 5
        path = tmp_path / "model.onnx"
        path.write_bytes(b"\x3a" + _varint(len(graph)) + graph)  # the graph: field 7
        (found,) = read_without_weights(path).graph.initializer
        (known,) = onnx.load(path, load_external_data=False).graph.initializer
        if found.data_location == TensorProto.EXTERNAL:
            value = numpy_helper.to_array(found, str(tmp_path))
        else:
            value = numpy_helper.to_array(found)
        np.testing.assert_array_equal(value, numpy_helper.to_array(known))


def _varint(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F)
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


def test_a_weight_whose_data_are_shorter_than_its_shape_is_damaged(tmp_path: Path) -> None:
    """Read by its shape alone it would go on into what follows it in the file."""
    tensor = numpy_helper.from_array(array(*LARGE), "w")
    tensor.raw_data = tensor.raw_data[:-8]
    path = written(tmp_path, model_of(tensor, numpy_helper.from_array(array(*LARGE), "behind")))
    with pytest.raises(OnnxFileError, match="its weight 'w' is not stored as its shape and its type say"):
        load_without_weights(path)


@pytest.mark.parametrize(
    ("entries", "data_type"),
    [
        ({"offset": "0"}, TensorProto.FLOAT),
        ({"location": "w.bin", "offset": "many"}, TensorProto.FLOAT),
        ({"location": "w.bin", "offset": "-4"}, TensorProto.FLOAT),
        ({"location": "w.bin", "length": "3"}, TensorProto.FLOAT),
        ({"location": "w.bin"}, 99),
        ({"location": "w.bin"}, TensorProto.UNDEFINED),
    ],
)
def test_a_place_that_makes_no_sense_is_told_in_one_line(
    entries: dict[str, str], data_type: int, tmp_path: Path
) -> None:
    """No number, no file or no type: an error of the file, not of alignkit."""
    (tmp_path / "w.bin").write_bytes(bytes(64))
    tensor = TensorProto(name="w", data_type=data_type, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(OnnxFileError, match="is damaged: its weight 'w'"):
        load_without_weights(written(tmp_path, model_of(tensor)))


@pytest.mark.parametrize(
    ("data_type", "length"), [("INT4", 50), ("UINT8", 99), ("FLOAT16", 198), ("INT64", 792)]
)
def test_elements_of_every_size_are_counted(data_type: str, length: int, tmp_path: Path) -> None:
    """Two elements of four bits share a byte."""
    (tmp_path / "w.bin").write_bytes(bytes(length))
    tensor = TensorProto(
        name="w",
        data_type=TensorProto.DataType.Value(data_type),
        dims=[99],
        data_location=TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value="w.bin")
    path = written(tmp_path, model_of(tensor))
    assert load_without_weights(path).graph.initializer[0].name == "w"
    (tmp_path / "w.bin").write_bytes(bytes(length - 1))
    with pytest.raises(OnnxFileError, match="too short to hold the weight 'w'"):
        load_without_weights(path)


WHOLE = model_of(numpy_helper.from_array(array(*LARGE), "w"), as_floats("v", array(9))).SerializeToString()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")  # a length that never ends
@example(b"\x3a\x02\x2a\x00")  # a graph with an empty initializer
@example(b"\x0b")  # a group, which the format has left behind
@example(b"\x38\x01\x3a\x00")  # a number where a graph belongs
def test_bytes_of_any_kind_are_a_message_or_none(tmp_path: Path, content: bytes) -> None:
    """Only ``DecodeError``, and where onnx reads a message it is the same one."""
    path = tmp_path / "any.onnx"
    path.write_bytes(content)
    try:
        found = read_without_weights(path)
    except DecodeError:
        return
    assert found == ModelProto.FromString(content)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4), st.booleans())
def test_a_file_with_a_few_wrong_bytes_is_read_or_refused(
    tmp_path: Path, changes: list[tuple[int, int]], from_end: bool
) -> None:
    """Around the weights, where what is damaged decides where they lie: no error but that of a file."""
    content = bytearray(WHOLE)
    for place, byte in changes:
        content[-1 - place if from_end else place] = byte
    path = tmp_path / "any.onnx"
    path.write_bytes(bytes(content))
    try:
        load_without_weights(path)
    except OnnxFileError as error:
        assert "\n" not in str(error).strip()  # noqa: PT017  most changes do no harm
