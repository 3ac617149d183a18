"""results.csv, results.json and with pictures results.html of a cohort: a row for each case, sorted.

The same after a kill as without one but for times.
"""

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from medseg.core.errors import OutputError
from medseg.core.files import is_there, json_bytes, write_durable, write_together
from medseg.core.provenance import provenance
from medseg.io.targets import place_of
from medseg.report.result_preview import preview_path
from medseg.workflows.cohort_case import Order, Record, not_done
from medseg.workflows.infer_case import Job

CSV, JSON, PAGE = "results.csv", "results.json", "results.html"


def check_results_free(folder: Path, *, begun: bool) -> None:
    """Raise OutputError where a file that no run can have made, or a folder, is in the place of the results."""
    for place in (folder / name for name in (CSV, JSON, PAGE)):
        if place.is_dir() or (is_there(place) and not begun):
            raise OutputError(
                f"{place}: is there already, and no run into this folder made it; choose another --output"
            )


def write_results(
    folder: Path, records: Mapping[str, Record], orders: Sequence[Order], job: Job, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Write both files, and return what results.json holds. A case without a record is ``pending``."""
    pending = [not_done(order, "pending", None) for order in orders if order.name not in records]
    cases = sorted([*records.values(), *pending], key=lambda record: str(record["case"]))
    model = job.segmenter.model
    content = {
        "model": {"name": model.card.name, "sha256": model.sha256, "folder": str(model.folder)},
        "settings": settings,
        "device": str(job.segmenter.device),
        "counts": {state: sum(c["status"] == state for c in cases) for state in ("done", "failed", "pending")},
        "cases": cases,
        "provenance": provenance(),
    }
    predicted = job.labels.names if job.segmenter.dice_predictor else ()
    write_together({folder / CSV: _table(cases, job.labels.names, predicted), folder / JSON: json_bytes(content)})
    return content


def write_page(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write results.html from what results.json holds and the pictures of the cases, and return its path."""
    from medseg.report.cohort_page import cohort_page

    places = {
        c["case"]: preview_path(place_of(Path(c["label_map"]))).as_posix() for c in content["cases"] if c["label_map"]
    }
    previews = {case: place for case, place in places.items() if (folder / place).is_file()}
    write_durable(folder / PAGE, cohort_page(folder, content, previews))
    return folder / PAGE


def _table(cases: Sequence[Record], structures: Sequence[str], predicted: Sequence[str]) -> bytes:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    volumes = [f"volume_ml_{name}" for name in structures]
    figures = {"": "dice", "_low": "low", "_high": "high"}
    stages = list(dict.fromkeys(stage for case in cases for stage in case["seconds"]))
    writer.writerow(
        [
            "case",
            "status",
            *volumes,
            *(f"predicted_dice{kind}_{name}" for name in predicted for kind in figures),
            "seconds",
            *(f"seconds_{s}" for s in stages),
            "review",
            "warnings",
            "error",
            "label_map",
            "scan",
        ]
    )
    for case in cases:
        seconds = case["seconds"]
        writer.writerow(
            [
                *(case["case"], case["status"]),
                *(case["volumes_ml"].get(name, "") for name in structures),
                *(_figure(case, name, figure) for name in predicted for figure in figures.values()),
                round(sum(seconds.values()), 3) if seconds else "",
                *(seconds.get(stage, "") for stage in stages),
                "yes" if case.get("review") else "",
                "; ".join(case["warnings"]),
                case["error"] or "",
                case["label_map"] or "",
                "; ".join(source["path"] for source in case["scan"]),
            ]
        )
    return text.getvalue().encode("utf-8", "backslashreplace")


def _figure(case: Record, name: str, figure: str) -> Any:
    """Of the predicted Dice of a structure; empty where it is undefined."""
    value = case.get("predicted_dice", {}).get(name, {}).get(figure)
    return "" if value is None else value
