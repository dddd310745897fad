"""load_inputs: every kind of file and object, and one clear line for every one that cannot be used."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alignkit.errors import InputError
from alignkit.load import ModelInputs, load_inputs
from alignkit.load.arguments import split_arguments


class Trap:
    """Leaves a folder behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory; ``sys.path`` and the global RNG must come back, no pickle be run."""
    monkeypatch.chdir(tmp_path)
    path, state = list(sys.path), torch.get_rng_state()
    yield tmp_path
    assert sys.path == path, "sys.path was not restored"
    assert torch.equal(torch.get_rng_state(), state), "the global RNG was moved"
    assert not Path("sprung").exists(), "a pickle was executed"


def only(source: str) -> ModelInputs:
    """The one sample that a source holds."""
    (sample,) = load_inputs([source], names=None)
    return sample


def failure(*sources: str, names: list[str] | None = None) -> str:
    """What ``load_inputs`` says of sources that cannot work: always exactly one line."""
    with pytest.raises(InputError) as caught:
        load_inputs(sources, names=names)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert message.endswith((".", "?"))
    return message


def save_arrays(path: str, *names: str) -> None:
    """An .npz file with an array of ones under each name."""
    arrays: dict[str, Any] = {name: np.ones(1) for name in names}
    np.savez(path, **arrays)


def save_npz(path: str) -> None:
    with open(path, "wb") as file:
        np.savez(file, arg0=np.arange(300.0), x=np.ones((2, 2), np.int64))


def save_npy(path: str) -> None:
    with open(path, "wb") as file:
        np.save(file, np.arange(300.0))


def save_safetensors(path: str) -> None:
    save_file({"arg0": torch.arange(300.0), "x": torch.ones(2, 2)}, path)


def save_torch(path: str) -> None:
    torch.save({"arg0": torch.arange(300.0), "x": torch.ones(2, 2)}, path)


def save_legacy_torch(path: str) -> None:
    torch.save(torch.arange(300.0), path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[str], None]] = {
    "npz": save_npz,
    "npy": save_npy,
    "safetensors": save_safetensors,
    "torch": save_torch,
    "legacy torch": save_legacy_torch,
}


# --- files that can be read -------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".pt", ".bin", ""])
def test_the_content_tells_the_kind(kind: str, suffix: str) -> None:
    """Whatever a file is called, what is in it decides how it is read."""
    WRITERS[kind]("data" + suffix)
    sample = only("data" + suffix)
    assert torch.equal(sample.args[0].double(), torch.arange(300.0).double())
    assert sample.origin == "data" + suffix


def test_npz_names() -> None:
    """``argN`` and numpy's own ``arr_N`` are positional in order of N, other names keywords."""
    np.savez("a.npz", np.zeros(1), np.ones(1), mask=np.array([True]))
    sample = only("a.npz")
    assert [float(tensor) for tensor in sample.args] == [0.0, 1.0]
    assert list(sample.kwargs) == ["mask"]
    assert sample.kwargs["mask"].dtype == torch.bool
    numbered: dict[str, Any] = {f"arg{n}": np.array(n) for n in reversed(range(11))}
    np.savez("b.npz", **numbered)
    assert [int(tensor) for tensor in only("b.npz").args] == list(range(11))


def test_npz_compressed() -> None:
    """Compressed archives are read like plain ones."""
    np.savez_compressed("a.npz", x=np.arange(5))
    assert torch.equal(only("a.npz").kwargs["x"], torch.arange(5))


def test_npy_is_one_positional_argument() -> None:
    """Also a scalar, a Fortran-ordered and a big-endian array, with values and shape kept."""
    np.save("scalar.npy", np.float32(2.5))
    assert only("scalar.npy").args[0].shape == ()
    array = np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3))
    np.save("order.npy", array)
    sample = only("order.npy")
    assert torch.equal(sample.args[0], torch.arange(6.0).reshape(2, 3))
    assert sample.args[0].is_contiguous()
    assert sample.kwargs == {}


def test_safetensors_with_bfloat16() -> None:
    """bfloat16, which numpy does not have, arrives as it was saved."""
    save_file({"x": torch.tensor([1.5, -2.0], dtype=torch.bfloat16)}, "a.safetensors")
    tensor = only("a.safetensors").kwargs["x"]
    assert tensor.dtype == torch.bfloat16
    assert tensor.tolist() == [1.5, -2.0]


