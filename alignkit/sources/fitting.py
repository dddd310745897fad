"""The settings and samples of a comparison, as the source that it starts from takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from alignkit.datasets import DataSet, Entry
from alignkit.errors import CompareError
from alignkit.settings import Sample, Settings
from alignkit.standin import StandIn


def fit_samples(
    model: StandIn, settings: Settings, example: Sample, data: DataSet, onnx: str | Path | None
) -> tuple[Settings, Sample, DataSet]:
    """The settings, the example and the samples as ``model`` takes them; ``onnx`` is the deployed file.

    Raises :class:`CompareError` where one is needed and not given.
    """
    if model.fixed and onnx is None:
        raise CompareError(f"{model.fixed}: name the deployed file that it is to be compared with (--onnx).")

    def fit(sample: Sample) -> Sample:
        args, kwargs = model.fit(sample.args, sample.kwargs)
        candidate = sample.candidate and model.fit(*sample.candidate)
        return replace(sample, args=args, kwargs=kwargs, candidate=candidate)

    def entries() -> Iterator[Entry]:
        for entry in data.entries():
            yield replace(entry, load=partial(_load, fit, entry))

    if model.fixed and onnx is not None:
        model.name_beside(Path(onnx))
    exporter = model.exporter or settings.exporter
    fitted = DataSet(entries, data.size, repeats=data.repeats)
    # Nothing is exported of a fixed one, and so there is no example of an export.
    return replace(settings, exporter=exporter), example if model.fixed else fit(example), fitted


def _load(fit: Callable[[Sample], Sample], entry: Entry) -> Sample:
    return fit(entry.load())
