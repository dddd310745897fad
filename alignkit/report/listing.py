"""A table as the text and the Markdown report both show it; each draws it in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

VERDICT = "verdict"
"""The title of the column that a row's style is for."""


class Kind(Enum):
    """What the cells of a column are."""

    NAME = "a name out of the model or the user's files: it may hold anything"
    PROSE = "words that may hold anything"
    WORD = "one of the report's own words"
    FIGURE = "a number in words"


@dataclass(frozen=True, slots=True)
class Listing:
    """Rows of plain cells under titled columns. ``-`` is an empty cell.

    ``elastic`` are the columns that give way where the space is short, in that order. ``styles`` has, where
    verdicts are coloured, an entry per row: ``good``, ``warn``, ``bad`` or ``dim``.
    """

    columns: Mapping[str, Kind]
    rows: Sequence[Sequence[str]]
    elastic: Sequence[int] = ()
    styles: Sequence[str] = ()
