"""A dump holds what it was given, says what it is, and whatever is no dump is refused in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from alignkit.dump import About, DumpedTap, check_dump_target, read_dump, write_dump
from alignkit.dump.container import Container, ContainerWriter
from alignkit.dump.header import KEY, header_from_json, header_to_json
from alignkit.dump.records import FULL, SCHEMA, STATISTICS, Kept
from alignkit.errors import CompareError, InputError, ReportError
from alignkit.records import Array, Source

ARRAYS: dict[str, Array] = {
    "float32": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "scalar": np.float64(np.pi) * np.ones(()),
    "empty": np.empty((0, 3), np.float32),
    "bool": np.array([True, False, True]),
    "uint8": np.arange(5, dtype=np.uint8),
    "complex64": np.array([1 + 2j], np.complex64),
    "bfloat16": np.array([1.5, -2.0, 3.0], ml_dtypes.bfloat16),
    "float8": np.array([1.5, -2.0], ml_dtypes.float8_e4m3fn),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "reversed": np.arange(6, dtype=np.int64)[::-1],
    "big-endian": np.arange(3, dtype=">f4"),
}


def about_of(arrays: dict[str, Array], tier: str = FULL) -> About:
    return About(tier, taps=tuple(DumpedTap(name) for name in arrays))


def written(path: Path, arrays: dict[str, Array], tier: str = FULL) -> Path:
    write_dump(path, about_of(arrays, tier), ((f"tap/{name}", value) for name, value in arrays.items()))
    return path


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Every storable dtype, shape and memory layout; in the order of the taps."""
    dump = read_dump(written(tmp_path / "run.safetensors", ARRAYS))
    assert list(dump.taps) == list(ARRAYS)
    for name, array in ARRAYS.items():
        found = dump.tensor(dump.taps[name])
        assert (found.shape, found.dtype) == (array.shape, array.dtype.newbyteorder("="))
        assert found.tobytes() == array.astype(found.dtype).tobytes(), name


def test_the_file_is_one_that_safetensors_reads(tmp_path: Path) -> None:
    """Other programs need no alignkit to open a dump."""
    arrays = {name: ARRAYS[name] for name in ("uint8", "float32", "scalar", "transposed", "bfloat16")}
    path = written(tmp_path / "run.safetensors", arrays)
    found = safetensors.numpy.load_file(path)
    assert found.keys() == {f"tap/{name}" for name in arrays}
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[f"tap/{name}"], array)


def test_wide_tensors_are_aligned_in_the_file(tmp_path: Path) -> None:
    """A float64 tensor after three bytes would be slow to work on."""
    path = tmp_path / "x.safetensors"
    with ContainerWriter(path) as writer:
        writer.add("bytes", np.arange(3, dtype=np.uint8))
        writer.add("doubles", np.arange(3, dtype=np.float64))
        writer.finish({})
    assert Container(path)["doubles"].flags.aligned


def test_tensors_that_several_taps_saw_are_stored_once(tmp_path: Path) -> None:
    """An entry may name another's tensor, in either tier."""
    array = np.arange(1000, dtype=np.float32)
    for tier in (FULL, STATISTICS):
        about = About(tier, taps=(DumpedTap("a"), DumpedTap("b", tensor="tap/a")))
        path = tmp_path / f"{tier}.safetensors"
        write_dump(path, about, [("tap/a", array)])
        dump = read_dump(path)
        assert dump.taps["a"].tensor == dump.taps["b"].tensor == "tap/a"
        assert dump.statistics(dump.taps["b"]).high == 999.0
        assert len(safetensors.numpy.load_file(path)) == 1


def test_what_no_file_can_hold_is_absent_with_its_reason(tmp_path: Path) -> None:
    """Strings and complex128 do not stop the rest; neither does a tap that never came."""
    arrays = {
        "words": np.array(["a", "b"], object),
        "wide": np.array([1j]),
        "fine": np.ones(2, np.float32),
    }
    about = About(FULL, taps=(*(DumpedTap(name) for name in arrays), DumpedTap("never")))
    write_dump(tmp_path / "x", about, ((f"tap/{name}", value) for name, value in arrays.items()))
    dump = read_dump(tmp_path / "x")
    assert {name: tap.absent for name, tap in dump.taps.items()} == {
        "words": "strings are no numbers",
        "wide": "the file format has no type for complex128",
        "fine": "",
        "never": "the run gave no value for it",
    }


