"""The JSON text in a dump: schema ``alignkit.dump/1``, written and read here and nowhere else.

A reader takes what it knows and leaves the rest, so that fields can be added under one schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alignkit.dump.records import SCHEMA, TIERS, About, DumpedTap, Kept
from alignkit.errors import InputError
from alignkit.records import Source

KEY = "alignkit.dump"
"""The name of the text in the file's metadata."""

_TEXTS = ("tensor", "module_type", "owner", "op", "onnx_node", "onnx_value", "absent")


def header_to_json(about: About) -> str:
    """The text; what has no value is left out."""
    document = {
        "schema": SCHEMA,
        "tier": about.tier,
        "producer": about.producer,
        "origin": about.origin,
        "versions": dict(about.versions),
        "taps": [_tap_to_dict(tap) for tap in about.taps],
        "inputs": [_tap_to_dict(tap) for tap in about.inputs],
        "outputs": list(about.outputs),
        "notes": list(about.notes),
    }
    return json.dumps({key: value for key, value in document.items() if value}, ensure_ascii=False)


def _tap_to_dict(tap: DumpedTap) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": tap.name}
    entry.update({field: getattr(tap, field) for field in _TEXTS if getattr(tap, field)})
    if tap.source:
        entry.update(source=tap.source.location, source_line=tap.source.text)
    if tap.reads is not None:
        entry["reads"] = list(tap.reads)
    if tap.kept:
        entry.update(shape=list(tap.kept.shape), dtype=tap.kept.dtype, sha256=tap.kept.sha256)
    return entry


def header_from_json(text: str) -> About:
    """Raises :class:`InputError`, without the file's name, when ``text`` is no header known here."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is damaged: its {KEY} metadata is no JSON ({error}); capture it again.") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"is a dump of schema {schema!r}; this version reads {SCHEMA!r}. Capture it again with it."
        )
    try:
        return _about(document)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise InputError(f"is not a valid dump: {reason}. Capture it again, or mend its writer.") from error


def _about(document: Mapping[str, Any]) -> About:
    if document["tier"] not in TIERS:
        raise ValueError(f"its tier is {document['tier']!r}, known are {' and '.join(TIERS)}")
    taps, inputs = (_taps(document, part) for part in ("taps", "inputs"))
    return About(
        document["tier"],
        _text(document, "producer"),
        _text(document, "origin"),
        {str(name): str(version) for name, version in dict(document.get("versions", {})).items()},
        taps,
        inputs,
        _texts(document, "outputs"),
        _texts(document, "notes"),
    )


def _taps(document: Mapping[str, Any], part: str) -> tuple[DumpedTap, ...]:
    entries = document.get(part, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{part!r} is not a list of objects with a name each")
    names = set()
    for entry in entries:
        if not _text(entry, "name"):
            raise ValueError(f"an entry of {part!r} has no name")
        if entry["name"] in names:
            raise ValueError(f"{part!r} lists {entry['name']!r} twice")
        names.add(entry["name"])
    return tuple(map(_tap_from_dict, entries))


def _tap_from_dict(entry: Mapping[str, Any]) -> DumpedTap:
    location = _text(entry, "source")
    kept = None
    if "shape" in entry:
        shape = tuple(int(size) for size in entry["shape"])
        kept = Kept(shape, _text(entry, "dtype"), _text(entry, "sha256"))
    return DumpedTap(
        name=entry["name"],
        source=Source(location, _text(entry, "source_line")) if location else None,
        reads=_texts(entry, "reads") if "reads" in entry else None,
        kept=kept,
        **{field: _text(entry, field) for field in _TEXTS if field in entry},
    )


def _text(entry: Mapping[str, Any], field: str) -> str:
    value = entry.get(field, "")
    if not isinstance(value, str):
        raise ValueError(f"{field!r} is {value!r}, not a text")
    return value


def _texts(entry: Mapping[str, Any], field: str) -> tuple[str, ...]:
    values = entry.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{field!r} is not a list of texts")
    return tuple(values)
