"""The chain: passes applied one after the other, each to the file that the one before it made."""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alignkit.errors import AlignkitError, PassError, first_line
from alignkit.passes.table import NamedPass, Samples

_MESSAGE = 300  # characters of what a pass raised


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the chain: ``number`` 0 is the file before any pass.

    ``file`` is what the step made, or None and ``failure`` says why there is none.
    """

    number: int
    name: str
    file: Path | None
    failure: str = ""

    @property
    def title(self) -> str:
        """``2 fp16``."""
        return f"{self.number} {self.name}"


def apply_passes(start: Step, passes: Sequence[NamedPass], folder: Path, samples: Samples) -> Iterator[Step]:
    """``start``, then one step per pass; a pass is applied only when its step is asked for.

    Each file goes to a folder of its own inside ``folder`` and is there until the next step but one is
    asked for. Where a pass fails there is no file to go on from: the steps behind it say so.
    """
    yield start
    source, before = start.file, start
    older: Path | None = None
    for number, one in enumerate(passes, start.number + 1):
        if source is None:
            failure = f"not applied, since step {before.number} ({before.name}) failed"
            yield Step(number, one.name, None, failure)
            continue
        place = folder / f"step-{number}"
        place.mkdir()
        step = _apply(one, number, source, place / _file_name(one), samples)
        if older is not None:
            shutil.rmtree(older)
        older = source.parent if source != start.file else None
        if step.failure:
            before = step
        source = step.file
        yield step


def _apply(one: NamedPass, number: int, source: Path, target: Path, samples: Samples) -> Step:
    try:
        with _quiet():
            one.apply(source, target, samples)
        if not target.is_file():
            raise PassError("it wrote no file.")
    except (Exception, SystemExit) as error:  # of a converter, or of the user's own function
        return Step(number, one.name, None, f"the pass {one.name} failed: {_describe(error)}")
    return Step(number, one.name, target)


def _file_name(one: NamedPass) -> str:
    """The file is called after the pass: notes tell it by its name."""
    return re.sub(r"[^\w-]+", "-", one.name)[:60] + ".onnx"


def _describe(error: BaseException) -> str:
    text = first_line(error)
    said = text if isinstance(error, AlignkitError) else f"{type(error).__name__}: {text}"
    return said if len(said) <= _MESSAGE else f"{said[: _MESSAGE - 1]}…"


@contextmanager
def _quiet() -> Iterator[None]:
    """Converters warn of what they leave out, on every call: the comparison says what that costs."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