def test_a_dump_without_any_value_is_not_written(tmp_path: Path) -> None:
    """It would prove nothing; and nothing of it is left in the folder."""
    with pytest.raises(CompareError, match=r"nothing to dump: no tap has a value \(strings are no numbers\)"):
        written(tmp_path / "x", {"words": np.array(["a"])})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """An error while the tensors come takes back what was written."""

    def tensors() -> object:
        yield "tap/a", np.ones(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dump(tmp_path / "x", about_of({"a": np.ones(3)}), tensors())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    """With it, it is replaced."""
    path = tmp_path / "x"
    path.write_text("mine")
    with pytest.raises(
        ReportError, match=r"is there already\. Name another file, or replace it with --force"
    ):
        written(path, {"a": np.ones(1)})
    assert path.read_text() == "mine"
    write_dump(path, about_of({"a": np.ones(1)}), [("tap/a", np.ones(1))], force=True)
    assert list(read_dump(path).taps) == ["a"]


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    """Told before anything is run."""
    with pytest.raises(ReportError, match="it is a folder"):
        check_dump_target(tmp_path, force=True)
    with pytest.raises(ReportError, match="there is no folder"):
        check_dump_target(tmp_path / "missing" / "x", force=False)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
taps = st.builds(
    DumpedTap,
    texts,
    tensor=st.text(max_size=4),
    owner=st.text(max_size=4),
    source=st.none() | st.builds(Source, texts, texts),
    reads=st.none() | st.lists(texts, max_size=2).map(tuple),
    absent=st.text(max_size=4),
    kept=st.none() | st.builds(Kept, st.tuples(st.integers(0, 9)), st.just("float32"), texts),
)


@given(st.lists(taps, max_size=4, unique_by=lambda tap: tap.name), st.dictionaries(texts, texts, max_size=2))
def test_header_survives_its_json(entries: list[DumpedTap], versions: dict[str, str]) -> None:
    """Whatever the names hold."""
    about = About(FULL, "numpy", "x", versions, tuple(entries), tuple(entries), ("y",), ("a note",))
    assert header_from_json(header_to_json(about)) == about


def test_unknown_fields_are_left_alone() -> None:
    """A later writer may say more under the same schema."""
    text = json.dumps({"schema": SCHEMA, "tier": FULL, "new": 1, "taps": [{"name": "a", "newer": []}]})
    assert header_from_json(text).taps == (DumpedTap("a"),)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("{", "is no JSON"),
        ([], "schema None"),
        ({"schema": "alignkit.dump/2"}, r"schema 'alignkit.dump/2'; this version reads 'alignkit.dump/1'"),
        ({"schema": SCHEMA}, "no 'tier'"),
        ({"schema": SCHEMA, "tier": "half"}, "its tier is 'half', known are full and stats"),
        ({"schema": SCHEMA, "tier": FULL, "taps": {"a": 1}}, "'taps' is not a list of objects"),
        ({"schema": SCHEMA, "tier": FULL, "taps": [{}]}, "an entry of 'taps' has no name"),
        ({"schema": SCHEMA, "tier": FULL, "taps": [{"name": "a"}] * 2}, "'taps' lists 'a' twice"),
        ({"schema": SCHEMA, "tier": FULL, "inputs": [{"name": 3}]}, "'name' is 3, not a text"),
        ({"schema": SCHEMA, "tier": FULL, "outputs": "y"}, "'outputs' is not a list of texts"),
        ({"schema": SCHEMA, "tier": FULL, "versions": 3}, "not iterable"),
        ({"schema": SCHEMA, "tier": STATISTICS, "taps": [{"name": "a"}]}, "'a' has no shape and dtype"),
        ({"schema": SCHEMA, "tier": FULL, "taps": [{"name": "b"}]}, "lists 'b' but holds no tensor 'tap/b'"),
    ],
)
def test_headers_that_are_not_valid(tmp_path: Path, document: object, complaint: str) -> None:
    """One line, with the file's name and what is wrong."""
    text = document if isinstance(document, str) else json.dumps(document)
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"tap/a": np.ones(2)}, path, metadata={KEY: text})
    with pytest.raises(InputError, match=complaint) as caught:
        read_dump(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, ("exploded", "w"))


def test_files_that_are_no_dump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is refused in one line that says what it is; nothing is unpickled."""
    monkeypatch.chdir(tmp_path)
    whole = written(tmp_path / "whole", {"a": np.arange(100.0)}).read_bytes()
    contents = {
        "empty": (b"", "is not a dump: it is no safetensors file"),
        "text": (b"hello, this is no dump", "is not a dump: it is no safetensors file"),
        "pickle": (pickle.dumps(_Bomb()), "is not a dump: it is no safetensors file"),
        "short": (whole[:-1], "is damaged or cut short"),
        "header": (whole[:60], "is damaged or cut short"),
        "long": (whole + b"x", "is damaged or cut short"),
    }
    for name, (content, complaint) in contents.items():
        Path(name).write_bytes(content)
        with pytest.raises(InputError, match=f"^{name} {complaint}") as caught:
            read_dump(name)
        assert "\n" not in str(caught.value)
    assert not Path("exploded").exists()
    safetensors.numpy.save_file({"weight": np.ones(2)}, "plain")
    with pytest.raises(InputError, match=r"plain is not a dump: a safetensors file without 'alignkit\.dump'"):
        read_dump("plain")
    with pytest.raises(InputError, match="there is no file missing"):
        read_dump("missing")
    with pytest.raises(InputError, match="is a folder"):
        read_dump(tmp_path)


def test_statistics_that_are_none_are_refused(tmp_path: Path) -> None:
    """A statistics entry whose tensor has another size is damage, told when it is read."""
    entry = {"name": "a", "shape": [2], "dtype": "float32", "sha256": ""}
    text = json.dumps({"schema": SCHEMA, "tier": STATISTICS, "taps": [entry]})
    safetensors.numpy.save_file({"tap/a": np.ones(3)}, tmp_path / "x", metadata={KEY: text})
    dump = read_dump(tmp_path / "x")
    with pytest.raises(
        InputError, match=r"damaged: statistics of 'a': statistics are float64 of shape \[24\]"
    ):
        dump.statistics(dump.taps["a"])
