"""What is exported of a model, once, for all tools.

``python -m tests.benchmarks.files MODEL FOLDER EXPORTER`` does it in a process of its own.
One folder holds the plain file, the same with a Debug node behind every module and behind every operation
(what alignkit is given), the exported program that the default exporter made the plain file from (what the
peers compare with), the inputs, and beside each file its broken twin.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.models import MODELS, Fault
from tests.benchmarks.records import MODULE_TAPS, OP_TAPS

if TYPE_CHECKING:
    from torch import Tensor, nn

PLAIN = "plain"
_DONE = "done.json"


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one model."""

    path: Path

    def graph(self, kind: str, *, broken: bool = False) -> Path:
        """The ONNX file of a kind: plain, or with taps on modules or on operations."""
        return self.path / f"{kind}{'-broken' if broken else ''}.onnx"

    @property
    def program(self) -> Path:
        return self.path / "program.pt2"

    @property
    def inputs(self) -> Path:
        return self.path / "inputs.pt"

    @property
    def is_complete(self) -> bool:
        return (self.path / _DONE).exists()

    @property
    def places(self) -> dict[str, tuple[str, ...]]:
        """Kind of file -> the names that its spoilt node goes by; empty where none is spoilt."""
        record: Mapping[str, Any] = json.loads((self.path / _DONE).read_text(encoding="utf-8"))
        return {kind: tuple(place["names"]) for kind, place in record.items()}


def make_files(name: str, folder: Folder, exporter: str = "dynamo") -> None:
    """Export the model called ``name`` into ``folder``."""
    import torch

    model, args = MODELS[name].build()
    folder.path.mkdir(parents=True, exist_ok=True)
    torch.save(args, folder.inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _export(model, args, folder, exporter)
    fault = MODELS[name].fault
    places = _break(folder, fault) if fault and exporter == "dynamo" else {}
    record = {kind: dataclasses.asdict(place) for kind, place in places.items()}
    (folder.path / _DONE).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _export(model: nn.Module, args: tuple[Tensor, ...], folder: Folder, exporter: str) -> None:
    import torch

    from alignkit.export import export_model
    from alignkit.instrument import Selection

    if exporter == "dynamo":
        program = torch.onnx.export(model, args, dynamo=True, verbose=False)
        assert program is not None
        assert program.exported_program is not None
        program.save(folder.graph(PLAIN), external_data=True)
        torch.export.save(program.exported_program, folder.program)
        options: dict[str, Any] = {}
    else:
        options = {"input_names": ["x"]}
        export_model(model, args, {}, folder.graph(PLAIN), exporter=exporter, options=options)
    for kind in (MODULE_TAPS, OP_TAPS):
        selection = Selection(granularity=kind)
        where = (model, args, {}, folder.graph(kind))
        export_model(*where, exporter=exporter, options=options, selection=selection)


def _break(folder: Folder, fault: Fault) -> dict[str, Any]:
    from tests.benchmarks.broken import break_node

    kinds = (PLAIN, MODULE_TAPS, OP_TAPS)
    return {kind: break_node(folder.graph(kind), folder.graph(kind, broken=True), fault) for kind in kinds}


if __name__ == "__main__":
    make_files(sys.argv[1], Folder(Path(sys.argv[2])), sys.argv[3])
