"""What a comparison ran on: versions and machine, for the report."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

_PACKAGES = ("alignkit", "torch", "onnx", "onnxruntime", "onnxscript", "numpy")


def describe_environment() -> dict[str, Any]:
    """Versions of Python and of the packages that decide the numbers, and the machine."""
    versions = {name: _version(name) for name in _PACKAGES}
    return {
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
