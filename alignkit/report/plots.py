"""Pictures of a report: the error along the model, and its distribution at the worst layers.

matplotlib is imported when a picture is drawn, never before, and without pyplot: the user's
figures, backend and settings stay as they are. Colours are those of Okabe and Ito, which
colour-blind readers can tell apart; markers and line styles say the same once more.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from alignkit.errors import ReportError
from alignkit.records import ErrorHistogram, LayerRow, ReportData, Verdict
from alignkit.report.layers import worst_layers
from alignkit.report.words import max_abs, one_line, shorten_middle, verdict_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOT_NAMES = frozenset(
    f"{stem}.{suffix}" for stem in ("error_by_layer", "error_distribution") for suffix in ("png", "svg")
)
"""Every file name that :func:`render_plots` may give."""

_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_BLUE, _VERMILLION, _PURPLE, _GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"

_VERDICT_COLOURS = {
    Verdict.OK: _GREEN,
    Verdict.INTRODUCED: _VERMILLION,
    Verdict.PROPAGATED: _ORANGE,
    Verdict.MISSING: _GREY,
    Verdict.SHAPE: _PURPLE,
    Verdict.DTYPE: _SKY,
    Verdict.NONFINITE: _BLACK,
    Verdict.SKIPPED: "#BBBBBB",
}

_SERIES: Sequence[tuple[str, dict[str, Any]]] = (
    ("propagated", {"color": _BLUE, "linestyle": "-", "marker": "o", "linewidth": 1.3}),
    ("introduced", {"color": _VERMILLION, "linestyle": "none", "marker": "D", "zorder": 3}),
    ("noise floor", {"color": _GREY, "linestyle": (0, (4, 2)), "drawstyle": "steps-mid", "linewidth": 1.2}),
)

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "alignkit",  # element ids are random otherwise
    "svg.fonttype": "none",  # text stays text: searchable, and in whatever script a name is
    "text.parse_math": False,  # a "$" in a name is a "$"
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.labelcolor": "#222222",
    "axes.titlesize": 9,
}

_MAX_NAMED_TAPS = 32  # up to here every tap has its name on the axis
_MAX_MARKED_TAPS = 400  # up to here markers are drawn full size
_MAX_VECTOR_TAPS = 1000  # beyond, points become pixels in the SVG, or it grows by megabytes
_MAX_CULPRITS = 5
_MAX_HISTOGRAMS = 6


def render_plots(report: ReportData) -> Mapping[str, bytes]:
    """File name -> picture: ``error_by_layer`` and ``error_distribution``, each as PNG and SVG.

    The distribution is absent when the report has no histograms. The same report gives the same
    bytes with the same version of matplotlib. Raises
    :class:`~alignkit.errors.ReportError` when matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ReportError("plots need matplotlib, which is missing. Try: pip install matplotlib") from error
    with _own_style():
        pictures = _save("error_by_layer", _draw_error_by_layer(report))
        if report.histograms:
            pictures |= _save("error_distribution", _draw_error_distribution(report))
    return pictures


