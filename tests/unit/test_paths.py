"""Names of files: short, and never the same for two."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.paths import told_apart


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ("a.onnx", "b.onnx", ("a.onnx", "b.onnx")),
        ("before/m.onnx", "after/m.onnx", ("before/m.onnx", "after/m.onnx")),
        ("x/out/m.onnx", "y/out/m.onnx", ("x/out/m.onnx", "y/out/m.onnx")),
        ("here/../old/m.onnx", "new/m.onnx", ("old/m.onnx", "new/m.onnx")),
        ("/m.onnx", "/a/m.onnx", ("/m.onnx", "a/m.onnx")),
        ("m.onnx", "./m.onnx", ("m.onnx", "m.onnx")),
    ],
)
def test_as_many_folders_as_it_takes(one: str, other: str, names: tuple[str, str]) -> None:
    """None where the names differ, or where it is one file."""
    assert told_apart(Path(one), Path(other)) == names
    assert told_apart(Path(other), Path(one)) == names[::-1]
