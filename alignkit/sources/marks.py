"""Marks in a TorchScript graph: taps where a module is entered and where it returns.

TorchScript runs without hooks, so that the taps must stand in the graph. That is done to a copy which
nobody else holds: every module's own code is given a note (what passes here, and in which module)
at its start and end; then all calls are inlined, which tells the path of each noted module and how
often it was called; then a ``my::tap`` operator takes the place of each note.

A note is a ``prim::Print`` that never runs: of all that a graph may hold it alone takes any values,
is copied by the inliner as it is, and is never removed as dead code.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alignkit.records import ROOT, Source, Tap, TapId, TapKind
from alignkit.source import is_user_code_anywhere

OPERATOR = "my::tap"

_NOTE = "alignkit_tap"
_TRACED = re.compile(r"^(?P<file>\S.*)\((?P<line>\d+)\): ", re.MULTILINE)
_SCRIPTED = re.compile(r'^ *File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)
_BODIES = {"prim::Loop": "a loop", "prim::If": "a branch"}
_NARROW = (torch.float16, torch.bfloat16, torch.float32)
_NARROW_CODES = (5, 6, 15)  # torch.float16, float32 and bfloat16 as TorchScript spells them
_FLOAT64 = 7


@dataclass(slots=True)
class Marks:
    """``taps`` by name, in the order of the graph; ``closed``: taps out of reach, with the reason."""

    taps: dict[str, Tap] = field(default_factory=dict)
    closed: dict[Tap, str] = field(default_factory=dict)


def mark_graph(module: torch.jit.ScriptModule, wanted: Callable[[Tap], bool]) -> Marks:
    """Put a ``my::tap`` at each wanted tap of ``module``, which is changed: give a copy of its own.

    Values inside loops and branches are not tapped, for they are no values of the whole run.
    """
    types = {path: str(getattr(m, "original_name", "")) for path, m in module.named_modules()}
    _note_modules(module)
    graph = _graph(module)
    torch._C._jit_pass_inline(graph)
    notes = list(_notes(graph, ""))
    called = {_path(node.inputsAt(1)) for node, _ in notes}
    marks, calls = Marks(), _Calls()
    for node, body in notes:
        # Read only now: a mark before this one may have taken the value's place.
        value, path = node.inputsAt(0), _path(node.inputsAt(1))
        if path is not None:
            port = TapId.parse(f"{path or ROOT}#0{node.s(_NOTE)}")
            identity = TapId(port.path, calls.of(port), port.index, port.kind)
            owner = _caller(path, called) if port.kind is TapKind.INPUT else port.path
            tap = Tap(identity, types.get(path, ""), owner, _source(value.node()))
            if wanted(tap):
                _mark(graph, node, value, tap, body, marks)
        node.destroy()
    if called <= {"", None}:
        _mark_operations(graph, wanted, marks)
    return marks


def widen_graph(module: torch.jit.ScriptModule) -> None:
    """Let ``module``, whose calls are inlined, compute in float64 where it says float32 or half."""
    module.double()
    graph = _graph(module)
    for node in list(_nodes(graph)):
        if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
            constant = node.t("value")
            if constant.dtype in _NARROW:
                node.t_("value", constant.double())
        for place in _dtypes(node):
            wide = graph.insertConstant(_FLOAT64)
            wide.node().moveBefore(node)
            node.replaceInput(place, wide)


def _dtypes(node: Any) -> Iterator[int]:
    """The inputs of ``node`` that name a narrow floating type."""
    text = node.schema()
    known = torch._C.parse_schema(text).arguments if not text.startswith("(") else ()  # "(no schema)"
    for place, argument in enumerate(known):
        if argument.name == "dtype" and _constant(node.inputsAt(place).node()) in _NARROW_CODES:
            yield place


def _constant(node: Any) -> int | None:
    """The whole number that a node is, if it is one."""
    is_constant = node.kind() == "prim::Constant" and node.hasAttribute("value")
    return node.i("value") if is_constant and node.kindOf("value") == "i" else None


def _graph(module: Any) -> Any:
    return module._c._get_method("forward").graph


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for body in node.blocks():
            yield from _nodes(body)


def _note_modules(module: Any) -> None:
    """One note per tensor that a module is given or returns. Modules of one type share their code."""
    done: set[tuple[str, str]] = set()
    for _, submodule in module.named_modules():
        for name in submodule._c._method_names():
            key = submodule._c._type().qualified_name(), name
            # A traced module has a method per call: forward, forward1 and so on.
            if re.fullmatch(r"forward\d*", name) and key not in done:
                done.add(key)
                _note_ends(submodule._c._get_method(name).graph)


def _note_ends(graph: Any) -> None:
    self, *given = graph.inputs()
    returned = list(graph.outputs())
    made_by = returned[0].node()
    if made_by.kind() in ("prim::TupleConstruct", "prim::ListConstruct"):
        returned = list(made_by.inputs())
    for values, place, port in ((given, graph.prependNode, ":in"), (returned, graph.appendNode, "")):
        tensors = [value for value in values if value.type().kind() == "TensorType"]
        for index, value in enumerate(tensors):
            node = graph.create("prim::Print", [value, self], 0)
            node.s_(_NOTE, f"{port}[{index}]")
            place(node)


def _notes(block: Any, body: str) -> Iterator[tuple[Any, str]]:
    """Every note with the loop or branch that it is in."""
    for node in list(block.nodes()):
        if node.kind() == "prim::Print" and node.hasAttribute(_NOTE):
            yield node, body
        for inner in node.blocks():
            yield from _notes(inner, body or _BODIES.get(node.kind(), node.kind()))


def _path(value: Any) -> str | None:
    """The path of a module by the attributes that lead to it; None where it is no fixed one."""
    names: list[str] = []
    while value.node().kind() == "prim::GetAttr":
        names.append(value.node().s("name"))
        value = value.node().inputsAt(0)
    return ".".join(reversed(names)) if value.node().kind() == "prim::Param" else None


class _Calls:
    """Counts the calls of each module: one that is entered or returns a second time is in its next."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, set[tuple[TapKind, int]]]] = {}

    def of(self, port: TapId) -> int:
        call, seen = self._seen.get(port.path, (0, set()))
        if (port.kind, port.index) in seen:
            call, seen = call + 1, set()
        self._seen[port.path] = call, {*seen, (port.kind, port.index)}
        return call


