"""The dependency rules, read off the source: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import alignkit

ROOT = Path(alignkit.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

STAGES = ("instrument", "export", "capture", "extract", "backends", "comparison", "diagnose", "report")
# Export and capture are two uses of one set of hooks, which is the ground they share.
GROUND = {"instrument"}

TORCH = {
    *("arguments", "instrument", "export", "capture", "marker", "tensors", "untouched", "isolation"),
    *(
        "debugger",
        "classic",
        "pipeline",
        "load",
        "script",
        "settings",
        "commands.compare",
        "commands.subject",
    ),
    *(
        "aliasing",
        "operations",
        "selection",
        "source",
        "datasets",
        "deployed",
        "noise",
        "obtain",
        "remarks",
        "sources",
        "standin",
        "survey",
        "trial",
        "twin",
        "widening",
        "given",
        "stepwise",
    ),
}
ONNX = {
    "mapping",
    "precision",
    "given",
    "sources",
    "extract",
    "graph",
    "binding",
    "backends",
    "candidate",
    "classic",
    "diagnose",
    "passes",
    "plan",
    "quantised",
    "sensitivity",
    "wire",
    "stepwise",
}
ONNXRUNTIME = {"backends.onnxruntime", "passes.runtime"}  # to run a model; as a converter of files
MATPLOTLIB = {"report.plots"}


class Import(NamedTuple):
    """``lazy``: inside a function; ``typing``: under ``if TYPE_CHECKING``."""

    module: str
    target: str
    line: int
    lazy: bool
    typing: bool


def module_name(path: Path) -> str:
    """``report.plots`` for ``alignkit/report/plots.py``; the package itself is the empty string."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


NAMES = {module_name(path) for path in FILES}


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for path in FILES for found in _imports_of(path))


def _imports_of(path: Path) -> Iterator[Import]:
    name = module_name(path)

    def visit(node: ast.AST, lazy: bool, typing: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno, lazy, typing)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively"
            yield from (
                Import(name, _target(node.module or "", a.name), node.lineno, lazy, typing)
                for a in node.names
            )
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        checking = typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, checking)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False, False)


def _target(module: str, name: str) -> str:
    """``from alignkit import graph`` imports the module graph, ``from alignkit.graph import Debug`` too."""
    inner = f"{module}.{name}"
    return inner if inner.removeprefix("alignkit.") in NAMES else module


def importers(package: str) -> dict[str, list[Import]]:
    """Module -> its imports of ``package``, at run time."""
    found: dict[str, list[Import]] = {}
    for entry in imports():
        if not entry.typing and entry.target.split(".")[0] == package:
            found.setdefault(entry.module, []).append(entry)
    return found


def area(module: str) -> str:
    return module.split(".")[0]


def inner_edges(*, lazy: bool) -> set[tuple[str, str]]:
    """Pairs (importing module, imported module) inside the package, at run time."""
    return {
        (entry.module, entry.target.removeprefix("alignkit").lstrip("."))
        for entry in imports()
        if area(entry.target) == "alignkit" and not entry.typing and (lazy or not entry.lazy)
    }


def test_the_reader_finds_imports() -> None:
    """The rules below are held against something: the reader sees known imports of every form."""
    edges = inner_edges(lazy=True)
    assert ("pipeline", "capture") in edges
    assert ("export", "instrument") in edges
    assert len(FILES) > 30


def test_stages_do_not_import_each_other() -> None:
    """The orchestrator calls them; a stage knows records, not its neighbours."""
    wrong = sorted(
        {
            f"{left} imports {right}"
            for left, right in inner_edges(lazy=True)
            if area(left) in STAGES
            and area(right) in STAGES
            and area(left) != area(right)
            and area(right) not in GROUND
        }
    )
    assert not wrong


@pytest.mark.parametrize(
    ("package", "allowed"),
    [("torch", TORCH), ("onnx", ONNX), ("onnxruntime", ONNXRUNTIME), ("matplotlib", MATPLOTLIB)],
)
def test_each_package_is_known_to_few_modules(package: str, allowed: set[str]) -> None:
    """A change of torch, onnx, onnxruntime or matplotlib touches only these."""
    found = importers(package)
    assert found
    assert {m for m in found if m not in allowed and area(m) not in allowed} == set()
    assert {name for name in allowed if not {name} & {*found, *map(area, found)}} == set(), "no longer"


