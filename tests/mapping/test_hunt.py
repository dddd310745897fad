"""A part of :mod:`tests.mapping.hunt`, which tries more models and as many faults as it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mapping.hunt import PLACES, hunt
from tests.zoo import EXPORTERS
from tests.zoo.plain import quiet_exporter

MODELS = ("detector", "gru", "distilbert", "segformer", "whisper-encoder")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", MODELS)
def test_the_layer_that_was_spoilt_is_named_alone(name: str, exporter: str, tmp_path: Path) -> None:
    """Two faults in what a layer is given and two in what it returns; none in the healthy model."""
    work = [(place, seed) for place in PLACES for seed in range(1 if place == "healthy" else 2)]
    with quiet_exporter():
        found = [hunt(name, exporter, place, seed, tmp_path) for place, seed in work]
    assert [each for each in found if each.wrong] == []
