"""Cost of a comparison against its floor: ``python -m tests.benchmarks.bench_compare``.

The floor is what no tool can do without: one eager forward and two runs of a probe that yields
every tap. The exported file is given; the noise floor is off. Both are timed in turn in one
process and the medians' ratio is printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from alignkit.backends.onnxruntime import OnnxRuntime, Session
from alignkit.binding import NamedArray, bind_inputs
from alignkit.datasets import as_data_set
from alignkit.export import export_model
from alignkit.extract import extract_propagated, read_marked
from alignkit.graph import graph_inputs
from alignkit.instrument import Selection, named_inputs
from alignkit.options import make_settings
from alignkit.pipeline import compare_files
from alignkit.progress import Progress
from alignkit.settings import Files, Sample
from alignkit.tensors import to_numpy
from tests.torchvision_import import import_torchvision


def resnet50(batch: int = 8) -> tuple[nn.Module, Sample]:
    torch.manual_seed(0)
    model = import_torchvision().models.resnet50().eval()
    return model, Sample((torch.randn(batch, 3, 224, 224),))


def bert_base(batch: int = 4, tokens: int = 128) -> tuple[nn.Module, Sample]:
    import_torchvision()
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(use_cache=False)).eval()
    return model, Sample((torch.randint(0, 1000, (batch, tokens)),))


MODELS: dict[str, Callable[[], tuple[nn.Module, Sample]]] = {"resnet50": resnet50, "bert-base": bert_base}


def timed(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def measure(name: str, exporter: str, rounds: int) -> str:
    """One table row: medians of the floor and of the comparison, and their ratio."""
    model, sample = MODELS[name]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "marked.onnx"
        options = {"input_names": ["x"]} if exporter == "torchscript" else {}
        export_model(
            model, sample.args, sample.kwargs, path, exporter=exporter, options=options, selection=Selection()
        )
        settings = make_settings(noise_floor=False)
        probe = extract_propagated(read_marked(path))
        session = Session(probe.model.SerializeToString(), OnnxRuntime(), probe.folder)
        leaves = [NamedArray(n, to_numpy(v)) for n, v in named_inputs(model, sample.args, sample.kwargs)]
        feeds, _ = bind_inputs(graph_inputs(probe.model), leaves)

        def floor() -> None:
            with torch.no_grad():
                model(*sample.args, **sample.kwargs)
            session.run(feeds)
            session.run(feeds)

        data = as_data_set(sample, None)
        floors, totals = [], []
        progress = Progress(quiet=True)
        for _ in range(rounds + 1):
            floors.append(timed(floor))
            totals.append(
                timed(lambda: compare_files(model, data, Files(path, None), settings, progress=progress))
            )
    low, total = statistics.median(floors[1:]), statistics.median(totals[1:])
    stages = ", ".join(f"{stage} {seconds / (rounds + 1):.2f}" for stage, seconds in progress.timings.items())
    return f"| {name} | {exporter} | {low:.2f} s | {total:.2f} s | {total / low:.2f} | {stages} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exporter", default="torchscript")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    print("| model | exporter | floor | compare | ratio | stages |\n|---|---|---|---|---|---|")
    for name in arguments.models:
        print(measure(name, arguments.exporter, arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
