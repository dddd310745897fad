"""alignkit: where does a deployed ONNX model stop agreeing with its PyTorch model, and why?

The pipeline is the layout of this package; each stage takes the records before it and adds one::

    instrument -> export -> capture -> extract -> run -> compare -> diagnose -> report

    records, errors      the data that travels, the exceptions       (no dependencies)
    metrics, tolerance   how far two tensors are apart, and whether that is more than rounding
    marker, script       the my::Debug operator, also for scripted code
    instrument           taps on modules, by forward hooks; selection says on which
    arguments, binding   the tensors of a call by name; which input of a graph each is
    operations, source   taps on what a forward calls; the user's line behind a tap
    export               either exporter, with taps or without
    capture              the eager reference and its float64 noise
    budget, storage      the memory that is taken; a reference that is larger
    standin, sources     a reference that is no nn.Module, made to behave like one
    graph, extract       read a marked file; make probe models of it
    backends, candidate  the runtimes that a file can run on; both probes of one file
    comparison           one row of metrics and a verdict per tap
    diagnose             culprits, their ONNX nodes, what is known of the cause
    workshop, workbench  what a diagnosis may run again
    report               text, CSV, JSON, HTML, Markdown, plots
    datasets, spread     the samples of a comparison; their figures over all samples
    plan                 what a comparison would take, without running it
    pipeline             the stages in order
    debugger, cli        the public Python face, the command line
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignkit.datasets import input_files, input_shapes
    from alignkit.debugger import Debugger, assert_aligned, compare, debug
    from alignkit.errors import AlignkitError, DivergenceError
    from alignkit.report import Report
    from alignkit.settings import Sample

__all__ = [
    "AlignkitError",
    "Debugger",
    "DivergenceError",
    "Report",
    "Sample",
    "assert_aligned",
    "compare",
    "debug",
    "input_files",
    "input_shapes",
]
__version__ = "0.1.0"

_HOMES = {
    "AlignkitError": "alignkit.errors",
    "Debugger": "alignkit.debugger",
    "DivergenceError": "alignkit.errors",
    "Report": "alignkit.report",
    "Sample": "alignkit.settings",
    "assert_aligned": "alignkit.debugger",
    "compare": "alignkit.debugger",
    "debug": "alignkit.debugger",
    "input_files": "alignkit.datasets",
    "input_shapes": "alignkit.datasets",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import alignkit`` alone loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'alignkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
