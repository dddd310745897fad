"""Models beyond 2 GB: weights are never read into a message, nor copied for a probe.

The real one, of over a billion parameters, is ``pytest -m huge``: 20 GB of disk, 15 GB of memory.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import alignkit
from alignkit.backends import OnnxRuntime, Session
from tests.benchmarks.large import build, main

_SMALL = 1 / 8  # of the weights: what a message may weigh, most of which is the small weights


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_weights_stay_in_their_file(exporter: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No probe that a runtime is handed holds the weights, and all layers are compared."""
    model, args = build("tiny", dtype)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    opened: list[int] = []

    def spy(self: OnnxRuntime, model: bytes | Path, folder: Path | None = None) -> Session:
        if isinstance(model, bytes):  # the file as deployed is opened by its path
            opened.append(len(model))
        return original(self, model, folder)

    original = OnnxRuntime.open
    monkeypatch.setattr(OnnxRuntime, "open", spy)
    report = alignkit.compare(model, args, exporter=exporter)
    assert report.aligned, str(report)
    assert report.coverage.compared > 40
    assert len(opened) >= 2
    assert max(opened) < weights * _SMALL


@pytest.mark.huge
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_billion_parameters(exporter: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The benchmark's own row: aligned, whatever the size of the file."""
    main(["--exporters", exporter])
    assert "| ALIGNED" in capsys.readouterr().out