def test_a_safetensors_header_that_begins_like_a_pickle() -> None:
    """A header length of 0x0280 has the first two bytes of a pickle; it is safetensors all the same."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).ljust(0x280)
    length = len(header).to_bytes(8, "little")
    assert length.startswith(b"\x80\x02")
    Path("a").write_bytes(length + header.encode() + np.float32(7).tobytes())
    assert float(only("a").kwargs["x"]) == 7.0


@pytest.mark.parametrize(
    ("value", "args", "kwargs"),
    [
        (torch.ones(2), 1, []),
        ((torch.ones(2), torch.ones(3)), 2, []),
        ([torch.ones(2), torch.ones(3)], 2, []),
        ({"x": torch.ones(2), "y": torch.ones(2)}, 0, ["x", "y"]),
        ({"arg0": torch.ones(2), "y": torch.ones(2)}, 1, ["y"]),
        ((torch.ones(2), (torch.ones(1), None), 3), 3, []),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(value: object, args: int, kwargs: list[str], zipped: bool) -> None:
    """A tensor, tuple, list or dict of tensors, in the zip format and the one before it."""
    torch.save(value, "a.pt", _use_new_zipfile_serialization=zipped)
    sample = only("a.pt")
    assert len(sample.args) == args
    assert list(sample.kwargs) == kwargs


def test_every_source_is_a_sample_in_order() -> None:
    """Files and objects may be mixed; a list of several samples takes several places."""
    save_npy("a.npy")
    Path("data.py").write_text("import torch\nbatches = [torch.ones(1), (torch.ones(2),)]\n")
    samples = load_inputs(["a.npy", "data.py:batches", "a.npy"])
    assert [sample.origin for sample in samples] == [
        "a.npy",
        "data.py:batches[0]",
        "data.py:batches[1]",
        "a.npy",
    ]
    assert load_inputs([]) == []


def test_a_file_name_with_a_colon() -> None:
    """A file that is there is a file, whatever its name looks like."""
    save_npy("data:x")
    assert len(only("data:x").args) == 1


# --- objects ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "args", "kwargs"),
    [
        ("torch.ones(1)", 1, []),
        ("(torch.ones(1), 2, None)", 3, []),
        ("{'x': torch.ones(1), 'flag': True}", 0, ["x", "flag"]),
        ("np.ones(1)", 1, []),
        ("(np.ones(1), [np.ones(2)])", 2, []),
        ("{'arg0': torch.ones(1)}", 0, ["arg0"]),
    ],
)
@pytest.mark.parametrize("form", ["value = {}", "def value():\n    return {}"])
def test_objects(value: str, args: int, kwargs: list[str], form: str) -> None:
    """A tensor, array, tuple or dict, or a callable that returns it; a dict's keys are meant literally."""
    Path("data.py").write_text(f"import numpy as np\nimport torch\n{form.format(value)}\n")
    sample = only("data.py:value")
    assert len(sample.args) == args
    assert list(sample.kwargs) == kwargs
    assert not any(isinstance(item, np.ndarray) for item in (*sample.args, *sample.kwargs.values()))


def test_a_mapping_that_is_no_dict() -> None:
    """What a tokenizer returns is a mapping of its own; it becomes plain keyword arguments."""
    args, kwargs = split_arguments(UserDict(ids=torch.ones(1)), "here", InputError)
    assert (args, list(kwargs)) == ((), ["ids"])
    assert type(kwargs) is dict


def test_a_module_by_name() -> None:
    """``package.module:attr`` works from the current directory."""
    Path("inputs_by_name.py").write_text("import torch\nx = torch.ones(3)\n")
    assert only("inputs_by_name:x").args[0].shape == (3,)


# --- what is refused, and what the user is told ------------------------------------------------


def test_a_file_that_is_not_there(workspace: Path) -> None:
    """The message names the file and the folder; a drive letter's colon does not make it an object."""
    message = failure("absent.npz")
    assert "there is no file absent.npz" in message
    assert str(workspace) in message
    assert "check the path" in message
    assert "there is no file C:\\data\\x.npz" in failure("C:\\data\\x.npz")