def test_matplotlib_is_imported_lazily_only() -> None:
    """A report without plots does not pay for them."""
    assert [e for entries in importers("matplotlib").values() for e in entries if not e.lazy] == []


def test_errors_and_records_are_the_ground() -> None:
    """Exceptions import nothing of the package, records nothing but them."""
    edges = inner_edges(lazy=True)
    assert {right for left, right in edges if left == "errors"} == set()
    assert {area(right) for left, right in edges if area(left) == "records"} <= {"errors", "records"}


def test_nothing_below_imports_the_faces() -> None:
    """Command line above debugger above pipeline above stages."""
    edges = inner_edges(lazy=True)
    faces = {"cli", "commands", "__main__"}
    assert {e for e in edges if area(e[1]) in faces and area(e[0]) not in faces} == set()
    assert {e for e in edges if e[1] == "debugger" and area(e[0]) not in faces} == set()
    # The chain of passes runs the whole pipeline once per step.
    orchestrators = faces | {"debugger", "stepwise"}
    assert {e for e in edges if e[1] == "pipeline" and area(e[0]) not in orchestrators} == set()


def test_there_are_no_cycles() -> None:
    """Lazy imports count: a circle is a circle."""
    graph: dict[str, set[str]] = {}
    for left, right in inner_edges(lazy=True):
        # Importing a package's own parts is what its __init__ is for.
        if left and right and not right.startswith(left + "."):
            graph.setdefault(left, set()).add(right)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def loaded_after(statement: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "onnx", "onnxruntime", "pandas", "matplotlib"}


@pytest.mark.parametrize(
    "statement",
    ["import alignkit", "import alignkit.records", "from alignkit.cli import build_parser; build_parser()"],
)
def test_a_plain_import_loads_nothing_heavy(statement: str) -> None:
    """``alignkit --help`` and ``import alignkit`` answer at once."""
    assert loaded_after(statement) & HEAVY == set()


def test_reading_a_report_needs_neither_torch_nor_a_runtime() -> None:
    """A report is looked at on machines that have none of it."""
    assert loaded_after("import alignkit.commands.report") & {"torch", "onnx", "onnxruntime"} == set()
    assert loaded_after("import alignkit; alignkit.Report") & HEAVY == set()


def test_planning_loads_onnx_only_for_a_file() -> None:
    """A decoder is planned without any of it, a file without torch."""
    assert loaded_after("import alignkit.commands.plan") & HEAVY == set()
    assert "torch" not in loaded_after("import alignkit.plan.schedule, alignkit.candidate")


def test_public_names_are_sorted_and_resolve() -> None:
    """``__all__`` is the public surface, and ``dir`` shows it."""
    assert list(alignkit.__all__) == sorted(alignkit.__all__)
    for name in alignkit.__all__:
        assert getattr(alignkit, name).__module__.startswith("alignkit")
        assert name in dir(alignkit)
    with pytest.raises(AttributeError, match="nonsense"):
        alignkit.nonsense  # noqa: B018


def test_every_all_is_sorted_and_resolves() -> None:
    """In the inner packages too."""
    for name in sorted(NAMES - {"__main__"}):
        module = importlib.import_module(f"alignkit.{name}".rstrip("."))
        exported = list(getattr(module, "__all__", []))
        assert exported == sorted(exported), name
        assert [entry for entry in exported if not hasattr(module, entry)] == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_modules_and_public_definitions_say_what_they_are(path: Path) -> None:
    """A docstring for every module and every public class and function at its top."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_public_methods_of_the_public_face_say_what_they_do() -> None:
    """What a user sees in ``help(alignkit.Debugger)``."""
    for name in alignkit.__all__:
        thing = getattr(alignkit, name)
        if inspect.isclass(thing):
            members = [m for k, m in inspect.getmembers(thing, inspect.isfunction) if not k.startswith("_")]
            assert [m.__qualname__ for m in members if not inspect.getdoc(m)] == []
        assert inspect.getdoc(thing)


def test_modules_and_functions_are_of_readable_size() -> None:
    """About 300 lines a module and 40 a function; a third more is the limit."""
    long_modules = {module_name(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert long_modules == {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                size = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert size <= 55, f"{path.name}: {node.name} has {size} lines"
