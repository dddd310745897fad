"""How many taps find their ONNX value without a Debug node: ``python -m tests.benchmarks.bench_mapping``.

Each model is exported twice, with and without taps. The plain file, and what onnxsim and ONNX Runtime
make of it, is mapped on one input. On another input, which the mapping never saw, a mapped value must
then be what the marked file gives for that tap: ``right`` or ``wrong``. ``unfused`` are module taps
whose numbers are anywhere in the file, found by comparing sorted values with no regard to names.
The exit code is 1 when a pair is wrong or fewer than nine in ten unfused taps are mapped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

from alignkit.backends.onnxruntime import OnnxRuntime, Session
from alignkit.binding import NamedArray, bind_inputs
from alignkit.capture import capture_reference
from alignkit.export import export_model
from alignkit.extract import extract_propagated, read_marked
from alignkit.graph import graph_inputs, load_graph
from alignkit.instrument import Selection, named_arguments
from alignkit.mapping import TapMapping, distance, fetch_values, map_taps, measure_shapes, read_values
from alignkit.records import Array, Capture, TapId, TapKind
from alignkit.tensors import map_tensors, to_numpy
from tests.zoo import EXPORTERS, Built, resolve

MODELS = ("resnet18", "mobilenet-v3-small", "vit", "bert", "unet", "lstm")
GOAL = 0.9
_SAME = 1e-4
_SETTINGS = OnnxRuntime(optimization="disable")


def run_graph(model: onnx.ModelProto, folder: Path, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """What :func:`alignkit.mapping.map_taps` runs graphs with."""
    return Session(model.SerializeToString(), _SETTINGS, folder).run(feeds)


def simplify(source: Path, target: Path) -> None:
    """onnxsim, which the benchmark does without where it is not installed."""
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], target)


def slim(source: Path, target: Path) -> None:
    """onnxslim, likewise."""
    import onnxslim

    onnx.save(onnxslim.slim(str(source)), target)


def optimize(source: Path, target: Path) -> None:
    """ONNX Runtime's own basic optimisation, saved."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "onnxsim": simplify,
    "onnxslim": slim,
    "ort-basic": optimize,
}


@dataclass(frozen=True, slots=True)
class Subject:
    """One model with its reference; ``held_out`` are inputs that the mapping does not see."""

    built: Built
    reference: Capture
    parameters: Mapping[str, Array]
    held_out: Built

    def map_file(self, path: Path, **options: Any) -> TapMapping:
        """The mapping of the file at ``path``."""
        model = load_graph(path)
        feeds = feeds_of(self.built, model)
        options = {"run": run_graph, "parameters": self.parameters, **options}
        return map_taps(model, path.parent, self.reference, feeds, **options)


def prepare(name: str) -> Subject:
    """The zoo's model of that name, captured."""
    built = resolve(name).build()
    reference = capture_reference(built.model, built.args, built.kwargs, Selection())
    parameters = {key: to_numpy(value) for key, value in built.model.state_dict().items()}
    args, kwargs = map_tensors(_other, (built.args, dict(built.kwargs)))
    return Subject(built, reference, parameters, Built(built.model, args, kwargs))


def _other(value: torch.Tensor) -> torch.Tensor:
    """Other numbers that are as valid: reversed, and scaled where they are no indices."""
    turned = value.flip(-1)
    return turned * 0.7 + 0.1 if value.is_floating_point() else turned


def feeds_of(built: Built, model: onnx.ModelProto) -> dict[str, Array]:
    """The model's inputs under the names of a graph."""
    leaves = [
        NamedArray(name, to_numpy(value), False)
        if isinstance(value, torch.Tensor)
        else NamedArray(name, np.asarray(value), True)
        for name, value in named_arguments(built.model, built.args, built.kwargs)
    ]
    return bind_inputs(graph_inputs(model), leaves)[0]


def export(subject: Subject, name: str, exporter: str, folder: Path, *, marked: bool) -> Path:
    """The exported file, made once per folder."""
    path = folder / f"{name}.{exporter}.{'marked' if marked else 'plain'}.onnx"
    if not path.exists():
        built = subject.built
        export_model(
            built.model,
            built.args,
            built.kwargs,
            path,
            exporter=exporter,
            options=built.export_options.get(exporter, {}),
            selection=Selection() if marked else None,
        )
    return path