def test_a_folder() -> None:
    """The message says that files are wanted."""
    Path("samples").mkdir()
    assert "samples is a folder; name the .npz, .npy, .safetensors or .pt files in it" in failure("samples")


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the system is told by its own words."""
    save_npy("a.npy")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "a.npy cannot be read: Permission denied" in failure("a.npy")


def test_python_files_need_an_attribute() -> None:
    """The message shows how to go on."""
    Path("data.py").write_text("")
    assert "say which attribute holds the inputs, data.py:attr" in failure("data.py")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.6, 0.95, 0.999])
def test_truncated_files(kind: str, share: float) -> None:
    """A file cut short anywhere, by one byte or nearly all, is refused by name with the way out."""
    WRITERS[kind]("a.bin")
    whole = Path("a.bin").read_bytes()
    Path("a.bin").write_bytes(whole[: max(1, min(len(whole) - 1, int(len(whole) * share)))])
    message = failure("a.bin")
    assert message.startswith("a.bin ")
    assert "cut short" in message
    assert "write it again" in message or "numpy.savez" in message


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".pt"])
def test_empty_files(suffix: str) -> None:
    """Nothing in it is told apart from something unreadable."""
    Path("a" + suffix).touch()
    assert f"a{suffix} is empty (0 bytes)" in failure("a" + suffix)


def test_containers_without_tensors() -> None:
    """An empty zip, safetensors file, tuple, dict or list holds no sample."""
    np.savez("a.npz")
    assert "a.npz is empty: a zip without arrays" in failure("a.npz")
    save_file({}, "a.safetensors")
    torch.save({}, "a.pt")
    Path("data.py").write_text("nothing = ()\nnone = []\n")
    for source in ("a.safetensors", "a.pt", "data.py:nothing"):
        assert f"{source} is empty: it holds no tensor" in failure(source)
    assert "data.py:none is empty: a list without samples" in failure("data.py:none")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".pt"])
def test_a_pickle_under_another_name(suffix: str, protocol: int) -> None:
    """A disguised pickle is not run; the message says why and how to save safely."""
    Path("a" + suffix).write_bytes(pickle.dumps(Trap(), protocol))
    message = failure("a" + suffix)
    assert f"a{suffix} is a pickle" in message
    assert "unpickling runs code" in message
    assert "numpy.savez(path, name=array) or tensors with torch.save or safetensors" in message


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_ancient_pickle(protocol: int) -> None:
    """The text protocols have no mark; such a file is refused as unknown, and not run."""
    Path("a.npy").write_bytes(pickle.dumps(Trap(), protocol))
    assert "a.npy is not a .npz, .npy, .safetensors or .pt file" in failure("a.npy")


def test_object_arrays() -> None:
    """Arrays of Python objects are pickles too; in an .npz the array is named."""
    np.save("a.npy", np.array([Trap()], dtype=object))
    np.savez("a.npz", good=np.ones(1), bad=np.array([Trap()], dtype=object))
    assert "a.npy holds an array of Python objects" in failure("a.npy")
    message = failure("a.npz")
    assert "a.npz holds 'bad', an array of Python objects" in message
    assert "unpickling runs code" in message


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_in_torch_files(zipped: bool) -> None:
    """Only tensors are read; the message names what else is in there."""
    torch.save({"x": torch.ones(1), "trap": Trap()}, "a.pt", _use_new_zipfile_serialization=zipped)
    message = failure("a.pt")
    assert f"a.pt holds a pickled {os.mkdir.__module__}.mkdir, not only tensors" in message
    assert "unpickling runs code" in message
    torch.save(nn.ReLU(), "model.pt", _use_new_zipfile_serialization=zipped)
    assert "torch.nn.modules.activation.ReLU" in failure("model.pt")


def test_zips_of_other_things() -> None:
    """A pickle, a note or bytes called .npy in a zip are each told for what they are."""
    for name, member, content in (
        ("pickle.npz", "x.pkl", pickle.dumps(Trap())),
        ("note.npz", "readme.txt", b"hello"),
        ("bytes.npz", "x.npy", pickle.dumps(Trap())),
        ("torch.npz", "a/data.pkl", pickle.dumps(Trap(), 2)),
    ):
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr(member, content)
    assert "pickle.npz holds the pickle 'x.pkl'" in failure("pickle.npz")
    assert "note.npz is a zip with 'readme.txt' in it" in failure("note.npz")
    assert "bytes.npz holds 'x', which is not a numpy array" in failure("bytes.npz")
    assert failure("torch.npz").startswith("torch.npz ")


def test_a_torchscript_file() -> None:
    """A saved model in place of inputs is told as one."""
    with zipfile.ZipFile("a.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"")
        archive.writestr("a/constants.pkl", b"")
    assert "a.pt is a TorchScript model, not inputs" in failure("a.pt")


def test_content_of_no_known_kind() -> None:
    """Text under a known suffix is refused by its content."""
    Path("a.npz").write_text("1,2,3,4")
    message = failure("a.npz")
    assert "a.npz is not a .npz, .npy, .safetensors or .pt file, going by its content (7 bytes)" in message
    assert "numpy.savez" in message


def test_safetensors_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the message says which one to install."""
    save_safetensors("a.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    assert "a.safetensors needs safetensors; install it (pip install safetensors)" in failure("a.safetensors")


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.array(["2020"], "M8[D]"), np.zeros(1, [("a", "f4")])]
)
def test_arrays_that_torch_has_no_type_for(array: np.ndarray[Any, Any]) -> None:
    """The message names the type and what can be saved instead."""
    np.save("a.npy", array)
    message = failure("a.npy")
    assert f"a.npy has an array of dtype {array.dtype}" in message
    assert "save numbers or booleans" in message


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["arg0", "arr_0"], "a.npz has position 0 twice, 'arg0' and 'arr_0'"),
        (["arg0", "arg00"], "a.npz has position 00 twice"),
        (["arg0", "arg2"], "a.npz has arg0, arg2 but no arg1; count arguments up from 0"),
        (["arg1"], "a.npz has arg1 but no arg0"),
    ],
)
def test_positions_that_do_not_add_up(keys: list[str], what: str) -> None:
    """A position given twice or left out is told, not guessed."""
    save_arrays("a.npz", *keys)
    assert what in failure("a.npz")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("3", "data.py:value is int, not arguments for the model"),
        ("'text'", "data.py:value is str"),
        ("None", "data.py:value is None"),
        ("(i for i in ())", "data.py:value is empty: an iterator without samples"),
        ("(i for i in (1,))", "data.py:value[0] is int, not arguments for the model"),
        ("{1: torch.ones(1)}", "data.py:value has the key 1; name keyword arguments with strings"),
        ("(1, 'two')", "data.py:value holds no tensor"),
        ("[torch.ones(1), 5]", "data.py:value[1] is int"),
        ("[torch.ones(1), [torch.ones(1)]]", "data.py:value[1] is list"),
        ("torch.nn.ReLU()", "data.py:value is a model (torch.nn.modules.activation.ReLU), not inputs"),
        ("np.array(['a'])", "data.py:value has an array of dtype <U1"),
    ],
)
def test_objects_of_the_wrong_type(value: str, what: str) -> None:
    """The message says what it is; in a list, which sample."""
    Path("data.py").write_text(f"import numpy as np\nimport torch\nvalue = {value}\n")
    assert what in failure("data.py:value")


