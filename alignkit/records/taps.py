"""Taps: named points whose value is seen on both sides, and what may be said of one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

ROOT = "(model)"
"""How the root module, whose path is the empty string, is shown."""

MAP_SCHEMA = "alignkit.map/1"
"""Of a file that maps taps to ONNX values: a saved report writes one, ``map=`` reads it."""


class TapKind(str, Enum):
    """What a tap observes."""

    MODULE = "module"  # a value that a module's forward returned
    INPUT = "input"  # a value that a module's forward was given
    OP = "op"  # a value that a torch function returned inside a module's forward
    EXPLICIT = "explicit"  # a value that the user named with debug(x, "name")


class Verdict(str, Enum):
    """What the comparison says of one tap."""

    OK = "ok"
    INTRODUCED = "introduced"  # wrong although everything its segment read was right
    PROPAGATED = "propagated"  # wrong because of what came before
    MISSING = "missing"  # on one side only
    SHAPE = "shape"
    DTYPE = "dtype"
    NONFINITE = "nonfinite"  # NaN or Inf on one side only
    SKIPPED = "skipped"  # could not be compared; the reason says why

    @property
    def is_ok(self) -> bool:
        return self is Verdict.OK

    @property
    def introduces(self) -> bool:
        """The error is laid at the tap's own door."""
        return self in _INTRODUCED

    @property
    def was_compared(self) -> bool:
        return self not in (Verdict.MISSING, Verdict.SKIPPED)


_INTRODUCED = (Verdict.INTRODUCED, Verdict.NONFINITE, Verdict.SHAPE, Verdict.DTYPE)

_PATH, _NUMBER = r"(?P<path>(?:[^#]|##)+)", r"0|[1-9][0-9]*"
_MODULE_TAP = re.compile(rf"{_PATH}#(?P<call>{_NUMBER})(?P<input>:in)?\[(?P<index>{_NUMBER})\]")
_OP_TAP = re.compile(
    rf"{_PATH}#(?P<call>{_NUMBER})/(?P<op>[^#]+)#(?P<op_call>{_NUMBER})\[(?P<index>{_NUMBER})\]"
)


@dataclass(frozen=True, slots=True)
class TapId:
    """The identity of a tap, the same in the eager run, in the exported file and in the report.

    ``str()`` gives its name: ``layer1.0.relu#1[0]`` is output 0 of the second call (``#1``) of
    module ``layer1.0.relu``; ``layer1.0.relu#1:in[0]`` is an input of that call;
    ``up#0/interpolate#2[0]`` is the third ``interpolate`` inside it. An explicit tap is its name.
    ``path`` holds the module path (``(model)`` for the root) or the explicit name.
    """

    path: str
    call: int = 0
    index: int = 0
    kind: TapKind = TapKind.MODULE
    op: str = ""
    op_call: int = 0

    def __str__(self) -> str:
        if self.kind is TapKind.EXPLICIT:
            return self.path
        inner = f"/{self.op}#{self.op_call}" if self.kind is TapKind.OP else ""
        port = ":in" if self.kind is TapKind.INPUT else ""
        path = self.path.replace("#", "##")  # so that a module's name cannot read like a call
        return f"{path}#{self.call}{inner}{port}[{self.index}]"

    @classmethod
    def parse(cls, name: str) -> TapId:
        """The inverse of ``str()``; a name of no known form is an explicit tap."""
        if match := _OP_TAP.fullmatch(name):
            return cls(
                match["path"].replace("##", "#"),
                int(match["call"]),
                int(match["index"]),
                TapKind.OP,
                match["op"],
                int(match["op_call"]),
            )
        if match := _MODULE_TAP.fullmatch(name):
            kind = TapKind.INPUT if match["input"] else TapKind.MODULE
            path = match["path"].replace("##", "#")
            return cls(path, int(match["call"]), int(match["index"]), kind)
        return cls(name, kind=TapKind.EXPLICIT)


@dataclass(frozen=True, slots=True)
class Source:
    """A line of the user's code: ``location`` is ``file.py:42``, ``text`` the line itself, stripped."""

    location: str
    text: str = ""


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap as the eager run met it.

    ``owner`` is the path of the module whose own code made the value: the module itself for what
    it returns, its caller for what it is given.
    """

    id: TapId
    module_type: str
    owner: str = ROOT
    source: Source | None = None  # where the user's code makes the value, where known
