"""A comparison as tables: CSV with every figure, Markdown and LaTeX with what a paper prints."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from medseg.core.text import printable
from medseg.statistics.comparison import Difference

COLUMNS = ("metric", "structure", "comparison", "n", "first", "second", "difference [95 % interval]")
TESTS = ("p Wilcoxon", "p permutation", "r", "win/tie/loss", "outside", "margin")
HEADER = (*COLUMNS, *TESTS)
_TEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{"−": "$-$", "–": "--", "<": "$<$", ">": "$>$", "|": r"\textbar{}"},
}


def to_csv(rows: Sequence[Difference]) -> str:
    """Every figure of every row in full; an empty field where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    listed = [_flat(row) for row in rows]
    writer.writerow(listed[0] if listed else [])
    writer.writerows([_full(v) for v in row.values()] for row in listed)
    return text.getvalue()


def to_markdown(rows: Sequence[Difference]) -> str:
    lines = [HEADER, ["---"] * 3 + ["---:"] * (len(HEADER) - 3), *(cells(row) for row in rows)]
    return "".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in line)} |\n" for line in lines)


def to_latex(rows: Sequence[Difference], *, caption: str) -> str:
    """A table for the booktabs package."""
    body = [" & ".join(_tex(c) for c in line) + r" \\" for line in [HEADER, *(cells(row) for row in rows)]]
    columns = "lll" + "r" * (len(HEADER) - 3)
    lines = [r"\begin{table}", rf"\caption{{{_tex(caption)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [body[0], r"\midrule", *body[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "% needs \\usepackage{booktabs}\n" + "\n".join(lines) + "\n"


def cells(row: Difference) -> list[str]:
    """One row as people read it, in the order of HEADER."""
    e, show = row.endpoint, digits(row.endpoint.unit)
    star = "*" if row.interval == "percentile" else ""
    limits = f" [{show(row.low)}, {show(row.high)}]{star}" if row.interval else ""
    n = str(row.n) if row.n == row.patients else f"{row.n} ({row.patients} patients)"
    return [
        metric_name(row),
        printable(e.structure) or "whole case",
        f"{row.second} − {row.first}",
        n,
        show(row.mean_first),
        show(row.mean_second),
        f"{show(row.mean)}{limits}",
        p_text(row.wilcoxon_holm),
        p_text(row.permutation_holm),
        _text(row.rank_biserial, 2),
        f"{row.wins}/{row.ties}/{row.losses}",
        outside(row),
        _verdict(row),
    ]


def metric_name(row: Difference) -> str:
    """The metric with its unit and an arrow to its better side.

    A signed figure, compared by its size, stands between bars.
    """
    e = row.endpoint
    name = f"|{e.metric}|" if e.better == "nearer to 0" else e.metric
    unit = "" if e.unit == "ratio" else f" ({e.unit})"
    return f"{name}{unit} {'↑' if e.better == 'higher' else '↓'}"


def outside(row: Difference) -> str:
    """The cases outside the differences, and whom they count against."""
    parts = [
        (row.both_undefined, "undefined in both"),
        (row.against_first, f"against {row.first}"),
        (row.against_second, f"against {row.second}"),
        (row.unclear, "undefined in one"),
    ]
    return ", ".join(f"{count} {what}" for count, what in parts if count) or "0"


def p_text(p: float) -> str:
    """
    >>> p_text(0.0004), p_text(0.0321), p_text(math.nan)
    ('<0.001', '0.032', '–')
    """
    if math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def digits(unit: str) -> Any:
    """A function that writes figures of ``unit``: four decimals of a ratio, two of anything else; a dash where undefined."""
    return lambda value: _text(value, 4 if unit == "ratio" else 2)


def _verdict(row: Difference) -> str:
    if row.non_inferior is None:
        return "–"
    return f"{row.margin:g}: {'not inferior' if row.non_inferior else 'not shown'}"


def _text(value: float, decimals: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{decimals}f}".replace("-", "−")


def _flat(row: Difference) -> dict[str, Any]:
    values = asdict(row)
    return {**values.pop("endpoint"), **values}


def _full(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)


def _tex(text: str) -> str:
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    return "".join(_TEX.get(c, arrows.get(c, c)) for c in text)