@pytest.mark.parametrize("value", [3, "text", None, ("a", 1)])
def test_torch_files_of_the_wrong_type(value: object) -> None:
    """The same for what a file holds."""
    torch.save(value, "a.pt")
    message = failure("a.pt")
    assert "a.pt is " in message or "a.pt holds no tensor" in message


def test_objects_that_raise() -> None:
    """A callable or an import that raises is told as for models, as an error of the inputs."""
    Path("data.py").write_text("def make():\n    raise OSError('disk gone')\n")
    Path("broken.py").write_text("1 / 0\n")
    assert "data.py:make raised OSError: disk gone (at data.py:2)" in failure("data.py:make")
    assert "importing broken.py raised ZeroDivisionError: division by zero (at broken.py:1)" in failure(
        "broken.py:x"
    )
    assert "did you mean 'make'?" in failure("data.py:mak")
    assert "there is no file absent.py" in failure("absent.py:x")
    assert "module 'absent_inputs' was not found" in failure("absent_inputs:x")


# --- names ------------------------------------------------------------------------------------


def test_names_that_fit() -> None:
    """Samples that use only the model's names, each once, pass unchanged."""
    np.savez("a.npz", arg0=np.ones(1), mask=np.ones(1))
    (sample,) = load_inputs(["a.npz"], names=["x", "mask"])
    assert (len(sample.args), list(sample.kwargs)) == (1, ["mask"])


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        (["arg0", "maks"], "a.npz has an input 'maks', unknown to the model; did you mean 'mask'?"),
        (["zzzzz"], "a.npz has an input 'zzzzz', unknown to the model; choose from x, mask."),
        (["arg0", "x"], "a.npz gives 'x' twice, by position and by name; leave out one"),
        (["arg0", "arg1", "arg2"], "a.npz has 3 positional inputs but the model takes 2 (x, mask)"),
    ],
)
def test_names_that_do_not_fit(keys: list[str], what: str) -> None:
    """Unknown, doubled and superfluous inputs are told before anything runs."""
    save_arrays("a.npz", *keys)
    assert what in failure("a.npz", names=["x", "mask"])