def true_values(subject: Subject, marked: Path) -> dict[str, Array]:
    """What the marked file gives at each tap on the held-out input."""
    probe = extract_propagated(read_marked(marked))
    values = run_graph(probe.model, probe.folder, feeds_of(subject.held_out, probe.model))
    return {tap: values[output] for tap, output in probe.outputs.items()}


def mapped_values(subject: Subject, mapping: TapMapping, folder: Path) -> dict[str, Array]:
    """What the mapped values hold on the held-out input, in the taps' layout."""
    graph = read_values(mapping.model, folder)
    feeds = feeds_of(subject.held_out, mapping.model)
    shapes = measure_shapes(graph, feeds, run_graph)
    names = {str(tap.onnx_value) for tap in mapping.found().values()}
    values = dict(_all(fetch_values(graph, names, shapes, feeds, {}, run_graph, 2**30)))
    found = mapping.found()
    return {n: tap.transform.apply(values[str(tap.onnx_value)]) for n, tap in found.items() if tap.transform}


def _all(batches: Any) -> Any:
    for batch in batches:
        yield from batch.items()


def present_taps(subject: Subject, path: Path) -> set[str]:
    """Module taps whose numbers are in the file, in whatever order and under whatever name."""
    graph = read_values(load_graph(path), path.parent)
    feeds = feeds_of(subject.built, graph.model)
    shapes = measure_shapes(graph, feeds, run_graph)
    by_size: dict[int, list[Array]] = {}
    for _, value in _all(fetch_values(graph, shapes, shapes, feeds, {}, run_graph, 2**30)):
        by_size.setdefault(value.size, []).append(np.sort(value, axis=None))
    present = set()
    for tap, value in subject.reference.values.items():
        if TapId.parse(tap).kind is TapKind.MODULE:
            ordered = np.sort(value, axis=None)
            if any(distance(other, ordered) <= _SAME for other in by_size.get(value.size, ())):
                present.add(tap)
    return present


@dataclass(frozen=True, slots=True)
class Score:
    """One row: counts of module taps, but ``right`` and ``wrong`` of all taps."""

    taps: int
    unfused: int
    mapped: int
    right: int
    wrong: tuple[str, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        return not self.wrong and self.mapped >= GOAL * self.unfused


def score(subject: Subject, path: Path, truth: Mapping[str, Array]) -> Score:
    """Map the file at ``path`` and hold the result against the marked file's values."""
    begin = time.perf_counter()
    mapping = subject.map_file(path)
    seconds = time.perf_counter() - begin
    values = mapped_values(subject, mapping, path.parent)
    wrong = tuple(tap for tap, value in values.items() if tap in truth and not _is_same(value, truth[tap]))
    modules = {tap for tap in subject.reference.taps if TapId.parse(tap).kind is TapKind.MODULE}
    present = present_taps(subject, path)
    mapped = len(present & mapping.found().keys())
    right = sum(tap in truth for tap in values) - len(wrong)
    return Score(len(modules), len(present), mapped, right, wrong, seconds)


def _is_same(value: Array, expected: Array) -> bool:
    return value.shape == expected.shape and distance(value, expected) <= _SAME


def rows(name: str, exporter: str, folder: Path) -> list[tuple[str, bool]]:
    """The table's rows for one exported model, and whether each holds."""
    subject = prepare(name)
    plain = export(subject, name, exporter, folder, marked=False)
    truth = true_values(subject, export(subject, name, exporter, folder, marked=True))
    found = []
    for label, convert in {"plain": None, **CONVERTERS}.items():
        path = folder / f"{name}.{exporter}.{label}.onnx"
        try:
            if convert is not None and not path.exists():
                convert(plain, path)
        except ImportError as error:
            found.append((_row(name, exporter, label, f"not run: {error.name} is not installed"), True))
            continue
        s = score(subject, path, truth)
        counts = (s.taps, s.unfused, s.mapped, s.right, len(s.wrong), f"{s.seconds:.1f} s")
        wrong = "".join(f"\n  wrong: {tap}" for tap in s.wrong)
        found.append((_row(name, exporter, label, *counts) + wrong, s.holds))
    return found


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    """Print the table; 0 when every row holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--exporters", nargs="+", default=list(EXPORTERS))
    parser.add_argument("--folder", type=Path, help="keep the exported files here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| model | exporter | file | module taps | unfused | of them mapped | right | wrong | time |")
    print("|---|---|---|---|---|---|---|---|---|")
    holds = True
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.models:
            for exporter in arguments.exporters:
                for line, row_holds in rows(name, exporter, folder):
                    print(line, flush=True)
                    holds = holds and row_holds
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
