"""load_model: every way to name a model, and one clear line for every way that fails."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import alignkit
from alignkit.errors import ModelError
from alignkit.load import LoadedModel, load_model

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.linear = nn.Linear(width, 2)

    def forward(self, x):
        return self.linear(x)

model = Net(3)
"""


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory; ``sys.path`` must come back as it was, modules imported here go."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    assert sys.path == path, "sys.path was not restored"
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(name: str, text: str) -> str:
    """Writes a file below the current directory and gives its name back."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return name


def failure(spec: str) -> str:
    """What ``load_model`` says of a spec that cannot work: always exactly one line."""
    with pytest.raises(ModelError) as caught:
        load_model(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    assert message.endswith((".", "?"))
    return message


# --- what can be named ------------------------------------------------------------------------


def test_an_instance_in_a_file() -> None:
    """``file.py:attr`` gives the very module of that name, without arguments, and says where it is from."""
    loaded = load_model(write("net.py", NET) + ":model")
    assert isinstance(loaded.model, nn.Module)
    assert type(loaded.model).__name__ == "Net"
    assert (loaded.args, loaded.kwargs, loaded.origin) == (None, None, "net.py:model")


def test_a_class_is_instantiated() -> None:
    """A class is called without arguments, so its defaults hold."""
    loaded = load_model(write("net.py", NET) + ":Net")
    assert loaded.model(torch.ones(1, 4)).shape == (1, 2)


@pytest.mark.parametrize(
    ("returned", "args", "kwargs"),
    [
        ("Net()", None, None),
        ("(Net(), torch.ones(1, 4))", 1, None),
        ("(Net(), (torch.ones(1, 4), 7))", 2, None),
        ("(Net(), {'x': torch.ones(1, 4)})", 0, ["x"]),
        ("(Net(), torch.ones(1, 4), {'y': 1})", 1, ["y"]),
        ("(Net(), None, {'x': torch.ones(1, 4)})", 0, ["x"]),
        ("(Net(), (torch.ones(1, 4),), None)", 1, None),
        ("(Net(), None)", None, None),
    ],
)
def test_a_factory(returned: str, args: int | None, kwargs: list[str] | None) -> None:
    """A model, (model, args) or (model, args, kwargs), where args is a tensor, tuple or dict."""
    write("net.py", f"{NET}\ndef make():\n    return {returned}\n")
    loaded = load_model("net.py:make")
    assert isinstance(loaded.model, nn.Module)
    assert (None if loaded.args is None else len(loaded.args)) == args
    assert (None if loaded.kwargs is None else list(loaded.kwargs)) == kwargs


def test_numpy_arguments_become_tensors() -> None:
    """Arrays from a factory are tensors of the same values, also inside a nested tuple."""
    returned = "Net(), (np.arange(4.0), (np.arange(2), None)), {'k': np.ones(1)}"
    write("net.py", f"import numpy as np\n{NET}\ndef make():\n    return {returned}\n")
    loaded = load_model("net.py:make")
    assert loaded.args is not None
    assert loaded.kwargs is not None
    assert torch.equal(loaded.args[0], torch.from_numpy(np.arange(4.0)))
    assert isinstance(loaded.args[1][0], torch.Tensor)
    assert loaded.args[1][1] is None
    assert isinstance(loaded.kwargs["k"], torch.Tensor)


def test_a_dotted_attribute() -> None:
    """``attr`` may lead through a namespace, and into a submodule of a model."""
    write("net.py", NET + "\nclass Zoo:\n    small = model\n")
    assert type(load_model("net.py:Zoo.small").model).__name__ == "Net"
    assert isinstance(load_model("net.py:model.linear").model, nn.Linear)


def test_a_module_of_a_package_in_the_current_directory() -> None:
    """``package.module:attr`` is importable from the current directory, relative imports included."""
    write("pkg_ok/__init__.py", "")
    write("pkg_ok/layers.py", NET)
    write("pkg_ok/nets.py", "from .layers import Net\n")
    assert type(load_model("pkg_ok.nets:Net").model).__name__ == "Net"


def test_an_installed_module() -> None:
    """Any importable module will do."""
    assert isinstance(load_model("torch.nn:ReLU").model, nn.ReLU)


def test_a_file_imports_its_neighbours_also_when_called() -> None:
    """The file's folder can be imported from while it loads and while its factory runs."""
    write("models/neighbour_a.py", NET)
    write("models/neighbour_b.py", "WIDTH = 5\n")
    make = "def make():\n    from neighbour_b import WIDTH\n    return Net(WIDTH)\n"
    write("models/net.py", "from neighbour_a import Net\n" + make)
    model = load_model("models/net.py:make").model
    assert model(torch.ones(1, 5)).shape == (1, 2)


