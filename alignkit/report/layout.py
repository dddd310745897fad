"""Text for a terminal: colour, wrapped entries and tables, all within a number of columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from alignkit.report.listing import VERDICT, Kind, Listing
from alignkit.report.words import display_width, one_line, shorten_middle

Paint = Callable[[str, str], str]
"""``paint(text, style)``: the text in a style of ``_STYLES``, or as it is when colour is off."""

LABEL_WIDTH = 13
"""Columns left of an entry's text: its label and the space around it."""

_STYLES = {"good": "32", "bad": "1;31", "warn": "33", "head": "1", "dim": "2"}


def painter(colour: bool) -> Paint:
    """Paint with control sequences, or not at all."""
    if not colour:
        return lambda text, style: text
    return lambda text, style: f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def entry(label: str, text: str, width: int) -> list[str]:
    """``label`` in a column of its own and ``text`` wrapped beside it; the text of a bullet hangs."""
    hang = "  " if text.startswith("- ") else ""
    return wrap(text, width, f"  {label:<10} ", " " * LABEL_WIDTH + hang)


def entries(pairs: Sequence[tuple[str, str]], width: int) -> list[str]:
    """One entry below the other; those without text are left out."""
    return [line for label, text in pairs if text for line in entry(label, text, width)]


def listed(label: str, items: Sequence[str]) -> list[tuple[str, str]]:
    """Entries for items one below the other, the label beside the first."""
    return [(label if index == 0 else "", item) for index, item in enumerate(items)]


def bullet(text: str, width: int) -> list[str]:
    """A list item."""
    return wrap(text, width, "  - ", "    ")


def wrap(text: str, width: int, first: str, following: str) -> list[str]:
    """Lines of at most ``width`` columns but for words that are longer: paths stay whole."""
    return textwrap.wrap(
        one_line(text),
        max(width, 40),
        initial_indent=first,
        subsequent_indent=following,
        break_long_words=False,
        break_on_hyphens=False,
    )


def listing_lines(listing: Listing, width: int, paint: Paint) -> list[str]:
    """A table with its header, as wide as ``width`` allows.

    Its elastic columns give way in their order, down to 10 characters and the first column down to 20;
    what then still does not fit is lost from the right, but never the first three.
    """
    titles, kinds = list(listing.columns), list(listing.columns.values())
    widths = _column_widths(listing, width)

    def padded(cells: Sequence[str]) -> list[str]:
        return [_pad(cells[i], columns, left=kinds[i] is not Kind.FIGURE) for i, columns in enumerate(widths)]

    lines = [paint(_joined(padded(titles)), "dim")]
    for index, row in enumerate(listing.rows):
        cells = padded(row)
        if listing.styles:
            verdict = titles.index(VERDICT)
            cells[verdict] = paint(cells[verdict], listing.styles[index])
        lines.append(_joined(cells))
    return lines


def _column_widths(listing: Listing, width: int) -> list[int]:
    """Of the columns that are shown."""
    lines = [list(listing.columns), *listing.rows]
    widths = [max(display_width(line[column]) for line in lines) for column in range(len(listing.columns))]
    least = [min(w, 20 if i == 0 else 10) if i in listing.elastic else w for i, w in enumerate(widths)]
    shown = len(widths)
    while shown > 3 and sum(least[:shown]) + 2 * shown > width:
        shown -= 1
    for column in listing.elastic:
        excess = sum(widths[:shown]) + 2 * shown - width
        if column < shown and excess > 0:
            widths[column] = max(least[column], widths[column] - excess)
    return widths[:shown]


def _joined(cells: Sequence[str]) -> str:
    return ("  " + "  ".join(cells)).rstrip()


def _pad(text: str, width: int, *, left: bool) -> str:
    cell = shorten_middle(text, width)
    space = " " * (width - display_width(cell))
    return cell + space if left else space + cell
