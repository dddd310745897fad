"""Remarks: what a report says of a comparison beside its figures."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from alignkit.backends import OnnxRuntime
from alignkit.comparison import NoiseFloors
from alignkit.diagnose.advice import GIVEN_FILE
from alignkit.diagnose.experiments import TRANSFORMERS
from alignkit.instrument import scripted_modules
from alignkit.records import Capture, Culprit, LayerRow, Verdict
from alignkit.settings import Files, Settings
from alignkit.sizes import size_words
from alignkit.standin import StandIn
from alignkit.storage import TensorStore


def unmapped_taps(files: Files) -> dict[str, str]:
    """Why taps have no value in a file that nobody had marked."""
    taps = files.mapping.taps.values() if files.mapping else ()
    return {tap.tap: f"{tap.how.value}: {tap.reason}" for tap in taps if tap.onnx_value is None}


def with_mapping(row: LayerRow, files: Files) -> LayerRow:
    """A row with the value that its tap was mapped to in a file without taps."""
    tap = files.mapping.taps.get(row.tap) if files.mapping else None
    if tap is None or tap.onnx_value is None:
        return row
    return replace(row, onnx_value=tap.onnx_value, mapped_by=f"{tap.how.value} ({tap.confidence})")


def doubt_exporter(culprit: Culprit, doubt: str) -> Culprit:
    """No exporter is to blame for a file that may be another model's."""
    if not doubt or culprit.cause != "exporter":
        return culprit
    evidence = (*culprit.evidence, doubt)
    return replace(culprit, cause="unknown", confidence="low", evidence=evidence, advice=GIVEN_FILE)


def accuse(row: LayerRow) -> LayerRow:
    """A row that only the diagnosis found to be a root says so as well."""
    return replace(row, verdict=Verdict.INTRODUCED) if row.verdict is Verdict.OK else row


_NO_FLOOR = "No noise floor"


def tells_of_no_floor(note: str) -> bool:
    """Whether this is the note that there was none."""
    return note.startswith(_NO_FLOOR)


def notes_on(
    model: nn.Module, reference: Capture, noise: NoiseFloors, lost: list[str], files: Files
) -> tuple[str, ...]:
    """What is worth knowing of the model, its reference and the files, one sentence each."""
    notes = [*(model.notes if isinstance(model, StandIn) else ()), *reference.notes]
    if model.training:
        notes.append("The model is in training mode: dropout is live and BatchNorm uses batch statistics.")
    if noise.missing:
        notes.append(f"{_NO_FLOOR} ({noise.missing}); per-dtype tolerances of torch.testing were used.")
    if noise.coarsest:
        notes.append(
            f"The file computes in {noise.coarsest} ({len(noise.precision)} taps): it is judged at that "
            "precision. The sensitivity table ranks what each layer costs."
        )
    if isinstance(reference.values, TensorStore) and (spilled := reference.values.spilled_bytes):
        notes.append(f"{size_words(spilled)} of the reference went to a temporary file (--max-memory).")
    notes += [f"Input {name!r} is not in the exported graph: its value was baked in." for name in lost]
    notes += [
        f"{path} was tapped from outside only: a scripted module runs without Python hooks."
        for path in scripted_modules(model)
    ]
    notes += files.notes
    return tuple(notes)


def unknown_optimizers(settings: Settings) -> list[str]:
    """A sentence for each name among the disabled optimisers that stands for none."""
    run = settings.run
    return [
        f"{name!r} among the disabled optimisers is none that alignkit knows, and ONNX Runtime ignores "
        "what it does not know: check the spelling."
        for name in (run.disabled_optimizers if isinstance(run, OnnxRuntime) else ())
        if name not in TRANSFORMERS
    ]
