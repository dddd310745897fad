"""The tools that are held against each other. Each module has a ``prepare(case)``.

``prepare`` loads what the tool is handed in memory – the model or the exported program, the inputs, its own
libraries – and returns what runs it. That is not counted. A run is: it begins with the path of an exported
file and ends with the tool's findings.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.files import Folder
from tests.benchmarks.models import Model
from tests.benchmarks.records import Answer, Row


@dataclass(frozen=True, slots=True)
class Case:
    """What a tool is given: the files, and the model for those that work on the model itself."""

    folder: Folder
    model: Model


@dataclass(frozen=True, slots=True)
class Run:
    """One row of a tool. ``call(broken)`` is what is timed; the floor's answer nothing.

    ``kind`` is the kind of file that it reads. ``before`` gets a run ready, which is not timed.
    """

    row: Row
    kind: str
    call: Callable[[bool], Answer | None]
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Tool:
    """``package`` is what must be importable, ``distribution`` what it is installed as.

    ``is_slow`` is said of one that takes minutes: it is run once, when the others have had their turns.
    """

    module: str
    package: str = ""
    distribution: str = ""
    needs_program: bool = True
    is_slow: bool = False

    @property
    def is_installed(self) -> bool:
        return not self.package or importlib.util.find_spec(self.package) is not None

    def prepare(self, case: Case) -> Sequence[Run]:
        """Import the tool's module and let it get ready."""
        module: Any = importlib.import_module(f"{__name__}.{self.module}")
        runs: Sequence[Run] = module.prepare(case)
        return runs


TOOLS: Mapping[str, Tool] = {
    "floor": Tool("floor", needs_program=False),
    "alignkit": Tool("alignkit_compare", needs_program=False),
    "onnx-diagnostic": Tool("side_by_side", "onnx_diagnostic", "onnx-diagnostic"),
    "polygraphy": Tool("polygraphy_onnxrt", "polygraphy", "polygraphy"),
    "torch": Tool("torch_verification", "torch", "torch", is_slow=True),
}