def _caller(path: str, called: set[str | None]) -> str:
    """The innermost module around ``path`` whose code was run: containers are only looked into."""
    while path := path.rpartition(".")[0]:
        if path in called:
            return path
    return ROOT


def _mark(graph: Any, note: Any, value: Any, tap: Tap, body: str, marks: Marks) -> None:
    if body:
        marks.closed[tap] = f"inside {body} of the TorchScript code: not a value of the whole run"
        return
    name = graph.insertConstant(str(tap.id))
    name.node().moveBefore(note)
    node = graph.create(OPERATOR, [value, name], 1)
    node.output().setType(value.type())
    node.insertAfter(note)
    value.replaceAllUsesAfterNodeWith(node, node.output())
    marks.taps[str(tap.id)] = tap


def _mark_operations(graph: Any, wanted: Callable[[Tap], bool], marks: Marks) -> None:
    """Taps behind every operator, where no calls of modules are left (a frozen module, or one that was
    exported before, which inlines it); an operator belongs to the module whose parameters it reads."""
    counts: dict[tuple[str, str], int] = {}
    for node in list(graph.nodes()):
        domain, _, name = node.kind().partition("::")
        if domain != "aten":
            continue
        operator = name.strip("_")
        path = _reader(node)
        number = counts[path, operator] = counts.get((path, operator), -1) + 1
        tensors = (value for value in node.outputs() if value.type().kind() == "TensorType")
        for index, value in enumerate(tensors):
            identity = TapId(path, 0, index, TapKind.OP, operator, number)
            tap = Tap(identity, "", path, _source(node))
            if wanted(tap):
                note = graph.create("prim::Print", [], 0)
                note.insertAfter(node)
                _mark(graph, note, value, tap, "", marks)
                note.destroy()


def _reader(node: Any) -> str:
    """The one module whose parameters a node reads; the root where there is none."""
    paths = {_path(value) for value in node.inputs() if value.node().kind() == "prim::GetAttr"}
    owners = {path.rpartition(".")[0] for path in paths if path}
    return (owners.pop() or ROOT) if len(owners) == 1 else ROOT


def _source(node: Any) -> Source | None:
    """The innermost line of the user's own code that a node was compiled from or traced through."""
    text = node.sourceRange().partition("Serialized ")[0]
    for match in (*_TRACED.finditer(text), *_SCRIPTED.finditer(text)):
        file, line = match["file"], int(match["line"])
        if not file.startswith("<") and is_user_code_anywhere(file):
            return Source(f"{Path(file).name}:{line}", linecache.getline(file, line).strip())
    return None
