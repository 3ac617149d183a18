"""What an evaluation found: scores, summaries, cases; shown in a notebook, written as CSV and JSON."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.files import json_bytes, write_together
from medseg.core.labels import Labels
from medseg.core.provenance import provenance
from medseg.core.scores import Score, ScoredCase, Summary
from medseg.metrics import COUNTED, Settings
from medseg.statistics import INTERVAL_METHOD, mean_over_structures

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
COLUMNS = ("case", "structure", "metric", "value", "unit")


@dataclass(frozen=True)
class Report:
    """Scores of every case, structure and metric; their summaries over cases; and the cases ``skipped``, with reasons.

    A whole-case figure (mean_iou, pixel_accuracy) has the empty text as its structure. NaN is undefined. ``worst``: the
    worst scores, the worst first. ``group``: the regular expression that named each case's patient, None where a case is one.
    ``settings``: what was asked for, and how empty masks are treated. ``names_from``: where the structures' names stand.
    """

    scores: tuple[Score, ...]
    summaries: tuple[Summary, ...]
    labels: Labels
    cases: tuple[ScoredCase, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    worst: tuple[Score, ...] = ()
    group: str | None = None
    settings: Settings = field(default_factory=lambda: Settings(COUNTED))
    names_from: str = ""

    def mean(self, metric: str, structure: str | None = None) -> float:
        """Mean of ``metric`` over cases for ``structure`` (or region); without one, the mean of those means over structures.

        NaN where nothing is defined, as where no case annotates the structure. Raises KeyError where the report has no such
        metric or structure.
        """
        rows = [s for s in self.summaries if s.metric == metric and structure in (None, s.structure)]
        if structure is None:  # a region would count its structures twice
            rows = [s for s in rows if s.structure not in self.settings.regions]
        if not rows:
            if structure in (*self.labels.names, *self.settings.regions) and any(
                s.metric == metric for s in self.summaries
            ):
                return math.nan
            raise KeyError(f"no {metric!r} of {structure or 'any structure'!r} in this report")
        return mean_over_structures(rows, metric)

    def validated(self) -> dict[str, Any]:
        """What a model folder says of its validation: cases, and of each structure the mean Dice with its 95 % interval.

        None where a figure is undefined.
        """
        rows = {s.structure: s for s in self.summaries if s.metric == "dice" and s.structure}
        return {
            "cases": len(self.cases),
            "dice": {name: _number(row.mean) for name, row in rows.items()},
            "dice_interval": {
                name: [row.low, row.high] if row.interval and not math.isnan(row.low) else None
                for name, row in rows.items()
            },
        }

    def means(self) -> dict[str, float]:
        """``mean`` of every metric that is a ratio: a mean of volumes over structures would say nothing."""
        return {
            metric: self.mean(metric) for metric in dict.fromkeys(s.metric for s in self.summaries if s.unit == "ratio")
        }

    def structure_counts(self) -> dict[str, dict[str, int]]:
        """For each structure, in how many cases it was scored, both_empty, missed and spurious."""
        states: dict[str, dict[str, str]] = {name: {} for name in self.labels.names}
        for score in self.scores:
            if score.structure:
                states.setdefault(score.structure, {})[score.case] = score.state
        kinds = ("scored", "both_empty", "missed", "spurious")
        return {name: {kind: list(by_case.values()).count(kind) for kind in kinds} for name, by_case in states.items()}

    def to_frame(self) -> "pd.DataFrame":
        """The scores as a pandas table, one row for each; NaN where undefined."""
        import pandas as pd

        rows = [(s.case, s.structure, s.metric, s.value, s.unit, s.state) for s in self.scores]
        return pd.DataFrame(rows, columns=[*COLUMNS, "state"])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single scores, as plain JSON values; None where undefined."""
        return {
            "format_version": FORMAT_VERSION,
            "means": {metric: _number(value) for metric, value in self.means().items()},
            "summaries": [{k: _number(v) for k, v in vars(s).items()} for s in self.summaries],
            "structures": self.structure_counts(),
            "labels": self.labels.mapping(),
            "names_from": self.names_from,
            "cases": [{k: list(v) if isinstance(v, tuple) else v for k, v in vars(c).items()} for c in self.cases],
            "skipped": [{"case": case, "problem": problem} for case, problem in self.skipped],
            "worst": [{k: _number(v) for k, v in asdict(s).items()} for s in self.worst],
            "intervals": INTERVAL_METHOD,
            "group": self.group,
            "settings": self.settings.to_dict(),
            "empty_masks": self.settings.empty_masks,
            "provenance": provenance(),
        }

    def to_csv(self) -> str:
        """``case,structure,metric,value,unit``, all digits of each value; an empty field where undefined."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for s in self.scores:
            writer.writerow([s.case, s.structure, s.metric, "" if math.isnan(s.value) else repr(s.value), s.unit])
        return text.getvalue()

    def save(self, folder: Path, more: Mapping[str, bytes] | None = None) -> None:
        """Write ``scores.csv``, ``summary.json`` and ``more`` files by name into ``folder``, all or none; older ones are replaced.

        Raises OutputError or ResourceError where the place is read-only or full.
        """
        scores, summary = self.to_csv().encode("utf-8"), json_bytes(self.to_dict())
        files = {"scores.csv": scores, "summary.json": summary, **(more or {})}
        write_together({folder / name: content for name, content in files.items()})

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        means = ", ".join(
            f"{metric} {self.mean(metric):.4f}"
            for metric in ("dice", "iou")
            if any(s.metric == metric for s in self.summaries)
        )
        return f"Report({len(self.cases)} case(s){skipped}, {len(self.labels.structures)} structure(s), {means or 'no score'})"

    def _repr_html_(self) -> str:
        return "".join(_html(self))


def format_value(value: float, unit: str) -> str:
    """A figure as people read it: four decimals of a ratio, one or two of mL, mm and counts; a dash where undefined.

    >>> format_value(0.91236, "ratio"), format_value(1523.44, "mL"), format_value(3.456, "mm"), format_value(math.nan, "mL")
    ('0.9124', '1523.4', '3.46', '–')
    """
    if math.isnan(value):
        return "–"
    if unit in ("mL", "mm", "count"):
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
    return f"{value:.4f}"


def summary_cells(summary: Summary) -> list[str]:
    """The columns after the structure's name; a star marks a percentile interval, where BCa is undefined."""
    mean, low, high, median, q1, q3 = (
        format_value(v, summary.unit)
        for v in (summary.mean, summary.low, summary.high, summary.median, summary.q1, summary.q3)
    )
    star = "*" if summary.interval == "percentile" else ""
    centre = f"{mean} [{low}, {high}]{star}" if summary.interval else mean
    counts = (summary.n, summary.undefined, summary.missed, summary.spurious)
    return [centre, "–" if math.isnan(summary.median) else f"{median} [{q1}, {q3}]", *map(str, counts)]


