"""A sweep of shapes: ``x:{1,4}x3x{224,256}x{224,256}`` and all that its alternatives combine to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod

from alignkit.errors import InputError
from alignkit.load.shapes import InputShape, parse_shape

MOST_SHAPES = 256
"""Combinations that are compared at most."""

_BRACES = re.compile(r"\{([^{}]*)\}")
_CHOICE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<sizes>\d+(?:,\d+)*)")
_FORM = "write {1,4}, or {batch=1,4} and elsewhere {batch}"

_Dimension = tuple[str, int]


def expand_shapes(texts: Sequence[str]) -> list[tuple[InputShape, ...]]:
    """Every combination of the alternatives in ``texts``, one text per input; the last varies fastest.

    Which dimensions of several inputs are one: see :func:`alignkit.input_shapes`. Raises
    :class:`InputError` for what is no shape, and for more than :data:`MOST_SHAPES` combinations.
    """
    sizes = _dimensions(texts)
    number = prod(map(len, sizes.values()))
    if number > MOST_SHAPES:
        raise InputError(
            f"{' '.join(texts)} gives {number:,} shapes; at most {MOST_SHAPES} are compared. "
            "Give fewer alternatives, or name dimensions that go together: {batch=1,4} and {batch}."
        )
    combinations = (dict(zip(sizes, chosen, strict=True)) for chosen in product(*sizes.values()))
    return [tuple(parse_shape(_fill(text, chosen)) for text in texts) for chosen in combinations]


def _dimensions(texts: Sequence[str]) -> dict[_Dimension, list[str]]:
    """Dimension -> the sizes that it takes, in the order of the texts."""
    found: dict[_Dimension, list[str]] = {}
    for text in texts:
        for dimension, content in _braces(text):
            match = _CHOICE.fullmatch(content)
            if match is None:
                if not content.isidentifier():
                    raise InputError(f"{{{content}}} in {text!r} gives no sizes; {_FORM}.")
                continue
            sizes = list(dict.fromkeys(match["sizes"].split(",")))
            if found.setdefault(dimension, sizes) != sizes:
                raise InputError(f"the dimension {match['name']!r} is given two lists of sizes; keep one.")
    for text in texts:
        for dimension, _ in _braces(text):
            if dimension not in found:
                raise InputError(f"the dimension {dimension[0]!r} in {text!r} has no sizes; {_FORM}.")
    return found


def _braces(text: str) -> Iterator[tuple[_Dimension, str]]:
    """The dimension that each pair of braces stands for, and what is written between them.

    A named one is that name. Others are told by their text and by how often it stood in this input
    before: the second ``{224,256}`` of one input is the second of another.
    """
    seen: dict[str, int] = {}
    for match in _BRACES.finditer(text):
        content = match[1].replace(" ", "")
        name = content.partition("=")[0]
        if name.isidentifier():
            yield (name, 0), content
        else:
            seen[content] = seen.get(content, 0) + 1
            yield (content, seen[content]), content


def _fill(text: str, chosen: Mapping[_Dimension, str]) -> str:
    """``text`` with a size in place of every pair of braces."""
    dimensions = _braces(text)
    return _BRACES.sub(lambda _: chosen[next(dimensions)[0]], text)
