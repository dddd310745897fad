"""A model beyond 2 GB through a whole comparison: ``python -m tests.benchmarks large``.

A Llama of over a billion parameters, with random weights, is exported with taps and without, and compared,
noise floor included. Printed is the peak of resident memory as a multiple of the weights: of the *plain job*
(the model, one forward, one ONNX Runtime run of the file as deployed) and of the comparison. Takes some
20 GB of disk in the folder for temporary files, and ten minutes and more.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from alignkit.sizes import count_words, size_words
from tests.benchmarks.jobs import ask, table
from tests.benchmarks.memory import peak_bytes, reset_peak

_MODULE = "tests.benchmarks.large"
_SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "vocab_size": 32000},
    "tiny": {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "vocab_size": 1000},
}
_TOKENS = 32


def build(size: str, dtype: str = "float32") -> tuple[Any, tuple[Any, Any]]:
    """A Llama of that size in eval mode, which returns its logits alone, and its two inputs."""
    import torch
    from torch import nn

    from tests.torchvision_import import import_torchvision

    import_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
            config = LlamaConfig(**_SHAPES[size], **heads, use_cache=False)
            self.model = LlamaForCausalLM(config)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(input_ids=ids, attention_mask=mask).logits
            return logits

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        model = Logits().eval()
    finally:
        torch.set_default_dtype(before)
    return model, (torch.arange(_TOKENS)[None], torch.ones(1, _TOKENS, dtype=torch.long))


def _measure(size: str, dtype: str, exporter: str, folder: Path) -> dict[str, Any]:
    import torch

    import alignkit
    from alignkit.export import export_model

    model, args = build(size, dtype)
    parameters = list(model.parameters())
    found = {
        "parameters": sum(p.numel() for p in parameters),
        "weights": sum(p.nbytes for p in parameters),
    }
    path = folder / "plain.onnx"
    options = {"input_names": ["ids", "mask"]} if exporter == "torchscript" else {}
    export_model(model, args, {}, path, exporter=exporter, options=options)
    reset_peak()
    with torch.no_grad():
        model(*args)
    _run_plain(path, [arg.numpy() for arg in args])
    found["plain"] = peak_bytes()
    for file in folder.iterdir():
        file.unlink()
    reset_peak()
    report = alignkit.compare(model, args, exporter=exporter)
    words = str(report).splitlines()[0]
    return {**found, "peak": peak_bytes(), "verdict": words, "compared": report.coverage.compared}


def _run_plain(path: Path, inputs: Sequence[Any]) -> None:
    """One run, where the runtime has kernels for the file: for bfloat16 not all have. The verdict says so."""
    import onnxruntime as ort
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    with suppress(NoKernel):
        session = ort.InferenceSession(str(path))
        session.run(None, {value.name: one for value, one in zip(session.get_inputs(), inputs, strict=True)})


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks large", description=__doc__)
    parser.add_argument("--exporters", nargs="+", default=["dynamo", "torchscript"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--size", choices=_SHAPES, default="1b")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.folder:
        print(json.dumps(_measure(given.size, given.dtypes[0], given.exporters[0], given.folder)))
        return
    rows = []
    for exporter in given.exporters:
        for dtype in given.dtypes:
            with tempfile.TemporaryDirectory() as folder:
                where = ("--size", given.size, "--folder", folder)
                found = ask(_MODULE, *where, "--exporters", exporter, "--dtypes", dtype)
            peaks = [f"{found[k] / found['weights']:.2f}" for k in ("plain", "peak")]
            sizes = [count_words(found["parameters"]), size_words(found["weights"])]
            rows.append([f"{exporter}, {dtype}", *sizes, *peaks, found["verdict"]])
    header = ["file", "parameters", "weights", "plain job, × weights", "comparison, × weights", "verdict"]
    print(table(header, rows))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
