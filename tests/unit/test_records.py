"""The records: identities of taps survive the journey through a file, and verdicts mean what they say."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit import records
from alignkit.records import TapId, TapKind, Verdict

PIECES = ["a", ".", "#", "#0/", "0", "1", "/", ":in", "[0]", "\n", "é", " ", "=", "<"]
# Text that looks like parts of a tap's name, mixed with anything else.
PATHS = st.one_of(
    st.text(min_size=1),
    st.lists(st.sampled_from(PIECES), min_size=1).map("".join),
)
NUMBERS = st.integers(0, 10_000)
OPS = st.from_regex(r"[A-Za-z_][A-Za-z_0-9.]*", fullmatch=True)

MODULE_TAPS = st.builds(TapId, PATHS, NUMBERS, NUMBERS, st.sampled_from([TapKind.MODULE, TapKind.INPUT]))
OP_TAPS = st.builds(TapId, PATHS, NUMBERS, NUMBERS, st.just(TapKind.OP), OPS, NUMBERS)


@given(MODULE_TAPS)
@example(TapId("a#0/x", 1, 0))  # reads like operation x in the first call of a
@example(TapId("a#1[0]", 0, 0))
def test_a_module_tap_is_read_back_from_its_name(tap: TapId) -> None:
    """Whatever a module is called, its tap's name identifies it."""
    assert TapId.parse(str(tap)) == tap


@given(OP_TAPS)
def test_an_op_tap_is_read_back_from_its_name(tap: TapId) -> None:
    """Whatever the module is called that an operation ran in, the tap's name identifies both."""
    assert TapId.parse(str(tap)) == tap


@given(st.lists(st.one_of(MODULE_TAPS, OP_TAPS), min_size=2, max_size=2, unique=True))
def test_different_taps_have_different_names(taps: list[TapId]) -> None:
    """Two taps never share a name: the comparison joins by it."""
    assert str(taps[0]) != str(taps[1])


@given(PATHS)
def test_any_name_comes_back_unchanged(name: str) -> None:
    """The name in a file is the key of the join: reading it must not rewrite it."""
    assert str(TapId.parse(name)) == name


@pytest.mark.parametrize("name", ["a#٣[0]", "a#00[0]", "a#0[01]", "a#0/f#007[0]"])
def test_numbers_of_another_spelling_are_not_rewritten(name: str) -> None:
    """A number with leading zeros or in another script is not what alignkit writes: the name stays."""
    assert str(TapId.parse(name)) == name


@pytest.mark.parametrize(
    ("name", "tap"),
    [
        ("layer1.0.relu#1[0]", TapId("layer1.0.relu", 1, 0)),
        ("layer1.0.relu#1:in[2]", TapId("layer1.0.relu", 1, 2, TapKind.INPUT)),
        ("up#0/interpolate#2[0]", TapId("up", 0, 0, TapKind.OP, "interpolate", 2)),
        ("(model)#0[3]", TapId(records.ROOT, 0, 3)),
        ("x_0", TapId("x_0", kind=TapKind.EXPLICIT)),
        ("", TapId("", kind=TapKind.EXPLICIT)),
    ],
)
def test_the_documented_forms(name: str, tap: TapId) -> None:
    """The forms that the documentation shows are written and read exactly so."""
    assert str(tap) == name
    assert TapId.parse(name) == tap


def test_only_ok_is_ok_and_only_two_verdicts_were_not_compared() -> None:
    """A missing or skipped tap is neither a pass nor a comparison."""
    assert [v for v in Verdict if v.is_ok] == [Verdict.OK]
    assert [v for v in Verdict if not v.was_compared] == [Verdict.MISSING, Verdict.SKIPPED]


def test_records_are_frozen() -> None:
    """A later stage cannot fill blanks in an earlier stage's record."""
    classes = [c for c in vars(records).values() if dataclasses.is_dataclass(c)]
    assert classes
    for cls in classes:
        assert cls.__dataclass_params__.frozen, f"{cls.__name__} is not frozen"  # type: ignore[attr-defined]
        assert "__slots__" in vars(cls), f"{cls.__name__} has no slots"
