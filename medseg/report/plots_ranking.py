"""Rankings as a figure: how often each model had each rank."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from medseg.core.text import printable
from medseg.report.figures import figure_bytes, new_figure, tidy
from medseg.report.ranking import described, order
from medseg.statistics.ranking import RULES, Ranking

_LARGEST = 900.0  # points²: of a rank held in every resample


def rank_plot(rankings: Sequence[Ranking], names: Sequence[str], kind: str) -> bytes:
    """A row of panels for each metric, a panel for each rule: the area of a circle is how often the model had that rank.

    The line goes from the 2.5 % to the 97.5 % rank of the resamples, the cross is the median. ``kind`` is png or svg.
    """
    metrics = list(dict.fromkeys(r.metric for r in rankings))
    models = len(names)
    figure = new_figure(min(30.0, 2 * (1.6 + 0.75 * models)), len(metrics) * (1.3 + 0.5 * models))
    axes = figure.subplots(len(metrics), len(RULES), squeeze=False)
    for row, metric in enumerate(metrics):
        for column, rule in enumerate(RULES):
            one = axes[row, column]
            drawn = [r for r in rankings if (r.metric, r.rule) == (metric, rule)]
            if drawn:
                _draw(one, drawn[0], names)
            else:
                one.set_axis_off()
    return figure_bytes(figure, kind)


def _draw(axes: Axes, ranking: Ranking, names: Sequence[str]) -> None:
    models, ordered = len(names), order(ranking)
    for place, m in enumerate(ordered):
        axes.plot([place, place], [ranking.low[m], ranking.high[m]], color="black", linewidth=1.4, zorder=2)
        for rank, share in enumerate(ranking.shares[m].tolist(), 1):
            if share:
                axes.scatter(
                    place, rank, s=_LARGEST * share, facecolor="0.8", edgecolor="black", linewidth=0.8, zorder=1
                )
            if share >= 0.05:
                axes.text(place + 0.3, rank, f"{100 * share:.0f} %", fontsize=7, va="center")
        axes.plot(place, ranking.median[m], "x", color="black", markersize=6, markeredgewidth=1.6, zorder=3)
    axes.set_xticks(range(models), [printable(names[m]) for m in ordered], fontsize=8, parse_math=False)
    if models > 4 or max(map(len, names)) > 12:
        axes.tick_params(axis="x", labelrotation=30)
    axes.set_yticks(range(1, models + 1))
    axes.set_xlim(-0.6, models - 0.2)
    axes.set_ylim(models + 0.6, 0.4)
    axes.set_ylabel("rank", fontsize=8)
    what = described(ranking) + (" structures" if len(ranking.structures) > 1 else "")
    axes.set_title(f"{ranking.metric}, {what}: {ranking.rule}", fontsize=9, loc="left", parse_math=False)
    tidy(axes)
