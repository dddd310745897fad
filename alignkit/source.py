"""Source: the line of the user's code that is running, found on the stack.

The user's code is the innermost frame that belongs neither to torch, alignkit, a tensor helper
library nor Python's own library. For a model out of a library that is a line of its modelling file.
"""

from __future__ import annotations

import linecache
import os
import re
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from alignkit.records import Source

_HELPERS = {"alignkit", "torch", "functorch", "einops", "opt_einsum", "numpy"}
"""Installed packages whose lines say nothing of the model."""

_ELSEWHERE = tuple(str(Path(file).parent) + os.sep for file in (torch.__file__, __file__, os.__file__))
"""torch and alignkit where they run from a checkout; Python's own library."""

_SITES = ("site-packages", "dist-packages")
_LONGEST = 200
_ANYWHERE = re.compile(r"[/\\](torch[/\\](nn|_\w+)|lib[/\\]python3\.\d+)[/\\](?!(site|dist)-packages)")
"""torch and Python's own library on another machine, where a file may have been exported."""
_TRACED = re.compile(r'File "([^"\n]+)", line (\d+), in [^\n]*(?:\n(?! *File ")([^\n]*))?')


class SourceFinder:
    """Finds source lines, and keeps each; paths are told relative to the directory it was made in.

    ``until`` is the frame that runs the model: neither it nor what is beyond it is model code.
    """

    def __init__(self) -> None:
        self.until: FrameType | None = None
        self._folder = Path.cwd()
        # A code object is kept beside its line: while it lives, its id is no other's.
        self._known: dict[tuple[int, int], tuple[CodeType, Source]] = {}

    def find(self, frame: FrameType | None, callee: object = None) -> Source | None:
        """The user's line on the stack from ``frame`` on; None where no line of the model's is.

        The ``__call__`` of ``callee``, the module that is being called, is part of the callee.
        """
        while frame is not None and frame is not self.until:
            if is_user_code(frame.f_code.co_filename) and not _is_call_of(callee, frame):
                return self._source(frame)
            frame = frame.f_back
        return None

    def _source(self, frame: FrameType) -> Source:
        key = (id(frame.f_code), frame.f_lasti)
        if key not in self._known:
            location = f"{_shown_path(frame.f_code.co_filename, self._folder)}:{frame.f_lineno}"
            self._known[key] = (frame.f_code, Source(location, _statement(frame)))
        return self._known[key][1]


def line_in_trace(trace: str) -> Source | None:
    """The user's line in a stack trace as text, innermost frame last, as an exporter notes it in a file;
    None where no line of the model's is."""
    frames = [frame for frame in _TRACED.findall(trace) if is_user_code_anywhere(frame[0])]
    if not frames:
        return None
    filename, number, text = frames[-1]
    return Source(f"{_shown_path(filename, Path.cwd())}:{number}", _shortened(text.strip()))


@lru_cache(maxsize=4096)
def is_user_code(filename: str) -> bool:
    """Whether ``filename`` belongs to a model rather than to what models are made with."""
    if filename.startswith("<"):  # a notebook cell, generated code
        return not filename.startswith("<frozen")
    installed = _below_site(Path(filename).parts)
    return installed[0] not in _HELPERS if installed else not filename.startswith(_ELSEWHERE)


def is_user_code_anywhere(filename: str) -> bool:
    """The same of a path that may be another machine's, where torch and Python lie elsewhere."""
    return is_user_code(filename) and not _ANYWHERE.search(filename)


def _below_site(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The part of a path below the folder of installed packages, if it lies there."""
    for position in range(len(parts) - 1, -1, -1):
        if parts[position] in _SITES:
            return parts[position + 1 :]
    return ()


def _is_call_of(callee: object, frame: FrameType) -> bool:
    """Whether the frame is a ``__call__`` that the callee's own class puts around its forward."""
    return (
        callee is not None
        and frame.f_code.co_name == "__call__"
        and frame.f_locals.get(next(iter(frame.f_code.co_varnames), "")) is callee
    )


def _shown_path(filename: str, folder: Path) -> str:
    """Installed: from the package on. Below ``folder``: relative to it. Else the last two parts."""
    if filename.startswith("<"):
        return filename
    path = Path(os.path.abspath(filename))
    if installed := _below_site(path.parts):
        return "/".join(installed)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else "/".join(path.parts[-2:])


def _statement(frame: FrameType) -> str:
    """The text of the running expression's lines, joined to one."""
    filename, (first, last) = frame.f_code.co_filename, _line_range(frame)
    lines = [linecache.getline(filename, number, frame.f_globals) for number in range(first, last + 1)]
    text = " ".join(line.strip() for line in lines if not line.lstrip().startswith("#"))
    if last > first:
        # What a formatter has broken after an opening bracket, joined as one would write it.
        text = re.sub(r",? (?=[)\]}])", "", re.sub(r"(?<=[(\[{]) ", "", text))
    return _shortened(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _line_range(frame: FrameType) -> tuple[int, int]:
    """First and last line of the running expression; Python 3.10 knows only the first."""
    positions: Any = getattr(frame.f_code, "co_positions", None)
    first = last = None
    if positions is not None:
        first, last, *_ = next(islice(positions(), frame.f_lasti // 2, None), (None, None))
    return (first, last) if first and last else (frame.f_lineno, frame.f_lineno)
