"""The texts of a repro bundle: ``repro.py``, ``test_repro.py`` and ``issue.md``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from string import Template


def render_template(name: str, values: Mapping[str, str]) -> str:
    """The text of that file name, each ``$key`` in it replaced by ``values[key]``."""
    text = resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values)
