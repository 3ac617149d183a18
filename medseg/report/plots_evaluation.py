"""An evaluation as figures: every value of a metric by structure, and predicted against reference volumes."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from medseg.core.labels import PALETTE
from medseg.core.scores import Score, Summary
from medseg.core.text import printable
from medseg.report.evaluation import Report
from medseg.report.figures import figure_bytes, new_figure, tidy
from medseg.statistics.agreement import limits_of_agreement

MAX_STRIPS = 60
MAX_PANELS = 12
RASTER_ABOVE = 5000  # points in a figure; as single marks they would fill megabytes
_MARKS = {"scored": ("o", "0.35"), "missed": ("x", PALETTE[0]), "spurious": ("^", PALETTE[1])}


def strip_plot(report: Report, metric: str) -> bytes | None:
    """SVG with a row for each structure: every case's value, the mean with its 95 % interval, the median; None without values.

    Missed cases are crosses, spurious ones triangles. Of more than 60 structures the first are drawn.
    """
    rows = [s for s in report.summaries if s.metric == metric and s.structure and s.n][:MAX_STRIPS]
    if not rows:
        return None
    figure = new_figure(8.0, 0.9 + 0.36 * len(rows))
    axes = figure.subplots()
    by_structure: dict[str, list[Score]] = {s.structure: [] for s in rows}
    for score in report.scores:
        if score.metric == metric and score.structure in by_structure and not math.isnan(score.value):
            by_structure[score.structure].append(score)
    _raster_many(axes, sum(map(len, by_structure.values())))
    for place, row in enumerate(rows):
        _draw_strip(axes, place, row, by_structure[row.structure])
    axes.set_yticks(range(len(rows)), [printable(s.structure) for s in rows], fontsize=8, parse_math=False)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    if rows[0].unit == "ratio" and metric != "relative_volume_difference":
        axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(metric if rows[0].unit == "ratio" else f"{metric} ({rows[0].unit})", fontsize=8)
    tidy(axes)
    return figure_bytes(figure, "svg")


def _draw_strip(axes: Axes, place: int, row: Summary, scores: Sequence[Score]) -> None:
    for state in _MARKS:
        values = [s.value for s in scores if s.state == state]
        # A place beside the line that follows from the order alone: the same picture every time.
        beside = [place + 0.26 * (2 * (n * 0.618034 % 1) - 1) for n in range(len(values))]
        _marks(axes, values, beside, state)
    if not math.isnan(row.median):
        axes.plot([row.median] * 2, [place - 0.34, place + 0.34], color="black", linewidth=1.6)
    if row.interval:
        axes.plot([row.low, row.high], [place] * 2, color="black", linewidth=1.2)
    axes.plot(row.mean, place, "D", color="black", markerfacecolor="white", markersize=4.5)


def _raster_many(axes: Axes, points: int) -> None:
    """Beyond RASTER_ABOVE points in the figure the marks become pixels; lines and text stay lines and text."""
    if points > RASTER_ABOVE:
        axes.set_rasterization_zorder(1.5)


def _marks(axes: Axes, across: list[float], up: list[float], state: str) -> None:
    marker, colour = _MARKS[state]
    (line,) = axes.plot(across, up, marker, linestyle="none", color=colour, markersize=4, markeredgewidth=0.8, zorder=1)
    if marker == "o":
        line.set_markerfacecolor("none")


def agreement_plot(report: Report) -> bytes | None:
    """SVG with a panel for each structure: predicted less reference volume over their mean (mL); None without volumes.

    Solid: the mean difference; dashed: the 95 % limits of agreement; dotted: 0. Of more than 12 structures the first.
    """
    volumes = _volumes(report)
    names = [name for name in report.labels.names if name in volumes][:MAX_PANELS]
    if not names:
        return None
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = new_figure(3.6 * columns, 2.9 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        _raster_many(axes, sum(len(volumes[name]) for name in names))
        _draw_agreement(axes, name, volumes[name])
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel("mean of predicted and reference volume (mL)", fontsize=8)
    figure.supylabel("predicted − reference (mL)", fontsize=8)
    return figure_bytes(figure, "svg")


def _volumes(report: Report) -> dict[str, list[tuple[float, float, str]]]:
    """By structure, for each case where either mask holds a voxel: predicted and reference volume, and state."""
    reference = {(s.structure, s.case): s.value for s in report.scores if s.metric == "reference_volume_ml"}
    found: dict[str, list[tuple[float, float, str]]] = {}
    for s in report.scores:
        if s.metric == "volume_ml" and s.state in _MARKS and (s.structure, s.case) in reference:
            found.setdefault(s.structure, []).append((s.value, reference[s.structure, s.case], s.state))
    return found


def _draw_agreement(axes: Axes, name: str, rows: Sequence[tuple[float, float, str]]) -> None:
    pairs = np.array([(p, r) for p, r, _ in rows])
    means, differences = pairs.mean(axis=1), pairs[:, 0] - pairs[:, 1]
    for state in _MARKS:
        at = [n for n, row in enumerate(rows) if row[2] == state]
        _marks(axes, means[at].tolist(), differences[at].tolist(), state)
    found = limits_of_agreement(differences)
    axes.axhline(0, color="0.5", linewidth=0.9, linestyle=":")
    axes.axhline(found.bias, color="black", linewidth=1.2)
    for limit in (found.low, found.high):
        if not math.isnan(limit):
            axes.axhline(limit, color="black", linewidth=1.0, linestyle=(0, (5, 3)))
    text = f"{printable(name)}: {found.bias:.2f} [{found.low:.2f}, {found.high:.2f}] mL, n {found.n}"
    axes.set_title(text, fontsize=8, loc="left", parse_math=False)
    tidy(axes)
