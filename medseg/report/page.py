"""The page of an evaluation, one file that opens without a network, and its tables in Markdown beside it."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from medseg.core.provenance import provenance
from medseg.core.text import printable
from medseg.report.evaluation import STAR, SUMMARY_COLUMNS, Report, format_value, summary_cells
from medseg.report.gallery import Picture
from medseg.report.html import inline, rendered
from medseg.report.plots_evaluation import MAX_PANELS, MAX_STRIPS, agreement_plot, strip_plot
from medseg.statistics import INTERVAL_METHOD

STRIPS = ("dice", "nsd", "hd95")
_BACKSLASH_PIPE = "\\|"


def page_files(report: Report, pictures: Sequence[Picture]) -> dict[str, bytes]:
    """``report.html`` and ``report.md`` by name."""
    content = _content(report)
    markdown = _markdown(content).encode("utf-8", "backslashreplace")
    return {"report.html": _html(report, content, pictures), "report.md": markdown}


def _content(report: Report) -> dict[str, Any]:
    """What both forms say: plain text and tables of text."""
    made = provenance()
    nowhere = [name for name, counts in report.structure_counts().items() if _in_no_case(counts)]
    return {
        "cases": len(report.cases),
        "structures": len(report.labels.structures),
        "created": made["created"],
        "tables": _tables(report, set(nowhere)),
        "columns": SUMMARY_COLUMNS,
        "star": STAR if any(s.interval == "percentile" for s in report.summaries) else "",
        "worst_metric": report.worst[0].metric if report.worst else "",
        "worst": [
            [printable(s.case), printable(s.structure), format_value(s.value, s.unit), s.state] for s in report.worst
        ],
        "nowhere": [printable(name) for name in nowhere],
        "skipped": [[printable(case), printable(problem)] for case, problem in report.skipped],
        "notes": _notes(report),
        "facts": _facts(report),
        "files": [
            [printable(t) for t in (c.id, c.prediction, c.prediction_sha256, c.reference, c.reference_sha256)]
            for c in report.cases
        ],
        "versions": [[name, version] for name, version in made["versions"].items()],
    }


def _in_no_case(counts: dict[str, int]) -> bool:
    return not any(count for state, count in counts.items() if state != "both_empty")


def _tables(report: Report, nowhere: set[str]) -> list[tuple[str, list[list[str]]]]:
    """A table for each metric: name, and rows of structure and figures."""
    found = []
    for metric, group in groupby(report.summaries, key=lambda s: s.metric):
        rows = [
            [printable(s.structure) or "whole case", *summary_cells(s)] for s in group if s.structure not in nowhere
        ]
        if rows:
            found.append((metric, rows))
    return found


def _notes(report: Report) -> list[str]:
    moved = [c for c in report.cases if c.resampled_from]
    notes = [f"{len(moved)} prediction(s) were resampled onto the reference's grid, nearest voxel."] if moved else []
    notes += [f"{printable(c.id)}: {c.outside_ml:.2f} mL of the prediction lay outside." for c in moved if c.outside_ml]
    return notes + [printable(w) for w in dict.fromkeys(w for case in report.cases for w in case.warnings)]


def _facts(report: Report) -> list[list[str]]:
    settings = report.settings.to_dict()
    tolerances = ", ".join(f"{name} {mm:g} mm" for name, mm in settings["tolerance_mm"].items())
    patients = f"by the expression {report.group} on the case id" if report.group else "each case is one patient"
    facts = [["Empty masks", report.settings.empty_masks], ["Intervals", f"{INTERVAL_METHOD}; patients: {patients}"]]
    facts += [["Quartiles", "linear interpolation (type 7 of Hyndman and Fan)"], ["Tolerance of nsd", tolerances]]
    if "boundary_iou" in settings["metrics"]:
        widths = ", ".join(f"{name} {mm:g} mm" for name, mm in settings["boundary_mm"].items())
        facts.append(["Width of the rim of boundary_iou", widths])
    if report.names_from:
        facts.append(["Names of structures", printable(report.names_from)])
    if "calibration" in settings:
        facts.append(["Calibration of probabilities", settings["calibration"]])
    if settings["lesions"]:
        facts.append(["Lesions", f"{', '.join(settings['lesions'])}; {settings['lesion_matching']}"])
    return facts


def _html(report: Report, content: dict[str, Any], pictures: Sequence[Picture]) -> bytes:
    agreement = agreement_plot(report)
    return rendered(
        "page.html",
        **content,
        strips=[(metric, inline(svg)) for metric in STRIPS if (svg := strip_plot(report, metric))],
        agreement=inline(agreement) if agreement else "",
        pictures=[(p.title, p.remark, inline(p.png)) for p in pictures],
        max_strips=MAX_STRIPS,
        max_panels=MAX_PANELS,
    )


def _markdown(content: dict[str, Any]) -> str:
    lines = [
        "# Evaluation",
        "",
        f"{content['cases']} case(s), {content['structures']} structure(s), {content['created']}.",
        "",
    ]
    for metric, rows in content["tables"]:
        lines += [f"## {metric}", "", *_table(["structure", *content["columns"]], rows), ""]
    lines += [content["star"], ""] if content["star"] else []
    if content["worst"]:
        lines += [f"## Worst {content['worst_metric']}", ""]
        lines += [*_table(["case", "structure", content["worst_metric"], "state"], content["worst"]), ""]
    if content["nowhere"]:
        lines += [f"In no prediction and no reference: {', '.join(content['nowhere'])}.", ""]
    if content["skipped"]:
        lines += ["## Skipped", "", *_table(["case", "problem"], content["skipped"]), ""]
    lines += ["## How", "", *(f"- {note}" for note in content["notes"])]
    lines += [f"- {name}: {text}." for name, text in content["facts"]]
    lines += [f"- Versions: {', '.join(f'{name} {version}' for name, version in content['versions'])}.", ""]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    listed = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return [f"| {' | '.join(cell.replace('|', _BACKSLASH_PIPE) for cell in row)} |" for row in listed]
