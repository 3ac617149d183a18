"""Agreement as a figure: the readers with one another, and models among them."""

import math
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from medseg.core.labels import PALETTE
from medseg.core.text import printable
from medseg.report.figures import figure_bytes, new_figure, tidy
from medseg.report.plots_comparison import MARKERS

if TYPE_CHECKING:
    from medseg.report.agreement import Agreement

MAX_STRUCTURES = 60  # a figure with more is not readable; the tables hold all


def agreement_plot(found: "Agreement", kind: str) -> bytes:
    """By structure: on the left the mean Dice of the readers with one another, of each with the others, and of the models.

    On the right, where there are models, the models' less the readers' with the 95 % interval; dashed is the margin. ``kind`` is
    png or svg. Of more than 60 structures the first are drawn, and the figure says so.
    """
    rows = [s for s in found.structures if s.cases]
    drawn = [s.structure for s in rows[:MAX_STRUCTURES]]
    models = list(dict.fromkeys(m.model for m in found.models))
    step = 0.32 + 0.16 * max(1, len(models))
    figure = new_figure(9.5 if models else 6.5, 1.5 + step * max(1, len(drawn)) + 0.22 * (1 + (len(models) + 2) // 4))
    axes = figure.subplots(1, 2 if models else 1, sharey=True, squeeze=False)[0]
    _draw_levels(axes[0], found, drawn, models)
    if models:
        _draw_differences(axes[1], found, drawn, models)
    axes[0].set_yticks(range(len(drawn)), [printable(name) for name in drawn], fontsize=8, parse_math=False)
    axes[0].set_ylim(max(1, len(drawn)) - 0.5, -0.5)
    if len(rows) > len(drawn):
        figure.suptitle(f"the first {len(drawn)} of {len(rows)} structures", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure_bytes(figure, kind)


def _places(models: int) -> list[float]:
    """How far below the readers each model's mark stands."""
    return [0.5 * (n + 1) / (models + 1) for n in range(models)]


def _draw_levels(axes: Axes, found: "Agreement", drawn: list[str], models: list[str]) -> None:
    lines = [s for s in found.structures if s.structure in drawn]
    up = -0.2 if models else 0.0
    for s in lines:
        place = drawn.index(s.structure) + up
        if s.dice_interval:
            axes.plot([s.dice_low, s.dice_high], [place, place], color="black", linewidth=1.6, solid_capstyle="butt")
    own = [(a.dice, drawn.index(a.structure) + up) for a in found.alone if a.structure in drawn and a.cases]
    if len(found.readers) > 2:  # of two the one agrees with the other as they agree with one another
        axes.plot(
            *zip(*own, strict=True), "|", color="0.35", markersize=11, label="each reader with the others", linestyle=""
        )
    means = [(s.dice, drawn.index(s.structure) + up) for s in lines]
    if means:
        axes.plot(
            *zip(*means, strict=True), "o", color="black", markersize=6, label="readers with one another", linestyle=""
        )
    for n, model in enumerate(models):
        values = [(m.found.model, drawn.index(m.structure) + _places(len(models))[n]) for m in found.models
                  if m.model == model and m.structure in drawn]  # fmt: skip
        colour, marker = _look(n)
        axes.plot(*zip(*values, strict=True), marker, color=colour, markersize=6, markeredgecolor="black", markeredgewidth=0.6,
                  label=f"{printable(model)} with the readers", linestyle="")  # fmt: skip
    axes.set_xlabel("mean Dice (line: 95 % interval)", fontsize=8)
    tidy(axes)


def _draw_differences(axes: Axes, found: "Agreement", drawn: list[str], models: list[str]) -> None:
    for m in found.models:
        a = m.found
        if m.structure not in drawn or math.isnan(a.difference):
            continue
        n = models.index(m.model)
        place, (colour, marker) = drawn.index(m.structure) + _places(len(models))[n], _look(n)
        if a.interval.method:
            axes.plot(
                [a.interval.low, a.interval.high], [place, place], color=colour, linewidth=1.6, solid_capstyle="butt"
            )
        fill = "white" if m.margin is not None and not m.not_inferior else colour
        axes.plot(
            a.difference, place, marker, color=colour, markerfacecolor=fill, markeredgecolor="black", markersize=6
        )
    axes.axvline(0, color="black", linewidth=0.8)
    margin = found.models[0].margin
    if margin is not None:
        axes.axvline(-margin, color="black", linewidth=1.0, linestyle=(0, (4, 3)))
    low, high = axes.get_xlim()
    axes.axvspan(low, min(0.0, high), color="0.94", zorder=0)
    axes.set_xlim(low, high)
    said = "dashed: margin; hollow: non-inferiority not shown" if margin is not None else "grey: readers agree better"
    axes.set_xlabel(f"model less readers, mean Dice, 95 % interval\n({said})", fontsize=8)
    axes.tick_params(axis="y", length=0)
    tidy(axes)


def _look(n: int) -> tuple[str, str]:
    return PALETTE[n % len(PALETTE)], MARKERS[(n + 1) % len(MARKERS)]