def test_a_file_elsewhere_imports_from_the_current_directory() -> None:
    """``tools/net.py:make`` run from the project's root finds the project."""
    write("project_root_module.py", NET)
    write("tools/net.py", "from project_root_module import Net\n")
    assert type(load_model("tools/net.py:Net").model).__name__ == "Net"


def test_a_file_runs_once_under_one_name() -> None:
    """The same file is one module however it is spelled; its name is a real one for inspect and pickle."""
    write("sub/net.py", NET)
    first, second = load_model("sub/net.py:model").model, load_model("./sub/../sub/net.py:model").model
    assert first is second
    assert sys.modules[type(first).__module__].Net is type(first)


def test_files_of_the_same_name_are_two_modules() -> None:
    """``a/net.py`` and ``b/net.py`` do not shadow one another."""
    write("a/net.py", NET)
    write("b/net.py", NET.replace("Net", "Other"))
    assert type(load_model("a/net.py:model").model).__name__ == "Net"
    assert type(load_model("b/net.py:model").model).__name__ == "Other"


def test_the_last_colon_separates() -> None:
    """A folder may have a colon in its name."""
    assert isinstance(load_model(write("a:b/net.py", NET) + ":model").model, nn.Module)


def test_what_a_file_adds_to_the_path_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that extends ``sys.path`` for imports it makes later keeps what it added; ours is gone."""
    before = list(sys.path)
    write("net.py", f"import sys\nsys.path.append('/their/own')\n{NET}")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        load_model("net.py:model")
        assert sys.path == [*before, "/their/own"]


def test_loading_leaves_the_random_state_to_the_user() -> None:
    """Naming an existing function as factory draws no random number of our own."""
    write("net.py", "from torch import nn\ndef make():\n    return nn.ReLU()\n")
    before = torch.get_rng_state()
    load_model("net.py:make")
    assert torch.equal(torch.get_rng_state(), before)


def test_records_compare_by_identity() -> None:
    """Tensors have no single answer to ``==``, so two records are equal only when they are one."""
    one, two = (LoadedModel(nn.ReLU(), (torch.ones(2),), None, "here") for _ in range(2))
    assert one != two


def test_importing_the_package_does_not_import_torch() -> None:
    """``import alignkit.load`` is quick: torch, numpy and safetensors come only with the first load."""
    package = Path(alignkit.__file__).parent
    code = (
        "import sys, types\n"
        "bare = types.ModuleType('alignkit')\n"  # only this package is judged, not alignkit/__init__.py
        f"bare.__path__ = [{str(package)!r}]\n"
        "sys.modules['alignkit'] = bare\n"
        "import alignkit.load\n"
        "print(sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# --- what cannot, and what the user is told ----------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["net", "net.py", "", ":model", "net.py:", "net:a..b", "C:\\models\\net.py", "C:/net.py"]
)
def test_a_spec_without_target_or_attribute(spec: str) -> None:
    """No colon (a drive letter's is none), nothing before or after it: the message shows both forms."""
    message = failure(spec)
    assert repr(spec) in message
    assert "package.module:attr or path/file.py:attr" in message


def test_a_drive_letter_does_not_end_the_file_name() -> None:
    """``C:\\net.py:model`` is the file ``C:\\net.py``."""
    assert "there is no file C:\\models\\net.py " in failure("C:\\models\\net.py:model")


def test_a_module_that_is_not_found(workspace: Path) -> None:
    """The message names the missing module and the place, and offers the file form."""
    message = failure("no_such_package.sub:make")
    assert "module 'no_such_package.sub' was not found" in message
    assert "'no_such_package'" in message
    assert str(workspace) in message
    assert "path/file.py:attr" in message


def test_a_submodule_that_is_not_found() -> None:
    """The part that is missing is named, not the package that is there."""
    assert "there is no 'torch.no_such_part'" in failure("torch.no_such_part:make")


def test_a_name_that_cannot_be_a_module() -> None:
    """Dots in the wrong place are told as such, not as an error of importlib."""
    assert "'.net' is not the name of a module" in failure(".net:make")


def test_a_file_that_is_not_there(workspace: Path) -> None:
    """The message names the file and the folder that was looked in."""
    message = failure("models/net.py:make")
    assert "there is no file models/net.py" in message
    assert str(workspace / "models") in message
    assert "check the path" in message


def test_a_file_that_is_not_python() -> None:
    """Weights or an ONNX file in place of code are told apart from a missing file."""
    message = failure(write("net.onnx", "x") + ":model")
    assert "net.onnx is not a Python file" in message
    assert "path/file.py:attr" in message


def test_an_import_that_raises() -> None:
    """Exception type, message and file:line of the raise, in one line although the message has two."""
    message = failure(
        write("net.py", "import torch\n\nraise ValueError('first line\\nsecond line')\n") + ":model"
    )
    assert "importing net.py raised ValueError: first line second line (at net.py:3)" in message
    assert "try it in python first" in message


def test_a_module_that_raises() -> None:
    """The same for a module by name."""
    write("raising_module.py", "def f():\n    raise KeyError('gone')\nf()\n")
    message = failure("raising_module:model")
    assert "importing module 'raising_module' raised KeyError: 'gone' (at raising_module.py:2)" in message


def test_an_import_that_raised_can_be_tried_again() -> None:
    """A file that failed is not left half loaded."""
    write("net.py", "raise ValueError('not yet')\n")
    failure("net.py:model")
    write("net.py", NET + "# longer, so that the bytecode cache of the first try cannot match\n")
    assert isinstance(load_model("net.py:model").model, nn.Module)


def test_a_library_that_raises_names_the_users_line_too() -> None:
    """Where a library raised, the line of the user's file that led there is told as well."""
    write("net.py", "from torch import nn\n\nmodel = nn.Conv2d(3, 4, 3, groups=2)\n")
    message = failure("net.py:model")
    assert "ValueError: in_channels must be divisible by groups" in message
    assert "conv.py:" in message
    assert "called from net.py:3)" in message


def test_a_syntax_error() -> None:
    """The line with the error is named."""
    message = failure(write("net.py", "x = 1\ny = (\n") + ":model")
    assert "importing net.py raised SyntaxError: " in message
    assert "net.py:2)" in message


def test_a_missing_dependency() -> None:
    """What the file itself cannot import is not confused with the file being missing."""
    write("needs_more.py", "import no_such_dependency\n")
    for spec in ("needs_more:model", "needs_more.py:model"):
        message = failure(spec)
        assert (
            "raised ModuleNotFoundError: No module named 'no_such_dependency' (at needs_more.py:1)" in message
        )
        assert "install what is missing" in message


def test_a_relative_import_in_a_file() -> None:
    """A file of a package is asked for by its module name."""
    write("pkg_rel/__init__.py", "")
    message = failure(write("pkg_rel/net.py", "from .layers import Net\n") + ":Net")
    assert "relative import" in message
    assert "package.module:attr" in message


def test_a_script_that_exits_on_import() -> None:
    """``sys.exit`` while importing does not end this process; the guard is advised."""
    message = failure(write("net.py", "import sys\nsys.exit('usage: net')\n") + ":model")
    assert "raised SystemExit: usage: net (at net.py:2)" in message
    assert "__main__" in message


def test_an_interrupt_is_let_through() -> None:
    """Ctrl-C during an import stops the program and is not told as an error of the file."""
    write("net.py", "raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_model("net.py:model")


def test_an_attribute_that_is_close_to_one() -> None:
    """A misspelt name brings the close ones."""
    message = failure(write("net.py", NET) + ":modle")
    assert "net.py:modle is not there: the file has no 'modle'" in message
    assert "did you mean 'model'" in message


def test_an_attribute_that_is_close_to_none() -> None:
    """Where nothing is close, what the module defines itself is listed first; in a bare one, nothing."""
    message = failure(write("net.py", NET) + ":zzzzzz")
    assert "choose from Net, model" in message
    assert "nothing is defined there" in failure(write("bare.py", "") + ":model")


def test_a_dotted_attribute_that_breaks_off() -> None:
    """The message says which part is missing, and of what."""
    message = failure(write("net.py", NET) + ":model.liner")
    assert "Net before it has no 'liner'" in message
    assert "did you mean 'linear'?" in message


def test_an_attribute_that_raises_when_read() -> None:
    """A module-level ``__getattr__`` that fails is told with its place."""
    message = failure(
        write("net.py", "def __getattr__(name):\n    raise RuntimeError('lazy ' + name)\n") + ":model"
    )
    assert "reading net.py:model raised RuntimeError: lazy model (at net.py:2)" in message


def test_a_factory_that_raises() -> None:
    """Exception, message, place, and how alignkit calls it."""
    message = failure(write("net.py", "def make():\n    raise OSError('no weights')\n") + ":make")
    assert "net.py:make raised OSError: no weights (at net.py:2)" in message
    assert "without arguments" in message


def test_a_factory_that_exits() -> None:
    """A factory that parses the command line and gives up does not end this process."""
    message = failure(write("net.py", "import sys\ndef make():\n    sys.exit(2)\n") + ":make")
    assert "net.py:make raised SystemExit: 2 (at net.py:3)" in message


def test_a_class_that_needs_arguments() -> None:
    """A class without defaults brings the advice to write a factory."""
    write("net.py", NET.replace("width=4", "width").replace("model = Net(3)", ""))
    message = failure("net.py:Net")
    assert "TypeError" in message
    assert "'width'" in message
    assert "name a factory that builds the model" in message


@pytest.mark.parametrize(
    ("value", "what", "advice"),
    [
        ("3", "gives int,", "a factory that returns"),
        ("{'weight': 1}", "gives dict,", "load_state_dict"),
        ("lambda: None", "gives None,", "does the factory return the model?"),
        ("lambda: [1]", "gives list,", "a factory that returns"),
        ("object", "gives object,", "a factory that returns"),
        ("(1, 2)", "gives int,", "a factory that returns"),
        ("type('ExportedProgram', (), {})()", "ExportedProgram,", "the module that it was exported from"),
    ],
)
def test_a_result_that_is_not_a_module(value: str, what: str, advice: str) -> None:
    """The message says what was found and what to give instead."""
    message = failure(write("net.py", f"thing = {value}\n") + ":thing")
    assert what in message
    assert "not an nn.Module" in message
    assert advice in message


def test_a_tuple_of_the_wrong_length() -> None:
    """(model,) and longer tuples are refused with the forms that are known."""
    message = failure(write("net.py", NET + "many = (model, 1, {}, 4)\n") + ":many")
    assert "net.py:many gives a tuple of 4" in message
    assert "(model, args) or (model, args, kwargs)" in message


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ("[torch.ones(1)]", "args from net.py:pair is list"),
        ("'x'", "args from net.py:pair is str"),
        ("{1: torch.ones(1)}", "args from net.py:pair has the key 1"),
        ("(), [1]", "kwargs from net.py:pair is list"),
        ("(), {1: 2}", "kwargs from net.py:pair is dict"),
        ("{'x': 1}, {'y': 2}", "args and kwargs from net.py:pair are both dicts"),
        ("np.array(['text'])", "args from net.py:pair has an array of dtype <U4"),
    ],
)
def test_arguments_of_the_wrong_type(args: str, what: str) -> None:
    """Arguments that cannot be passed on are refused here, with their type."""
    write("net.py", f"import numpy as np\n{NET}\npair = (model, {args})\n")
    assert what in failure("net.py:pair")