SUMMARY_COLUMNS = ("mean [95 % interval]", "median [quartiles]", "n", "undefined", "missed", "spurious")
STAR = "* percentile interval: BCa is undefined with fewer than three patients or values all alike"


def _html(report: Report) -> Iterator[str]:
    right, left = "text-align:right;padding:1px 10px", "text-align:left;padding:1px 10px"
    yield f"<div><b>{escape(repr(report))}</b><table><thead><tr><th style='{left}'>metric</th><th style='{left}'>structure</th>"
    yield "".join(f"<th style='{right}'>{name}</th>" for name in SUMMARY_COLUMNS) + "</tr></thead><tbody>"
    last = ""
    for s in report.summaries:
        title = s.metric if s.metric != last else ""
        last = s.metric
        yield f"<tr><td style='{left}'>{escape(title)}</td><td style='{left}'>{escape(s.structure or 'whole case')}</td>"
        yield "".join(f"<td style='{right}'>{cell}</td>" for cell in summary_cells(s)) + "</tr>"
    yield "</tbody></table>"
    if report.skipped:
        items = "".join(f"<li>{escape(case)}: {escape(problem)}</li>" for case, problem in report.skipped)
        yield f"<p>skipped:</p><ul>{items}</ul>"
    yield "</div>"


def _number(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
