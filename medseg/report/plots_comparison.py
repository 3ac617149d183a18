"""A comparison as figures: differences with their intervals, and the values of each model."""

import math
from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes

from medseg.core.labels import PALETTE
from medseg.core.text import printable
from medseg.report.comparison_tables import metric_name
from medseg.report.figures import figure_bytes, new_figure, tidy
from medseg.statistics.comparison import Difference, Endpoint, ModelScores

MARKERS = "osDv^<>P"
MAX_ROWS = 120  # a figure with more is not readable; the tables hold all


def forest_plot(rows: Sequence[Difference], kind: str) -> bytes:
    """Each row's difference and 95 % interval, a panel for each metric; ``kind`` is png or svg.

    Filled: the interval excludes 0. The dashed line is the margin. The grey side is where the first model is better. Of more
    than 120 rows the first are drawn, and the figure says so.
    """
    drawn = rows[:MAX_ROWS]
    panels = [[r for r in drawn if r.endpoint.metric == m] for m in dict.fromkeys(r.endpoint.metric for r in drawn)]
    heights = [1.2 + 0.3 * len(panel) for panel in panels]
    figure = new_figure(8.5, sum(heights) + 0.4)
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for one, panel in zip(axes, panels, strict=True):
        _draw_forest(one, panel)
    if len(rows) > len(drawn):
        figure.suptitle(f"the first {len(drawn)} of {len(rows)} rows", fontsize=9)
    return figure_bytes(figure, kind)


def box_plot(models: Sequence[ModelScores], endpoints: Sequence[Endpoint], kind: str) -> bytes:
    """Quartiles, whiskers to 1.5 times their range, and every value beyond, of each model; a panel for each metric."""
    drawn = endpoints[:MAX_ROWS]
    panels = [list(group) for _, group in groupby(drawn, key=lambda e: e.metric)]
    widest = max(len(panel) for panel in panels)
    figure = new_figure(min(30.0, 3.0 + widest * (0.35 + 0.3 * len(models))), 3.4 * len(panels))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for one, panel in zip(axes, panels, strict=True):
        _draw_boxes(one, models, panel)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure_bytes(figure, kind)


def _draw_forest(axes: Axes, rows: Sequence[Difference]) -> None:
    first = rows[0]
    pairs = list(dict.fromkeys((r.first, r.second) for r in rows))
    for place, row in enumerate(rows):
        if math.isnan(row.mean):
            axes.text(0, place, "undefined", fontsize=7, ha="center", va="center", color="0.4")
            continue
        at = pairs.index((row.first, row.second))
        colour, marker = PALETTE[at % len(PALETTE)], MARKERS[at % len(MARKERS)]
        clear = row.interval != "" and (row.low > 0 or row.high < 0)
        if row.interval:
            axes.plot([row.low, row.high], [place, place], color="0.2", linewidth=1.4, solid_capstyle="butt")
        fill = colour if clear else "white"
        axes.plot(
            row.mean, place, marker, markerfacecolor=fill, markeredgecolor="black", markeredgewidth=0.8, markersize=6
        )
    names = [f"{printable(r.endpoint.structure) or 'whole case'}{_pair(r, pairs)}" for r in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.8)
    sign = -1.0 if first.endpoint.better == "higher" else 1.0
    if not math.isnan(first.margin):
        axes.axvline(sign * first.margin, color="black", linewidth=1.0, linestyle=(0, (4, 3)))
    low, high = axes.get_xlim()
    axes.axvspan(*((low, 0) if sign < 0 else (0, high)), color="0.94", zorder=0)
    axes.set_xlim(low, high)
    title = f"{metric_name(first)}: {first.second} − {first.first}" if len(pairs) == 1 else metric_name(first)
    axes.set_title(title, fontsize=9, loc="left", parse_math=False)
    dashed = "" if math.isnan(first.margin) else "; dashed: margin"
    axes.set_xlabel(f"mean difference, 95 % interval (grey: the first model is better{dashed})", fontsize=8)
    tidy(axes)


def _pair(row: Difference, pairs: Sequence[tuple[str, str]]) -> str:
    return "" if len(pairs) == 1 else f": {row.second} − {row.first}"


def _draw_boxes(axes: Axes, models: Sequence[ModelScores], endpoints: Sequence[Endpoint]) -> None:
    width = 0.8 / len(models)
    for n, model in enumerate(models):
        values, places = [], []
        for k, e in enumerate(endpoints):
            found = [v for v in model.values.get((e.metric, e.structure), {}).values() if not math.isnan(v)]
            values.append([abs(v) for v in found] if e.better == "nearer to 0" else found)
            places.append(k + (n - (len(models) - 1) / 2) * width)
        colour, marker = PALETTE[n % len(PALETTE)], MARKERS[n % len(MARKERS)]
        drawn = axes.boxplot(
            values,
            positions=places,
            widths=0.8 * width,
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "black", "linewidth": 1.6},
            flierprops={"marker": marker, "markersize": 3, "markerfacecolor": colour, "markeredgecolor": "0.2"},
        )
        for patch in drawn["boxes"]:
            patch.set(facecolor=colour, alpha=0.75, edgecolor="black", hatch=("", "///", "...", "xx", "\\\\\\")[n % 5])
        drawn["boxes"][0].set_label(model.name)
    names = [printable(e.structure) or "whole case" for e in endpoints]
    axes.set_xticks(range(len(endpoints)), names, fontsize=8, parse_math=False)
    if len(endpoints) > 6:
        axes.tick_params(axis="x", labelrotation=90)
    unit = "" if endpoints[0].unit == "ratio" else f" ({endpoints[0].unit})"
    axes.set_title(endpoints[0].metric + unit, fontsize=9, loc="left", parse_math=False)
    tidy(axes)
