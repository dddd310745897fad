"""``Report``: what the user holds after a comparison."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignkit.records import Coverage, Culprit, LayerRow, OutputRow, ReportData, SampleRow, Spread
from alignkit.report.files import load_report, save_report
from alignkit.report.html import render_html
from alignkit.report.renderers import Renderer, resolve_renderer
from alignkit.report.schema import report_to_dict
from alignkit.report.table import to_pandas
from alignkit.report.text import render_text
from alignkit.report.words import verdict_line

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, repr=False)
class Report:
    """The result of a comparison; ``str(report)`` is the console summary."""

    data: ReportData

    @property
    def aligned(self) -> bool:
        """Whether the candidate computes what the reference does, as far as taps were compared."""
        return self.data.aligned

    @property
    def culprits(self) -> Sequence[Culprit]:
        """The places where error is introduced, in execution order."""
        return self.data.culprits

    @property
    def culprit(self) -> Culprit | None:
        """The first culprit, or None."""
        return self.data.culprits[0] if self.data.culprits else None

    @property
    def layers(self) -> Sequence[LayerRow]:
        """One row per tap, in execution order; also for taps that could not be compared."""
        return self.data.layers

    @property
    def outputs(self) -> Sequence[OutputRow]:
        return self.data.outputs

    @property
    def coverage(self) -> Coverage:
        return self.data.coverage

    @property
    def notes(self) -> Sequence[str]:
        return self.data.notes

    @property
    def samples(self) -> Sequence[SampleRow]:
        """One row per sample of a data set; empty where one sample was compared."""
        return self.data.samples

    @property
    def spreads(self) -> Sequence[Spread]:
        """Each tap's figures over the samples of a data set: :attr:`layers` are the worst sample's."""
        return self.data.spreads

    def to_pandas(self) -> pandas.DataFrame:
        """One row per tap, with the columns of ``layers.csv``. Needs pandas.

        What each column holds stands in :mod:`alignkit.report.table`.
        """
        return to_pandas(self.data)

    def to_dict(self) -> dict[str, Any]:
        """The document of ``report.json``: plain values, NaN and infinities as None."""
        return report_to_dict(self.data)

    def render(self, format: str | Renderer = "text") -> str:
        """The report as ``text``, ``csv``, ``json``, ``html`` or ``md``, or by a renderer of your own."""
        return resolve_renderer(format)(self.data)

    def save(self, dir: str | PathLike[str], *, force: bool = False) -> Path:
        """Write ``index.html``, ``layers.csv``, ``report.json`` and plots; see :func:`save_report`."""
        return save_report(self.data, dir, force=force)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Report:
        """Read what :meth:`save` wrote: a folder, or its ``report.json``."""
        return cls(load_report(path))

    def __str__(self) -> str:
        return render_text(self.data)

    def __repr__(self) -> str:
        return f"<Report {verdict_line(self.data)}>"

    def _repr_html_(self) -> str:
        """The HTML report in a frame of its own: its styles and scripts stay out of the notebook."""
        document = html.escape(render_html(self.data), quote=True)
        return (
            f'<iframe srcdoc="{document}" sandbox="allow-scripts" title="alignkit report" '
            'width="100%" height="720" style="border: 0"></iframe>'
        )
