"""Pins: a file in which the user says which value a tap corresponds to.

``{"schema": "alignkit.map/1", "taps": {"conv1#0[0]": "/conv1/Conv_output_0"}}``; in place of the name an
object may stand that has it as its ``value``, as in the ``map.json`` of a saved report, and null for a tap
that has none.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from alignkit.errors import CompareError
from alignkit.mapping.records import TapMapping
from alignkit.records import MAP_SCHEMA

SCHEMA = MAP_SCHEMA


def load_map(path: Path) -> dict[str, str]:
    """Tap -> ONNX value as the file says. Raises :class:`CompareError` for a file of another form."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CompareError(f"no map file at {path}: {error.strerror}. Check the path.") from error
    except ValueError as error:
        raise CompareError(f"{path} is not JSON ({error}). Write {_example()}.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise CompareError(f"{path} has the schema {schema!r}, not {SCHEMA!r}. Write {_example()}.")
    taps = content.get("taps")
    if not isinstance(taps, dict):
        raise CompareError(f"{path} does not map taps to names of ONNX values. Write {_example()}.")
    values = {tap: _value(entry) for tap, entry in taps.items()}
    for tap, value in values.items():
        if value is not None and not isinstance(value, str):
            raise CompareError(
                f"{path} does not map taps to names of ONNX values: {tap!r} is {value!r}. Write {_example()}."
            )
    return {tap: value for tap, value in values.items() if isinstance(value, str)}


def _value(entry: object) -> object:
    """The name in an entry; an object without one, which says nothing, is refused with the others."""
    return entry.get("value", entry) if isinstance(entry, dict) else entry


def save_map(path: Path, mapping: TapMapping) -> None:
    """Write the taps that have a value, to be corrected by hand and given back."""
    taps = {name: tap.onnx_value for name, tap in mapping.found().items()}
    text = json.dumps({"schema": SCHEMA, "taps": taps}, indent=2, ensure_ascii=False) + "\n"
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def check_pins(pinned: Mapping[str, str], taps: Collection[str], values: Collection[str]) -> None:
    """Raises :class:`CompareError` for a pin whose tap the model or whose value the file has not."""
    for tap, value in pinned.items():
        if tap not in taps:
            raise CompareError(f"the map pins the tap {tap!r}, which the model has not{_nearest(tap, taps)}.")
        if value not in values:
            raise CompareError(
                f"the map pins {tap!r} to the value {value!r}, which the main graph of the ONNX file "
                f"has not{_nearest(value, values)}."
            )


def _nearest(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _example() -> str:
    return f'{{"schema": "{SCHEMA}", "taps": {{TAP: VALUE}}}}'
