"""From ``package.module:attr`` or ``path/file.py:attr`` to the Python object it names.

The same spelling names models and inputs, so every function takes the exception type to raise.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from alignkit.errors import AlignkitError

FORMS = "package.module:attr or path/file.py:attr"

_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_MESSAGE_LIMIT = 300
_NAMES_SHOWN = 5
_HERE = os.path.dirname(os.path.abspath(__file__))


@contextmanager
def imported_object(spec: str, error_type: type[AlignkitError]) -> Iterator[object]:
    """The object that ``spec`` names.

    The current directory (and a file's own folder) can be imported from until the block ends, so
    that a factory called inside it may import lazily; what was added to ``sys.path`` is then taken off.
    """
    target, attr = _split_spec(spec, error_type)
    folders = [os.getcwd()]
    if is_file := _is_file_target(target):
        folders.insert(0, str(Path(target).resolve().parent))
    with _on_path(folders):
        module = _import_file(target, error_type) if is_file else _import_module(target, error_type)
        yield _resolve_attr(module, attr, spec, error_type)


def call_without_arguments(
    factory: Callable[[], object], spec: str, error_type: type[AlignkitError], advice: str
) -> object:
    """``factory()``, whatever it raises told in one line that ends in ``advice``."""
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise error_type(f"{spec} raised {describe_error(error)}; {advice}.") from error


def names_attr(source: str) -> bool:
    """Whether ``source`` has a colon that separates an attribute (a drive letter's does not)."""
    return source.rfind(":") > (1 if _DRIVE.match(source) else -1)


def one_line(text: object, limit: int = _MESSAGE_LIMIT) -> str:
    """``text`` without line breaks, cut to ``limit`` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def describe_error(error: BaseException) -> str:
    """``ValueError: its message (at net.py:7)``, in one line."""
    where = _raised_at(error)
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{_shown(error.filename)}:{error.lineno}"
    return f"{summarise_error(error)} (at {where})" if where else summarise_error(error)


def summarise_error(error: BaseException) -> str:
    """``ValueError: its message``, in one line."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    name = type(error).__name__
    return f"{name}: {one_line(message)}" if message else name


def type_of(value: object) -> str:
    """What a value is, for an error message: ``None``, or its type's name with the module."""
    if value is None:
        return "None"
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def suggest(name: str, known: list[str]) -> str:
    """``did you mean 'a'?``, or ``choose from a, b.`` where no known name is close."""
    if close := difflib.get_close_matches(name, known, n=3, cutoff=0.5):
        return f"did you mean {' or '.join(map(repr, close))}?"
    more = ", …" if len(known) > _NAMES_SHOWN else ""
    return f"choose from {', '.join(known[:_NAMES_SHOWN])}{more}." if known else "nothing is defined there."


def _split_spec(spec: str, error_type: type[AlignkitError]) -> tuple[str, str]:
    target, _, attr = spec.rpartition(":") if names_attr(spec) else (spec, "", "")
    if not target or not all(attr.split(".")):
        example = f"{target or 'file.py'}:attr"
        raise error_type(f"{spec!r} does not name an object: expected {FORMS}, e.g. {example}.")
    return target, attr


def _is_file_target(target: str) -> bool:
    return target.endswith(".py") or "/" in target or "\\" in target or Path(target).is_file()


@contextmanager
def _on_path(folders: list[str]) -> Iterator[None]:
    """``folders`` first on ``sys.path``; what the imported code itself adds to it stays, as ever."""
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            if folder in sys.path:
                sys.path.remove(folder)


def _import_module(name: str, error_type: type[AlignkitError]) -> ModuleType:
    if not all(name.split(".")):
        raise error_type(f"{name!r} is not the name of a module: expected {FORMS}.")
    importlib.invalidate_caches()  # the file may be younger than the import system's listing of its folder
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{name}.".startswith(f"{missing}."):
            raise error_type(
                f"module {name!r} was not found: there is no {missing!r} in {os.getcwd()} or on sys.path; "
                "run from the folder that holds it, or name the file: path/file.py:attr."
            ) from error
        raise _import_failed(f"module {name!r}", error, error_type) from error


def _import_file(target: str, error_type: type[AlignkitError]) -> ModuleType:
    path = Path(target).resolve()
    if path.suffix != ".py":
        raise error_type(f"{target} is not a Python file (.py): expected {FORMS}.")
    if not path.is_file():
        raise error_type(f"there is no file {target} (looked in {path.parent}); check the path.")
    name = _module_name(path)
    if name in sys.modules:  # as with import: once per process, so the model and its inputs share classes
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # there is a loader for every path that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution: dataclasses, inspect and pickle look the module up
    importlib.invalidate_caches()
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        if not isinstance(error, (Exception, SystemExit)):
            raise  # an interrupt is the user's
        raise _import_failed(target, error, error_type) from error
    return module


def _module_name(path: Path) -> str:
    """The same for the same file, and no other module's."""
    stem = re.sub(r"\W", "_", path.stem)
    return f"alignkit_file_{stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def _import_failed(where: str, error: BaseException, error_type: type[AlignkitError]) -> AlignkitError:
    advice = "it must import cleanly: try it in python first"
    if isinstance(error, ImportError) and "relative import" in str(error):
        advice = "a file with relative imports must be named as a module of its package: package.module:attr"
    elif isinstance(error, ModuleNotFoundError):
        advice = "install what is missing, or run from the folder that holds it"
    elif isinstance(error, SystemExit):
        advice = 'move what the script runs under: if __name__ == "__main__"'
    return error_type(f"importing {where} raised {describe_error(error)}; {advice}.")


def _resolve_attr(module: ModuleType, attr: str, spec: str, error_type: type[AlignkitError]) -> object:
    value: object = module
    for part in attr.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            holder = "the file" if _is_file_target(spec.rpartition(":")[0]) else "the module"
            holder = holder if value is module else f"{type_of(value)} before it"
            raise error_type(
                f"{spec} is not there: {holder} has no {part!r}; {suggest(part, _own_names(value))}"
            ) from error
        except Exception as error:
            raise error_type(
                f"reading {spec} raised {describe_error(error)}; name an attribute that can be read."
            ) from error
    return value


def _own_names(holder: object) -> list[str]:
    """Names a user may mean: not private, not imported modules, what a module itself defines first."""
    values = vars(holder) if isinstance(holder, ModuleType) else dict.fromkeys(dir(holder))
    public = [
        name
        for name, value in values.items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    ]
    home = getattr(holder, "__name__", None)
    return sorted(public, key=lambda name: getattr(values[name], "__module__", home) != home)


def _raised_at(error: BaseException) -> str:
    """``file:line`` of the raise; where that is a library's, also the user's line that led there."""
    frames = [
        (frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not _is_import_machinery(frame.f_code.co_filename)
    ]
    if not frames:
        return ""
    raised = f"{_shown(frames[-1][0])}:{frames[-1][1]}"
    mine = next((frame for frame in reversed(frames) if not _is_library(frame[0])), frames[-1])
    return raised if mine == frames[-1] else f"{raised}, called from {_shown(mine[0])}:{mine[1]}"


def _is_import_machinery(filename: str) -> bool:
    return (
        filename.startswith("<frozen")
        or filename == importlib.__file__
        or os.path.dirname(os.path.abspath(filename)) == _HERE
    )


def _is_library(filename: str) -> bool:
    folders = (sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib", "platlib"))
    return filename.startswith(("<", *folders))


def _shown(filename: str) -> str:
    """Relative to the current directory for a file below it."""
    here = os.getcwd() + os.sep
    return filename[len(here) :] if filename.startswith(here) else filename
