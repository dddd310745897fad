"""Six real models as files that nobody marked: every layer found, none wrongly, a fault where it is.

``python -m tests.mapping`` tries every kind of file of each by both exporters. Here the plain file is
tried by both, and of the others each by one. The rows are printed at the end of the run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.mapping.score import score_file
from tests.mapping.subject import MODELS, prepare
from tests.zoo import EXPORTERS
from tests.zoo.plain import quiet_exporter

FILES = {
    "torchscript": ("plain", "onnxsim", "qdq"),
    "dynamo": ("plain", "ort-basic", "fp16"),
}
SLOW = {("resnet18", "qdq"), ("mobilenet-v3-small", "qdq")}


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", MODELS)
def test_files_without_taps(
    name: str, exporter: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Nine in ten unfused layers mapped with no wrong pair, the healthy file aligned, one spoilt node named.

    What is converted to a lower precision is aligned or has the cause ``precision``.
    """
    with quiet_exporter():
        subject = prepare(name)
        kinds = [kind for kind in FILES[exporter] if (name, kind) not in SLOW]
        rows = [score_file(subject, exporter, kind, tmp_path) for kind in kinds]
    record_property("mapping", json.dumps([asdict(row) for row in rows]))
    assert [failure for row in rows for failure in row.failures] == []
