"""What a fault case is: a prepared comparison, and what a right report would say of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from tests.zoo.case import EXPORTERS, Built

Workspace = Path
"""A folder that a case may write files to; it lives as long as the process that runs the case."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: the path of the module whose own code holds it, and its cause, as the report should say.

    Several modules or causes stand where the truth itself allows each of them.
    """

    modules: frozenset[str]
    causes: frozenset[str]

    @classmethod
    def at(cls, modules: str | tuple[str, ...], causes: str | tuple[str, ...]) -> Fault:
        return cls(frozenset(_several(modules)), frozenset(_several(causes)))


def _several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


@dataclass(frozen=True, slots=True)
class Prepared:
    """The arguments of one ``alignkit.compare`` and the faults in it, in execution order; none in a control.

    ``change`` says in words what an injection altered.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    change: str = ""


@dataclass(frozen=True, slots=True)
class FaultCase:
    """One case. ``build(exporter, folder)`` prepares it afresh, the same every time.

    ``why`` says what diverges and why, or for a control what could look like a fault and is none.
    """

    name: str
    kind: str
    build: Callable[[str, Workspace], Prepared]
    why: str
    exporters: tuple[str, ...] = EXPORTERS

    @property
    def is_control(self) -> bool:
        return self.kind == "control"


def compared(
    name: str,
    build: Callable[[], Built],
    faults: Fault | tuple[Fault, ...],
    why: str,
    *,
    other: bool = False,
    exporters: tuple[str, ...] = EXPORTERS,
    kind: str = "organic",
    **options: Any,
) -> FaultCase:
    """A case whose model is exported and compared as it is; on its other inputs with ``other``."""

    def prepare(exporter: str, folder: Path) -> Prepared:
        built = build()
        given = {"export_options": built.export_options.get(exporter, {}), **options}
        if other:
            given["inputs"] = [built.other_inputs]
        expected = faults if isinstance(faults, tuple) else (faults,)
        return Prepared(built.model, built.args, built.kwargs, given, expected)

    return FaultCase(f"{kind.split()[0]}/{name}", kind, prepare, why, exporters)
