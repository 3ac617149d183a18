"""Measurements of each structure as JSON, in full, and as CSV, one row a structure."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from medseg.core.files import json_bytes
from medseg.core.labels import Labels
from medseg.core.measure import Measurement, measure
from medseg.core.terminology import concept_of
from medseg.io.segmentation import Segmentation

_WORLD = "RAS+: millimetres to the right, to the front and to the head of the patient"
_FIGURES = "mean", "sd", "median", "percentile_5", "percentile_95"


def statistics_paths(place: Path, labels: Labels) -> tuple[Path, Path]:
    """``<place>_stats.json`` and ``<place>_stats.csv``."""
    return Path(f"{place}_stats.json"), Path(f"{place}_stats.csv")


def statistics(segmentation: Segmentation) -> dict[Path, bytes]:
    """Both files. Figures of a structure without voxels are null in JSON and empty in CSV, but for a volume of 0."""
    as_json, as_csv = statistics_paths(segmentation.place, segmentation.labels)
    scan = segmentation.scan.volume
    found = measure(segmentation.label_map, segmentation.labels, scan)
    content = {
        "world": _WORLD,
        "voxels": "indices i, j, k of the label map, from 0; first and last both belong to the box",
        "intensities": "of the scan's voxels inside the structure; sd divides by n; unit of the scan (HU for CT)",
        "truncated": "the structure reaches the border of the scan: its volume may be larger than measured",
        "spacing_mm": list(scan.geometry.spacing_mm),
        "structures": [_record(one, scan.channels) for one in found],
    }
    return {as_json: json_bytes(content), as_csv: _table(found, scan.channels)}


def _record(one: Measurement, channels: int) -> dict[str, Any]:
    place, concept = one.place, concept_of(one.structure)
    figures: Sequence[Mapping[str, float | None]] = [asdict(channel) for channel in one.intensities] or [
        dict.fromkeys(_FIGURES)
    ] * channels
    return {
        "structure": one.structure.name,
        "value": one.structure.value,
        "snomed": None if concept.is_private else concept.type.value,
        "voxels": one.voxels,
        "volume_ml": round(one.volume_ml, 6),
        "truncated": one.truncated,
        "sides": list(one.sides),
        "centroid_mm": place and _rounded(place.centroid_mm),
        "box_voxels": place and {"first": list(place.first), "last": list(place.last)},
        "box_mm": place and {"low": _rounded(place.low_mm), "high": _rounded(place.high_mm)},
        "intensities": [
            {name: None if value is None else round(value, 6) for name, value in channel.items()} for channel in figures
        ],
    }


def _table(found: Sequence[Measurement], channels: int) -> bytes:
    rows = [_row(_record(one, channels)) for one in found]
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record on one level: ``centroid_x_mm``, ``first_i``, ``low_x_mm``, ``mean`` (``mean_0`` ... of several channels)."""
    row = {key: record[key] for key in ("structure", "value", "snomed", "voxels", "volume_ml", "truncated")}
    row["sides"] = " ".join(record["sides"])
    row |= {f"centroid_{axis}_mm": value for axis, value in _axes("xyz", record["centroid_mm"])}
    for corner in ("first", "last"):
        row |= {f"{corner}_{axis}": v for axis, v in _axes("ijk", (record["box_voxels"] or {}).get(corner))}
    for corner in ("low", "high"):
        row |= {f"{corner}_{axis}_mm": v for axis, v in _axes("xyz", (record["box_mm"] or {}).get(corner))}
    several = len(record["intensities"]) > 1
    for number, channel in enumerate(record["intensities"]):
        row |= {f"{name}_{number}" if several else name: value for name, value in channel.items()}
    return row


def _axes(names: str, values: Sequence[float] | None) -> list[tuple[str, float | None]]:
    return list(zip(names, values or (None, None, None), strict=True))


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