@contextmanager
def _own_style() -> Iterator[None]:
    """matplotlib's defaults with ``_STYLE``, whatever the user has set; theirs come back at the end."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # shown as a box in the PNG
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _save(stem: str, figure: Figure) -> dict[str, bytes]:
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # laid out once is enough: it takes as long as the drawing
    pictures = {}
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata)
        pictures[f"{stem}.{suffix}"] = buffer.getvalue()
    return pictures


def _draw_error_by_layer(report: ReportData) -> Figure:
    from matplotlib.figure import Figure

    lanes = [verdict for verdict in Verdict if any(row.verdict is verdict for row in report.layers)]
    named = len(report.layers) <= _MAX_NAMED_TAPS
    height = 4.3 + 0.2 * len(lanes) + (1.2 if named else 0.0)
    figure = Figure(figsize=(11, height), layout="constrained")
    figure.suptitle(
        shorten_middle(verdict_line(report), 110), x=0.01, ha="left", fontsize=11, fontweight="bold"
    )
    errors, verdicts = figure.subplots(
        2, 1, sharex=True, height_ratios=(3.4, 0.2 * max(len(lanes), 1)), squeeze=True
    )
    _plot_errors(errors, report)
    _plot_verdicts(verdicts, report.layers, lanes)
    verdicts.set_xlim(-0.7, max(len(report.layers), 1) - 0.3)
    if named:
        labels = [shorten_middle(one_line(row.tap), 28) for row in report.layers]
        verdicts.set_xticks(
            range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=7
        )
    else:
        verdicts.set_xlabel(f"tap, in execution order (0 to {len(report.layers) - 1})")
    return figure


def _plot_errors(axes: Axes, report: ReportData) -> None:
    """The three series over a linear axis of decades, with a band of its own for exact zeros below."""
    series = _series(report.layers)
    low, high = _decades(series)
    band = max(0.12 * (high - low), 0.5)
    axes.axhspan(low - band, low, color="#F0F0F0", zorder=0)
    marker: dict[str, Any] = {
        "markersize": 4.0 if len(report.layers) <= _MAX_MARKED_TAPS else 1.6,
        "markeredgewidth": 0,
    }
    pixels: dict[str, Any] = {"rasterized": len(report.layers) > _MAX_VECTOR_TAPS}
    for lane, ((label, style), values) in enumerate(zip(_SERIES, series, strict=True)):
        axes.plot(_logs(values), label=label, **style, **marker, **pixels)
        runs = list(_runs([value == 0 for value in values]))
        y = low - band * (lane + 1) / (len(series) + 1)
        starts, ends = [first - 0.3 for first, _ in runs], [last + 0.3 for _, last in runs]
        axes.hlines([y] * len(runs), starts, ends, color=style["color"], linewidth=2.2, **pixels)
    _label_culprits(axes, report, low - band, low, high)
    step = max(1, math.ceil((high - low) / 8))
    ticks = list(range(low, high + 1, step))
    axes.set_yticks([low - band / 2, *ticks], ["0", *(f"1e{tick}" for tick in ticks)])
    axes.set_ylabel("max |candidate - reference|")
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.1)


def _series(layers: Sequence[LayerRow]) -> list[list[float]]:
    """Propagated, introduced and noise floor per tap, NaN where there is none."""
    columns = (
        [max_abs(row.propagated) for row in layers],
        [max_abs(row.introduced) for row in layers],
        [row.noise_floor for row in layers],
    )
    return [[v if v is not None and math.isfinite(v) else math.nan for v in column] for column in columns]


def _logs(values: Sequence[float]) -> list[float]:
    return [math.log10(value) if value > 0 else math.nan for value in values]


def _decades(series: Sequence[Sequence[float]]) -> tuple[int, int]:
    """The powers of ten that enclose all positive values."""
    positive = [value for values in series for value in values if value > 0]
    if not positive:
        return -8, -6
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return low, max(high, low + 1)


def _runs(flags: Sequence[bool]) -> Iterator[tuple[int, int]]:
    """First and last index of every run of true flags."""
    for flag, group in itertools.groupby(range(len(flags)), key=flags.__getitem__):
        if flag:
            indices = list(group)
            yield indices[0], indices[-1]


def _label_culprits(axes: Axes, report: ReportData, bottom: float, low: int, high: int) -> None:
    """A line down from the name of each culprit; the names stand above the data, one below the other."""
    positions = {row.tap: index for index, row in reversed(list(enumerate(report.layers)))}
    known = [(positions[c.tap], c.tap) for c in report.culprits if c.tap in positions]
    shown = known[:_MAX_CULPRITS]
    line_height = 0.075 * (high - low + 1)
    top = high + line_height * (len(shown) + 0.6 if shown else 0.4)
    for index, (x, tap) in enumerate(shown):
        y = top - line_height * (index + 0.6)
        hidden = len(known) - len(shown) if index == len(shown) - 1 else 0
        more = f"  (and {hidden} more)" if hidden else ""
        right = x > len(report.layers) * 0.6
        axes.vlines(x, bottom, y, color=_VERMILLION, linewidth=0.9, linestyle=":", zorder=1)
        introduced = max_abs(report.layers[x].introduced)
        if introduced and math.isfinite(introduced):
            axes.plot([x], _logs([introduced]), "D", color=_VERMILLION, markeredgecolor="white", zorder=4)
        axes.annotate(
            shorten_middle(one_line(tap), 44) + more,
            (x, y),
            xytext=(-5 if right else 5, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            fontsize=8.5,
            fontweight="bold",
            color=_VERMILLION,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},  # over the lines of later culprits
        )
    axes.set_ylim(bottom, top)


def _plot_verdicts(axes: Axes, layers: Sequence[LayerRow], lanes: Sequence[Verdict]) -> None:
    """One lane per verdict that occurs, the first on top, with a bar over each run of taps."""
    labels = []
    for lane, verdict in enumerate(lanes):
        flags = [row.verdict is verdict for row in layers]
        colour = _VERDICT_COLOURS[verdict]
        spans = [(first - 0.5, last - first + 1) for first, last in _runs(flags)]
        axes.broken_barh(spans, (lane - 0.36, 0.72), facecolor=colour, edgecolor=colour, linewidth=0.8)
        labels.append(f"{verdict.value} ({sum(flags)})")
    axes.set_yticks(range(len(lanes)), labels, fontsize=8)
    axes.set_ylim(max(len(lanes), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if not layers:
        axes.text(0, 0, "no tap was recorded")


def _draw_error_distribution(report: ReportData) -> Figure:
    from matplotlib.figure import Figure

    chosen = _worst_histograms(report)
    columns = min(len(chosen), 3)
    rows = math.ceil(len(chosen) / columns)
    figure = Figure(figsize=(max(3.7 * columns, 5.0), 0.7 + 2.2 * rows), layout="constrained")
    figure.suptitle(
        _distribution_title(len(chosen), len(report.histograms)),
        x=0.01,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    edges = [edge for histogram in chosen for edge in histogram.edges] or [-8.0, -6.0]
    low, high = math.floor(min(edges)), math.ceil(max(edges))
    most = max(count for histogram in chosen for count in (histogram.zeros, *histogram.counts))
    panels[0, 0].set(yscale="log", ylim=(0.7, max(most, 10) * 2))
    for axes, histogram in itertools.zip_longest(panels.flat, chosen):
        if histogram is None:
            axes.set_visible(False)
        else:
            _plot_histogram(axes, histogram, low, high)
    figure.supxlabel("|candidate - reference|", fontsize=9)
    figure.supylabel("elements", fontsize=9)
    return figure


def _distribution_title(shown: int, known: int) -> str:
    which = f"the {shown} worst of {known} taps" if shown < known else f"all {known} taps"
    return f"Distribution of the error: {'one tap' if known == 1 else which}"


def _worst_histograms(report: ReportData) -> list[ErrorHistogram]:
    rank = {row.tap: index for index, row in enumerate(worst_layers(report, len(report.layers)))}
    ordered = sorted(report.histograms, key=lambda histogram: rank.get(histogram.tap, len(rank)))
    return ordered[:_MAX_HISTOGRAMS]


def _plot_histogram(axes: Axes, histogram: ErrorHistogram, low: int, high: int) -> None:
    """Bars over decades, and one apart on the left for the elements without any error."""
    widths = [b - a for a, b in itertools.pairwise(histogram.edges)]
    style: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.6}
    axes.bar(histogram.edges[: len(widths)], histogram.counts[: len(widths)], widths, color=_BLUE, **style)
    axes.bar([low - 1.6], [histogram.zeros], [0.9], color="#BBBBBB", hatch="///", **style)
    axes.set_xlim(low - 1.9, high + 0.2)
    step = max(1, math.ceil((high - low) / 5))
    ticks = list(range(low, high + 1, step))
    axes.set_xticks([low - 1.15, *ticks], ["0", *(f"1e{tick}" for tick in ticks)], fontsize=8)
    axes.tick_params(labelbottom=True)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda count, position: f"{count:,.0f}")
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(shorten_middle(one_line(histogram.tap), 40), loc="left", fontweight="bold")
