"""The classic four calls: tap by hand, extract, run, print.

They need no context and no model: ``debugger.debug(x, name)`` in a forward, then
``extract_debug_model``, ``run_debug_model`` and ``print_debug_result``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import onnx
from torch import Tensor

from alignkit.backends import OnnxRuntime
from alignkit.errors import CompareError
from alignkit.extract import extract_propagated, read_marked
from alignkit.graph import load_graph
from alignkit.instrument import explicit_tap, tap_explicit
from alignkit.marker import is_marking, mark_value
from alignkit.metrics import measure_error
from alignkit.records import Array
from alignkit.tensors import to_numpy, unrecordable

_TAPS = "alignkit.taps"


class ClassicCalls:
    """``torch_value`` and ``onnx_value`` map a tap's name to its array; ``output_debug_name`` lists
    the names of the extracted file in its order."""

    def __init__(self) -> None:
        self.torch_value: dict[str, Array] = {}
        self.onnx_value: dict[str, Array] = {}
        self.output_debug_name: list[str] = []

    def debug(self, value: Tensor, name: str) -> Tensor:
        """Tap ``value`` as ``name``: recorded in a plain call, marked during an export.

        Raises :class:`alignkit.errors.TapError` for a name that is empty, reads like a module's
        tap, or is used twice in one forward inside a context.
        """
        explicit_tap(name)
        self.record(value, name)
        tapped = tap_explicit(value, name)
        if tapped is not None:
            return tapped
        return mark_value(value, name) if is_marking() else value

    def record(self, value: Tensor, name: str) -> None:
        """Keep ``value`` as what PyTorch computed at ``name``; a fake tensor has none."""
        if not unrecordable(value):
            self.torch_value[name] = to_numpy(value)

    def extract_debug_model(self, input_path: str | Path, output_path: str | Path) -> None:
        """Write the probe of a marked file: every tap's value is an output, no tap is left in it."""
        marked = read_marked(Path(input_path))
        probe = extract_propagated(marked)
        self.output_debug_name = list(probe.outputs)
        model = probe.model
        model.metadata_props.add(key=_TAPS, value=json.dumps(dict(probe.outputs)))
        if probe.folder.resolve() != Path(output_path).parent.resolve():
            # The weights lie beside the input; a file elsewhere must carry its own.
            onnx.load_external_data_for_model(model, str(probe.folder))
        onnx.save(model, str(output_path))

    def run_debug_model(self, input: Mapping[str, Array], debug_model: str | Path) -> None:
        """Run an extracted file on arrays by input name and keep each tap's value."""
        path = Path(debug_model)
        taps = _taps_of(path)
        self.output_debug_name = list(taps)
        values = OnnxRuntime().open(path).run(input)
        self.onnx_value.update({tap: values[name] for tap, name in taps.items()})

    def print_debug_result(self) -> None:
        """One line per tap: the mean squared error between PyTorch and ONNX Runtime."""
        names = dict.fromkeys([*self.torch_value, *self.onnx_value])
        if not names:
            print("nothing to compare: no tap was recorded and no debug model was run.")
        for name in names:
            print(f"{name} {self._result(name)}")

    def _result(self, name: str) -> str:
        if name not in self.torch_value:
            return (
                "has no PyTorch value: the exporter traced with fake tensors; call the model once on the "
                "same input before print_debug_result()."
            )
        if name not in self.onnx_value:
            return "has no ONNX value: call extract_debug_model() and run_debug_model() first."
        expected, found = self.torch_value[name], self.onnx_value[name]
        if expected.shape != found.shape:
            return f"differs in shape: {list(expected.shape)} in PyTorch, {list(found.shape)} in ONNX."
        return f"MSE: {measure_error(expected, found, rtol=0.0, atol=0.0).mse}"


def _taps_of(path: Path) -> dict[str, str]:
    for entry in load_graph(path).metadata_props:
        if entry.key == _TAPS:
            return dict(json.loads(entry.value))
    raise CompareError(f"{path} was not written by extract_debug_model().")
