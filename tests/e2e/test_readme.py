"""The README tells the truth: its code prints what it says, its commands and links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from itertools import chain
from pathlib import Path

import pytest
import torch

from alignkit.cli import build_parser, main
from alignkit.report.words import CAUSES, NONFINITE_SYMPTOM, README, how_to_address
from tests.benchmarks.bench_plan import export
from tests.torchvision_import import import_torchvision
from tests.zoo import Built

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / README).read_text(encoding="utf-8")

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"-?\d[\d.,]*(?:e[-+]\d+)?")

SYMPTOMS = {symptom for _, symptom in CAUSES.values()} | {NONFINITE_SYMPTOM}
HOW_TOS = "What to do, by symptom"


def split_sections(text: str) -> dict[str, str]:
    """Heading (of level two or three) -> all that stands under it."""
    parts = re.split(r"^#{2,3} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


SECTIONS = split_sections(TEXT)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [content for name, content in _BLOCK.findall(text) if name == language]


def block(marker: str) -> str:
    """The fenced block under ``<!-- marker -->``."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", TEXT, re.DOTALL)
    assert found is not None, f"the README has no block {marker!r}"
    return found[1]


def script_of(heading: str) -> str:
    """The Python of a section as one script; a how-to's begins with the lines that all of them share."""
    preamble = [block("preamble")] if heading in SYMPTOMS else []
    return "\n".join([*preamble, *blocks(SECTIONS[heading], "python")])


def anchor_of(heading: str) -> str:
    """The anchor that a heading gets where the README is shown."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def words(text: str) -> str:
    """``text`` without what differs from machine to machine: its figures and its line ends."""
    return " ".join(_NUMBER.sub("#", text).split())


def assert_says(output: str, shown: str) -> None:
    """Every line that the README shows, an ellipsis aside, is in ``output``."""
    said = words(output)
    missing = [line for line in shown.splitlines() if line.strip() != "…" and words(line) not in said]
    assert not missing, "\n".join(["not printed:", *missing, "but:", output])


def run_script(heading: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a section's Python in ``folder``, as a user would who pasted it into a file."""
    script = folder / "example.py"
    script.write_text(script_of(heading), encoding="utf-8")
    monkeypatch.chdir(folder)
    runpy.run_path(str(script), run_name="howto")


# The exporter behind dynamo=False says on every call that it is the older one.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("heading", [name for name in SECTIONS if name != HOW_TOS and script_of(name)])
def test_python_prints_what_the_readme_says(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Python of every section runs as it is written and prints the lines shown under it."""
    run_script(heading, tmp_path, monkeypatch)
    output = capsys.readouterr().out
    for shown in blocks(SECTIONS[heading], "text"):
        assert_says(output, shown)


def test_repro_bundle_is_what_the_readme_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle of the how-to's report holds the files listed, and its script prints what is shown."""
    run_script("One layer differs on every input", tmp_path, monkeypatch)
    python, script = block("repro").split()
    assert python == "python"
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 1, run.stderr
    assert_says(run.stdout, block("repro output"))
    first_cells = re.findall(r"^\| (`.+?) \|", SECTIONS["Repro bundles"], re.MULTILINE)
    listed = set(re.findall(r"`(.+?)`", " ".join(first_cells)))
    assert {path.name for path in (tmp_path / script).parent.iterdir() if path.is_file()} == listed


def test_plans_are_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both commands print the lines shown under them: of a ResNet-50 with dynamic axes, and of a decoder."""
    model = import_torchvision().models.resnet50().eval()
    axes = {"x": {0: "batch", 2: "height", 3: "width"}}
    options = {"input_names": ["x"], "dynamic_axes": axes}
    built = Built(model, (torch.randn(1, 3, 64, 64),), {}, {"torchscript": options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(built, tmp_path / "resnet50.onnx")
    monkeypatch.chdir(tmp_path)
    for name in ("plan a file", "plan a decoder"):
        assert main(shlex.split(block(name))[1:]) == 0
        assert_says(capsys.readouterr().out, block(f"{name}: output"))


def test_a_comparison_within_a_budget_says_what_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command blames the layer that it blames without a budget."""
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(block("larger than memory"))[1:]) == 0
    assert_says(capsys.readouterr().out, block("larger than memory: output"))


