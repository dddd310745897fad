"""All cases by name."""

from __future__ import annotations

from tests.faults import (
    baked,
    controls,
    injected,
    inputs,
    organic,
    runtime,
    translated,
    translated_attention,
    weights,
)
from tests.faults.case import FaultCase

CASES: dict[str, FaultCase] = {
    case.name: case
    for module in (
        injected,
        baked,
        organic,
        translated,
        translated_attention,
        inputs,
        weights,
        runtime,
        controls,
    )
    for case in module.CASES
}


def resolve(name: str, shift: int = 0) -> FaultCase:
    """The case of that name, an injected one with ``shift`` added to its seeds.

    Raises ``KeyError`` with a list of all names for an unknown one.
    """
    if name not in CASES:
        raise KeyError(f"no fault case {name!r}; there are {', '.join(CASES)}.")
    case = CASES[name]
    return injected.shifted(name, shift) if shift and case in injected.CASES else case