def test_data_parallel_is_to_be_unwrapped() -> None:
    """A DataParallel wrapper, also inside a tuple, brings the advice to pass what is inside."""
    write("net.py", NET + "parallel = nn.DataParallel(model)\npair = (parallel, torch.ones(1))\n")
    for spec in ("net.py:parallel", "net.py:pair"):
        message = failure(spec)
        assert "wrapped in DataParallel" in message
        assert "pass model.module" in message


def test_distributed_data_parallel_is_to_be_unwrapped() -> None:
    """The same for DistributedDataParallel (built bare: a real one needs a process group)."""
    code = "P = nn.parallel.DistributedDataParallel\nparallel = P.__new__(P)\nnn.Module.__init__(parallel)\n"
    message = failure(write("net.py", NET + code) + ":parallel")
    assert "wrapped in DistributedDataParallel" in message
    assert "pass model.module" in message


def test_a_failed_load_restores_the_path_too() -> None:
    """``sys.path`` comes back whichever step failed."""
    before = list(sys.path)
    write("net.py", "def make():\n    raise ValueError\n")
    write("broken.py", "1 / 0\n")
    for spec in ("net.py:make", "net.py:absent", "broken.py:x", "absent.py:x", "absent_module:x"):
        failure(spec)
        assert sys.path == before


def test_a_long_message_is_cut() -> None:
    """A message of thousands of characters does not flood the terminal."""
    message = failure(write("net.py", "raise ValueError('x' * 5000)\n") + ":model")
    assert len(message) < 500
    assert "…" in message


def test_files_outside_the_current_directory_are_shown_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place below the current directory is shown relative to it, any other with its whole path."""
    file = tmp_path / "net.py"
    file.write_text("1 / 0\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert f"(at {file}:1)" in failure(f"..{os.sep}net.py:model")
