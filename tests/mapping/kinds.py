"""What people do to an exported file before it is deployed: a converter per kind of file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime as ort

from alignkit.graph import load_graph
from alignkit.passes.runtime import quantize_dynamic
from alignkit.records import Array
from tests.mapping.subject import Subject, export, feeds_of

Feeds = Mapping[str, Array]
Converter = Callable[[Path, Path, Feeds], None]
"""Reads the first path and writes the second; the feeds are there to calibrate with."""


def simplify(source: Path, target: Path, _: Feeds) -> None:
    """onnxsim."""
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], target)


def slim(source: Path, target: Path, _: Feeds) -> None:
    """onnxslim."""
    import onnxslim

    onnx.save(onnxslim.slim(str(source)), target)


def optimize(level: str) -> Converter:
    """ONNX Runtime's own optimisation at ``level``, saved."""

    def convert(source: Path, target: Path, _: Feeds) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return convert


def halve(source: Path, target: Path, _: Feeds) -> None:
    """Weights and arithmetic in float16, inputs and outputs as before."""
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def quantize(source: Path, target: Path, feeds: Feeds) -> None:
    """ONNX Runtime's static quantisation to eight bits, in QuantizeLinear and DequantizeLinear pairs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._samples: Iterator[Feeds] = iter([feeds])

        def get_next(self) -> Feeds | None:
            return next(self._samples, None)

    quantize_static(str(source), str(target), Reader(), quant_format=QuantFormat.QDQ)


def quantize_weights(source: Path, target: Path, _: Feeds) -> None:
    """ONNX Runtime's dynamic quantisation, as the pass of that name does it."""
    quantize_dynamic(source, target, lambda _: iter(()))


EXACT: Mapping[str, Converter | None] = {
    "plain": None,
    "onnxsim": simplify,
    "onnxslim": slim,
    "ort-basic": optimize("BASIC"),
    "ort-extended": optimize("EXTENDED"),
}
"""Kinds that compute what the model does, up to rounding."""

COARSE: Mapping[str, Converter] = {"fp16": halve, "qdq": quantize, "dynamic": quantize_weights}
"""Kinds that are less precise than the model."""

KINDS: Mapping[str, Converter | None] = {**EXACT, **COARSE}

UNUSABLE: Mapping[tuple[str, str, str], str] = {
    **{("lstm", exporter, "fp16"): "ONNX Runtime crashes on it" for exporter in ("dynamo", "torchscript")},
    ("vit", "torchscript", "fp16"): "the converter's file has mixed types, which no runtime takes",
}
"""Files that nobody can deploy: model, exporter, kind -> why."""


def make_file(subject: Subject, exporter: str, kind: str, folder: Path) -> Path:
    """The file of that kind, made once per folder. Raises whatever the converter raises."""
    plain = export(subject, exporter, folder)
    convert = KINDS[kind]
    path = folder / f"{subject.name}.{exporter}.{kind}.onnx"
    if convert is not None and not path.exists():
        with _quietly():
            convert(plain, path, feeds_of(subject.built, load_graph(plain)))
    return path


@contextmanager
def _quietly() -> Iterator[None]:
    """Converters talk, and warn of themselves."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