def test_every_symptom_has_a_how_to() -> None:
    """A report's link leads to a heading, under which stand something to run and what is to be done."""
    for symptom in SYMPTOMS:
        assert how_to_address(symptom) == f"{README}#{anchor_of(symptom)}"
        how_to = SECTIONS[symptom]
        assert blocks(how_to, "python") or blocks(how_to, "sh")
        assert _BLOCK.split(how_to)[-1].strip()


def test_table_of_causes_is_complete() -> None:
    """There is one row for each cause that a culprit may have, and it links to the cause's symptom."""
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| \[(.+?)\]\(#(.+?)\) \|$", SECTIONS["Causes"], re.MULTILINE)
    expected = [(name, cause.symptom, anchor_of(cause.symptom)) for name, cause in CAUSES.items()]
    assert sorted(rows) == sorted(expected)


def test_links_lead_somewhere() -> None:
    """Links within the README have a heading, those to other files a file."""
    anchors = {f"#{anchor_of(heading)}" for heading in SECTIONS}
    for target in re.findall(r"\]\((?!https?:)(.+?)\)", TEXT):
        assert target in anchors if target.startswith("#") else (ROOT / target).exists(), target


def commands() -> list[list[str]]:
    """Every command of the shell blocks and of the running text, as its words."""
    lines = chain.from_iterable(shell.splitlines() for shell in blocks(TEXT, "sh"))
    inline = re.findall(r"`(alignkit [^`]+)`", _BLOCK.sub("", TEXT))
    parts = (part for line in [*lines, *inline] for part in line.split(" && "))
    return [found for part in parts if (found := shlex.split(part, comments=True))]


def test_alignkit_commands_parse() -> None:
    """Every ``alignkit`` command has arguments that the command line knows."""
    given = [rest for program, *rest in commands() if Path(program).name == "alignkit"]
    assert len(given) > 10
    for arguments in given:
        assert build_parser().parse_args(arguments).command == arguments[0]


def test_scripts_of_commands_are_there() -> None:
    """Every ``python -m MODULE`` and ``python FILE`` names something in the repository."""
    for program, *rest in commands():
        if program == "python" and rest[0] == "-m":
            assert importlib.util.find_spec(rest[1]) is not None, rest
        elif program == "python" and not rest[0].startswith("report/"):
            assert (ROOT / rest[0]).exists(), rest


def test_what_the_first_command_writes_disturbs_no_other() -> None:
    """The report that it leaves in a clone is not linted, and not there to be committed."""
    first = next(rest for program, *rest in commands() if program == ".venv/bin/alignkit")
    folder = first[first.index("-o") + 1]
    excluded = re.search(
        r"^extend-exclude = (.*)$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    assert excluded is not None
    assert f'"{folder}"' in excluded[1]
    assert f"/{folder}/" in (ROOT / ".gitignore").read_text("utf-8").splitlines()


def test_map_of_the_code_is_complete() -> None:
    """Every module and package at the top of alignkit is in the map, and nothing else is."""
    named = set(re.findall(r"[\w]+\.py|[\w]+/", SECTIONS["Map of the code"])) - {"alignkit/"}
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "alignkit").iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__"))
        or (path.is_dir() and (path / "__init__.py").exists())
    }
    helpers = {"environment.py", "paths.py", "progress.py", "sizes.py", "tensors.py", "untouched.py"}
    unexplained = there - named - helpers
    assert not unexplained
    assert named <= there


def test_test_command_is_found_by_ci() -> None:
    """The block that ``.ci/run`` executes ends in pytest, whose summary must come last."""
    last = block("tests").strip().splitlines()[-1].rsplit("&&", 1)[-1]
    assert last.strip().startswith(".venv/bin/python -m pytest")
