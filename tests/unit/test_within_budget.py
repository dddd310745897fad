"""A comparison within little memory: the reference in a file, the runs in small parts, the same report."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import alignkit
from alignkit.budget import PART_BYTES, Budget
from alignkit.capture import capture_reference, capture_replayed
from alignkit.errors import CompareError
from alignkit.instrument import Selection
from alignkit.records import Capture
from alignkit.storage import TensorStore
from tests import zoo
from tests.diagnosis import data
from tests.zoo.plain import quiet_exporter
from tests.zoo.tamper import tamper_node

CASES = ("four-blocks", "bert", "unet", "lstm")
ALL = Selection()


def capture(built: zoo.Built, budget: Budget | None, **how: Any) -> Capture:
    return capture_reference(built.model, built.args, built.kwargs, ALL, budget=budget, **how)


def assert_same_capture(found: Capture, known: Capture) -> None:
    """Bit for bit, in the same order, with the same tensors behind several taps."""
    assert list(found.taps.items()) == list(known.taps.items())
    assert list(found.values) == list(known.values)
    assert found.same == known.same
    assert (found.untapped, found.notes, found.random) == (known.untapped, known.notes, known.random)
    for tap, value in known.values.items():
        assert (found.values[tap].dtype, found.values[tap].shape) == (value.dtype, value.shape)
        assert found.values[tap].tobytes() == value.tobytes(), tap
    assert [one.tobytes() for one in found.outputs] == [one.tobytes() for one in known.outputs]


def largest(reference: Capture) -> int:
    return max(value.nbytes for value in reference.values.values())


def total(reference: Capture) -> int:
    """Of all tensors, each counted once."""
    return sum(value.nbytes for tap, value in reference.values.items() if tap not in reference.same)


@pytest.mark.parametrize("name", CASES)
def test_a_reference_in_a_file_is_the_one_in_memory(name: str) -> None:
    """With room for nothing, for some, and for all of it."""
    built = zoo.resolve(name).build()
    known = capture(built, None)
    most = 8 * PART_BYTES + total(known)
    for room in (largest(known), most - largest(known), most):
        found = capture(built, Budget(room, given=True))
        assert_same_capture(found, known)
        assert isinstance(found.values, TensorStore)
        held = total(known) - found.values.spilled_bytes
        assert held <= Budget(room).held_bytes + 64 * len(known.values)
        assert (found.values.spilled_bytes == 0) == (room == most)


def test_what_draws_random_numbers_is_known_from_a_file_as_well() -> None:
    """The second run, with another seed, is held against the first tap by tap."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(), nn.Linear(64, 64)).train()
    built = zoo.Built(model, (data(8, 64),))
    known, found = (capture(built, budget) for budget in (None, Budget(2048, given=True)))
    assert known.random == {"1#0[0]"}
    torch.manual_seed(0)
    known = capture(built, None)
    torch.manual_seed(0)
    found = capture(built, Budget(2048, given=True))
    assert_same_capture(found, known)


def test_a_run_in_another_way_is_spilled_too() -> None:
    """Each segment is fed out of the file, and what it gives goes to one."""
    built = zoo.resolve("four-blocks").build()
    budget = Budget(200_000, given=True)
    known, found = capture(built, None), capture(built, budget)
    where = (built.model, built.args, built.kwargs, ALL)
    replayed = [
        capture_replayed(*where, one, "torchscript", one.values.keys(), budget=limit)
        for one, limit in ((known, None), (found, budget))
    ]
    assert list(replayed[0]) == list(replayed[1])
    for tap, value in replayed[0].items():
        assert replayed[1][tap].tobytes() == value.tobytes()
    assert isinstance(replayed[1], TensorStore)
    assert replayed[1].spilled_bytes > 0


def test_a_budget_that_the_largest_tap_does_not_fit_is_refused_with_one_that_it_does() -> None:
    """The tap is named, and the number that is named suffices; a default budget refuses nothing."""
    built = zoo.resolve("four-blocks").build()
    size = largest(capture(built, None))
    with pytest.raises(CompareError, match=f"Give at least --max-memory {size}") as caught:
        capture(built, Budget(size - 1, given=True))
    assert "smaller than the largest tap" in str(caught.value)
    capture(built, Budget(size, given=True))
    capture(built, Budget(size - 1))


def test_one_tensor_behind_several_taps_that_is_too_large_is_told_all_the_same() -> None:
    """It was kept nowhere, so that nothing can stand for it."""
    model = nn.Sequential(nn.Sequential(nn.Identity()), nn.Identity())
    with pytest.raises(CompareError, match="smaller than the largest tap"):
        capture(zoo.Built(model, (data(9),)), Budget(8, given=True))


@dataclass(frozen=True, slots=True)
class Files:
    """A model with a right file and one in which a node was spoilt, both with taps."""

    built: zoo.Built
    right: Path
    spoilt: Path
    node: str


@pytest.fixture(scope="module", params=CASES)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Files:
    built = zoo.resolve(request.param).build()
    folder = tmp_path_factory.mktemp(request.param)
    options = built.export_options.get("torchscript", {})
    with quiet_exporter(), alignkit.Debugger(built.model):
        where = (built.model, built.args, str(folder / "right.onnx"))
        torch.onnx.export(*where, kwargs=dict(built.kwargs) or None, dynamo=False, **options)
    how = tamper_node(folder / "right.onnx", folder / "spoilt.onnx", how="weight", seed=3)
    return Files(built, folder / "right.onnx", folder / "spoilt.onnx", how.node)


def compared(files: Files, path: Path, max_bytes: int | None) -> alignkit.Report:
    built = files.built
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", alignkit.errors.AlignkitWarning)  # type: ignore[attr-defined]
        return alignkit.compare(built.model, built.args, built.kwargs, onnx=path, max_bytes=max_bytes)


@pytest.mark.parametrize("spoilt", [False, True], ids=["right", "spoilt"])
def test_the_report_is_the_same_within_little_memory(files: Files, spoilt: bool) -> None:
    """Verdicts and culprits; introduced metrics and noise floors bit for bit. The ordinary run may round
    otherwise at the border of a part."""
    path = files.spoilt if spoilt else files.right
    plain = compared(files, path, None)
    least = largest(capture(files.built, None))
    tight = compared(files, path, least)
    assert plain.aligned is tight.aligned is not spoilt
    rows, others = (
        [(row.tap, row.verdict, repr(row.introduced), row.noise_floor) for row in one.layers]
        for one in (tight, plain)
    )
    assert rows == others
    assert [row.verdict for row in tight.outputs] == [row.verdict for row in plain.outputs]
    assert tight.coverage == plain.coverage
    blamed, same = ([(one.tap, one.cause, one.onnx_nodes) for one in r.culprits] for r in (tight, plain))
    assert blamed == same
    assert len(plain.culprits) == spoilt
    if spoilt:
        assert any(f'"{files.node}"' in node for node in tight.culprits[0].onnx_nodes)
    said = [note for note in tight.notes if note not in plain.notes]
    assert len(said) == 1
    assert said[0].endswith("of the reference went to a temporary file (--max-memory).")
    assert (plain.data.settings["max_bytes"], tight.data.settings["max_bytes"]) == (None, least)
