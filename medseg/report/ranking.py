"""The ranking of models and its stability: a table for people, and every figure as CSV."""

import csv
import io
import math
from collections.abc import Sequence

from medseg.core.text import printable
from medseg.report.comparison_tables import digits
from medseg.statistics.ranking import Ranking

RANKING_HEADER = ("metric", "structures", "rule", "cases", "ranking", "first in", "Kendall's tau [95 % of resamples]")
RANKING_NOTES = (
    "Ranking: rank and model, with its mean or mean rank; equal ones share the better rank. First in: of the bootstrap "
    "resamples of whole patients, the part in which the model ranked first was first, or shared it. Kendall's tau: of each "
    "resample's "
    "ranking with that of all cases, 1 where they are the same; mean, and 2.5 % to 97.5 % of the resamples. Stability says "
    "how much "
    "hangs on these patients, not that a difference matters or is significant: see the differences."
)


def overall(rankings: Sequence[Ranking]) -> list[Ranking]:
    """Of each metric the rankings over all its structures, or its only one."""
    most: dict[str, int] = {}
    for r in rankings:
        most[r.metric] = max(most.get(r.metric, 0), len(r.structures))
    return [r for r in rankings if len(r.structures) == most[r.metric]]


def ranking_table(rankings: Sequence[Ranking], names: Sequence[str]) -> list[list[str]]:
    """Header and rows as people read them; ``names`` are the models'."""
    return [list(RANKING_HEADER), *(_cells(r, names) for r in rankings)]


def order(ranking: Ranking) -> list[int]:
    """The models from the first to the last."""
    return sorted(range(len(ranking.ranks)), key=lambda m: (ranking.ranks[m], m))


def described(ranking: Ranking) -> str:
    """The structures that were ranked over."""
    if len(ranking.structures) > 1:
        return f"all {len(ranking.structures)}"
    return printable(ranking.structures[0]) or "whole case"


def _cells(r: Ranking, names: Sequence[str]) -> list[str]:
    show = digits(r.unit) if r.rule == "mean then rank" else digits("")
    listed = ", ".join(f"{r.ranks[m]} {names[m]} ({show(float(r.figures[m]))})" for m in order(r))
    first = [m for m in range(len(names)) if r.ranks[m] == 1]
    share = ", ".join(f"{100 * r.shares[m, 0]:.0f} %" for m in first)
    tau = "–" if math.isnan(r.tau[0]) else f"{r.tau[0]:.2f} [{r.tau[1]:.2f}, {r.tau[2]:.2f}]".replace("-", "−")
    cases = str(r.cases) if r.cases == r.patients else f"{r.cases} ({r.patients} patients)"
    cases += f", {r.unclear} unclear" if r.unclear else ""
    return [r.metric, described(r), r.rule, cases, listed, share, tau]


def ranking_csv(rankings: Sequence[Ranking], names: Sequence[str]) -> str:
    """A row for each ranking and model; an empty field where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = [
        "metric",
        "unit",
        "structure",
        "structures",
        "rule",
        "cases",
        "patients",
        "unclear",
        "model",
        "figure",
        "rank",
    ]
    shares = [f"share_rank_{n + 1}" for n in range(len(names))]
    writer.writerow([*head, "low", "median", "high", *shares, "tau", "tau_low", "tau_high", "resamples"])
    for r in rankings:
        structure = r.structures[0] if len(r.structures) == 1 else ""
        before = [r.metric, r.unit, structure, len(r.structures), r.rule, r.cases, r.patients, r.unclear]
        for m in order(r):
            figures = [r.figures[m], r.ranks[m], r.low[m], r.median[m], r.high[m], *r.shares[m], *r.tau, r.resamples]
            writer.writerow([*before, names[m], *(_full(float(v)) for v in figures)])
    return text.getvalue()


def _full(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.15g}"
