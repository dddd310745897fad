"""The settings and samples of a comparison, as the source that it starts from takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from alignkit.errors import CompareError
from alignkit.records import Sides
from alignkit.settings import Sample, Settings
from alignkit.standin import StandIn


def fit_samples(
    model: StandIn, settings: Settings, example: Sample, samples: list[Sample], onnx: str | Path | None
) -> tuple[Settings, Sample, list[Sample]]:
    """The settings, the example and the samples as ``model`` takes them; ``onnx`` is the deployed file.

    Raises :class:`CompareError` where one is needed and not given.
    """
    if model.fixed and onnx is None:
        raise CompareError(f"{model.fixed}: name the deployed file that it is to be compared with (--onnx).")

    def fit(sample: Sample) -> Sample:
        args, kwargs = model.fit(sample.args, sample.kwargs)
        candidate = sample.candidate and model.fit(*sample.candidate)
        return replace(sample, args=args, kwargs=kwargs, candidate=candidate)

    if model.fixed and onnx is not None:
        model.sides = Sides(model.sides.reference, Path(onnx).name)
    exporter = model.exporter or settings.exporter
    fitted = [fit(sample) for sample in samples]
    is_same = example is samples[0] or model.fixed
    return replace(settings, exporter=exporter), fitted[0] if is_same else fit(example), fitted
