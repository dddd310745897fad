"""The budget: how it is shared out, and what is taken for free memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit import budget
from alignkit.budget import PART_BYTES, Budget, default_budget, free_memory, too_small
from alignkit.errors import CompareError
from alignkit.options import make_settings

MIB = 2**20


@given(st.integers(1, 2**50))
def test_the_shares_are_within_the_budget_and_grow_with_it(total: int) -> None:
    """No part is larger than what is quick, none is empty, and more memory never means less of anything."""
    small, large = Budget(total), Budget(total + total // 3 + 1)
    assert 1 <= small.part_bytes <= PART_BYTES
    assert 0 <= small.held_bytes <= total
    assert small.part_bytes <= max(1, total // 8)
    assert small.part_bytes <= large.part_bytes
    assert small.held_bytes <= large.held_bytes + 8
    assert small.overlaps <= large.overlaps
    # What a part's run takes is eight times its values.
    assert 8 * small.part_bytes + small.held_bytes <= total + 8


@pytest.mark.parametrize(
    ("total", "part", "held", "overlaps"),
    [
        (1, 1, 0, False),
        (64 * MIB, 8 * MIB, 0, False),
        (256 * MIB, 32 * MIB, 0, False),
        (1024 * MIB, 128 * MIB, 0, True),
        (8192 * MIB, 128 * MIB, 7168 * MIB, True),
    ],
)
def test_a_small_budget_is_for_the_parts_a_large_one_for_the_reference(
    total: int, part: int, held: int, overlaps: bool
) -> None:
    """An eighth for the values of a part; what its run does not take is for the reference."""
    found = Budget(total)
    assert (found.part_bytes, found.held_bytes, found.overlaps) == (part, held, overlaps)


def test_half_of_what_is_free_is_taken_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default is no promise: it refuses nothing."""
    monkeypatch.setattr(budget, "free_memory", lambda: 1000)
    assert default_budget() == Budget(500, given=False)
    monkeypatch.setattr(budget, "free_memory", lambda: 0)
    assert default_budget().part_bytes == 1


def test_free_memory_is_a_number_of_bytes() -> None:
    """Of this machine, whichever it is."""
    assert free_memory() >= 0


def group(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory_max": "max\n", "memory_current": "5\n"}, None),
        ({"memory_max": "1000\n", "memory_current": "300\n"}, 700),
        # Files that were read lie in memory until somebody needs it: they are no less free than elsewhere.
        (
            {
                "memory_max": "1000\n",
                "memory_current": "900\n",
                "memory_stat": "anon 300\ninactive_file 500\n",
            },
            600,
        ),
        ({"memory_max": "1000\n", "memory_current": "1200\n"}, 0),
        ({"memory_max": "1000\n"}, None),
        ({}, None),
    ],
)
def test_a_container_has_what_its_limit_leaves(
    files: dict[str, str], left: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has a limit; the machine's memory counts as well."""
    monkeypatch.setattr(budget, "_GROUP", group(tmp_path, **files))
    monkeypatch.setattr(budget, "_available", lambda: 10_000)
    assert free_memory() == (10_000 if left is None else left)


def test_a_budget_that_is_too_small_names_one_that_is_not() -> None:
    """In bytes, as the option takes it."""
    text = too_small(2**20, 3 * 2**20, "layer1#0[0]")
    assert text == (
        "the budget of 1 MiB is smaller than the largest tap: 'layer1#0[0]' takes 3 MiB. Give at least "
        "--max-memory 3145728."
    )


@pytest.mark.parametrize("given_bytes", [0, -1])
def test_no_bytes_at_all_are_no_budget(given_bytes: int) -> None:
    """An error of the call, before anything runs."""
    with pytest.raises(CompareError, match="give a number of bytes above zero"):
        make_settings(max_bytes=given_bytes)
    assert make_settings(max_bytes=5).budget == Budget(5, given=True)
    assert not make_settings().budget.given
