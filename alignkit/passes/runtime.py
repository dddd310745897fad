"""Passes by ONNX Runtime: its own graph optimisation, saved, and its quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort
from onnx import ModelProto

from alignkit.backends.onnxruntime import LEVELS
from alignkit.errors import PassError
from alignkit.graph import load_graph
from alignkit.passes.files import is_large, read_model
from alignkit.records import Array

if TYPE_CHECKING:
    from alignkit.passes.table import Samples

_QUIET = 4
_OUTSIDE = "session.optimized_model_external_initializers_file_name"
_OUTSIDE_FROM = "session.optimized_model_external_initializers_min_size_in_bytes"


def optimize_basic(source: Path, target: Path, samples: Samples) -> None:
    """ONNX Runtime's graph optimisation at the level ``basic``, saved as a file."""
    _optimize(source, target, "basic")


def optimize_extended(source: Path, target: Path, samples: Samples) -> None:
    """ONNX Runtime's graph optimisation at the level ``extended``, saved as a file."""
    _optimize(source, target, "extended")


def _optimize(source: Path, target: Path, level: str) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.optimized_model_filepath = str(target)
    options.log_severity_level = _QUIET
    if is_large(load_graph(source)):
        options.add_session_config_entry(_OUTSIDE, f"{target.name}.data")
        options.add_session_config_entry(_OUTSIDE_FROM, "1024")
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def quantize_dynamic(source: Path, target: Path, samples: Samples) -> None:
    """Weights in eight bits, unsigned as well; activations are quantised by their range in each run."""
    from onnxruntime import quantization as tool

    large = is_large(load_graph(source))
    model = source if large else _without_weight_types(read_model(source))
    unsigned = tool.QuantType.QUInt8
    tool.quantize_dynamic(model, target, weight_type=unsigned, use_external_data_format=large)


def _without_weight_types(model: ModelProto) -> ModelProto:
    """``model``, changed: torch's default exporter states the types of weights twice, and the quantiser
    transposes some without correcting the second."""
    weights = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.value_info if value.name not in weights]
    del model.graph.value_info[:]
    model.graph.value_info.extend(values)
    return model


def quantize_static(source: Path, target: Path, samples: Samples) -> None:
    """QDQ in eight bits, calibrated on the comparison's own samples.

    Unsigned on both sides: with signed weights, CPUs without VNNI saturate.
    """
    from onnxruntime import quantization as tool

    unsigned = tool.QuantType.QUInt8
    tool.quantize_static(
        source,
        target,
        _reader(tool, samples(source)),
        quant_format=tool.QuantFormat.QDQ,
        activation_type=unsigned,
        weight_type=unsigned,
        use_external_data_format=is_large(load_graph(source)),
    )


def _reader(tool: Any, samples: Iterator[Mapping[str, Array]]) -> Any:
    """The samples as the calibrator wants them. Raises :class:`PassError` where there is none."""
    first = next(samples, None)
    if first is None:
        raise PassError("there are no inputs to calibrate on.")

    class Reader(tool.CalibrationDataReader):  # type: ignore[misc]
        """One sample after the other, and None at the end."""

        def __init__(self) -> None:
            self._next: Mapping[str, Array] | None = first

        def get_next(self) -> Mapping[str, Array] | None:
            given, self._next = self._next, next(samples, None)
            return given

    return Reader()
