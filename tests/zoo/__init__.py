"""Real models with random weights, for tests that compare PyTorch with ONNX from end to end.

``CASES`` is the table, ``resolve(name)`` looks a case up, ``case.build()`` makes its model. A module
per family: :mod:`convolutional`, :mod:`attention`, :mod:`structured` and :mod:`custom` (custom
operators). :mod:`plain` exports and runs a case without alignkit; :mod:`tamper` spoils one node of
an exported file.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.zoo import attention, convolutional, custom, structured
from tests.zoo.case import EXPORTERS, Built, Case

__all__ = ["CASES", "EXPORTERS", "Built", "Case", "exportable", "resolve"]

CASES: dict[str, Case] = {
    case.name: case for case in (*convolutional.CASES, *attention.CASES, *structured.CASES, *custom.CASES)
}


def resolve(name: str) -> Case:
    """The case of that name. Raises ``KeyError`` with a list of all names for an unknown one."""
    try:
        return CASES[name]
    except KeyError:
        raise KeyError(f"no case {name!r} in the zoo; there are {', '.join(CASES)}.") from None


def exportable() -> Iterator[tuple[Case, str]]:
    """Every case with each exporter that can export it."""
    for case in CASES.values():
        for exporter in case.exporters:
            yield case, exporter
