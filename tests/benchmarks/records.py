"""What is measured of a tool, what it answers, and whether that names the node that was spoilt.

The rule: a tool names the spoilt node when its first finding is that node's and there is no other. A finding
is what the tool itself calls wrong, by its own default criterion (each module of ``peers`` says which). A
tool that sees nothing but propagated error cannot help finding all that comes after as well; then the table
says how many findings there are, and whether the node's is the first of them or at least the one with the
largest error. A finding is the node's when it is the node's own output, the torch operation that the node was
exported for, or the module whose code holds it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODULE_TAPS, OP_TAPS = "module", "op"
SESSIONS, FIRST_RUNS, RUNS = "sessions", "first runs", "runs"
NAMED = "named"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tool says of a file.

    ``compared`` counts distinct values of the file, ``taps`` the names that they were compared under where
    a tool has names of its own. ``found`` are the tool's findings in its order: names of ONNX values, or
    of modules. ``worst`` is the compared place with the largest error.
    """

    compared: int
    found: Sequence[str]
    worst: str
    taps: int | None = None

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Answer:
        """From what ``dataclasses.asdict`` gave, by way of JSON."""
        return Answer(**{**record, "found": tuple(record["found"])})


@dataclass(frozen=True, slots=True)
class Row:
    """One way to call one tool.

    ``taps`` are those of the floors that it is held against. ``floor`` says that it is one itself: that which
    creates its sessions, that of their first runs, or that of later ones. ``explains`` says that it does
    more on a broken file, so that its time there is never the one that counts.
    """

    label: str
    taps: str = MODULE_TAPS
    floor: str = ""
    explains: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """What was seen of a row on one model.

    ``seconds`` are wall times, one per run that counts. ``peak`` and ``before`` are bytes of resident memory:
    the most during a run, and what the process held just before it. ``healthy`` is the answer on the file as
    exported, ``broken`` that on the spoilt one, with the ``verdict`` on it. ``note`` says why there are no
    figures.
    """

    model: str
    row: Row
    seconds: Sequence[float] = ()
    peak: int = 0
    before: int = 0
    healthy: Answer | None = None
    broken: Answer | None = None
    verdict: str = ""
    note: str = ""


def judge(answer: Answer, place: Collection[str]) -> str:
    """In a few words, whether ``answer`` names the node that goes by the names in ``place``."""
    if not answer.compared:
        return "nothing compared"
    if not answer.found:
        return "nothing found"
    first, count = answer.found[0], len(answer.found)
    if first in place:
        return NAMED if count == 1 else f"first of {count}"
    if answer.worst in place:
        return f"worst of {count}, first {first}"
    return f"no: {count} found, first {first}"
