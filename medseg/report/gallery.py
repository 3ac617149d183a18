"""Pictures of the worst cases of an evaluation, each cut to the structure that went wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.core.case import case_id, has_image_suffix
from medseg.core.errors import DataError
from medseg.core.geometry import Geometry, crop, order_between
from medseg.core.labels import Labels
from medseg.core.scores import Score
from medseg.core.text import printable
from medseg.core.volume import LabelMap, Volume
from medseg.io.reading import read_volume
from medseg.io.source import shown
from medseg.report.evaluation import Report, format_value

Maps = Callable[[str], tuple[LabelMap, LabelMap]]
Regions = Mapping[str, tuple[str, ...]]
MARGIN_MM = 15.0
WITHOUT_SCAN = "no scan"


@dataclass(frozen=True)
class Picture:
    """A PNG of three planes with a ``title``, and what must be said of it."""

    title: str
    png: bytes
    remark: str = ""


def worst_pictures(report: Report, maps: Maps, images: Path | None) -> list[Picture]:
    """One for each of the report's worst scores, the worst first.

    ``maps`` gives the prediction and the reference of a case on one grid. ``images`` is a folder of scans by case id;
    without a scan on that grid the label maps stand on black, and the picture says why.
    """
    scans = {} if images is None else _by_id(images)
    return [
        _picture(score, report.labels, report.settings.regions, maps(score.case), scans.get(score.case), images)
        for score in report.worst
    ]


def _by_id(folder: Path) -> dict[str, Path]:
    """Scans by case id; one that nnU-Net would call the first channel (``_0000``) by the name before it, too."""
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or not (entry.is_dir() or has_image_suffix(entry.name)):
            continue
        name = shown(Path(case_id(entry)))
        found[name] = entry
        if name.endswith("_0000"):
            found.setdefault(name[:-5], entry)
    return found


def _picture(
    score: Score,
    labels: Labels,
    regions: Regions,
    pair: tuple[LabelMap, LabelMap],
    scan: Path | None,
    images: Path | None,
) -> Picture:
    from medseg.report.overlay import overlays_png

    prediction, reference = pair
    volume, remark = _volume(reference.geometry, scan, images)
    start, shape = _box(score.structure, labels, regions, pair)
    cut = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    grid = crop(reference.geometry, start, shape)
    state = "" if score.state == "scored" else f", {score.state}"
    title = f"{score.case}: {score.structure} {score.metric} {format_value(score.value, score.unit)}{state}"
    png = overlays_png(
        Volume(volume.data[(slice(0, 1), *cut)], grid),
        LabelMap(prediction.data[cut], grid, labels),
        LabelMap(reference.data[cut], grid, labels),
        title=printable(title),
        window=(0.0, 1.0) if scan is None or remark else None,
    )
    return Picture(printable(title), png, remark)


def _volume(grid: Geometry, scan: Path | None, images: Path | None) -> tuple[Volume, str]:
    """The scan on the reference's grid, or black and why."""
    black = Volume(np.zeros((1, *grid.shape), np.uint8), grid)
    if images is None:
        return black, ""
    if scan is None:
        return black, f"{WITHOUT_SCAN}: none with this case id in {shown(images)}"
    try:
        volume = read_volume(scan)
    except DataError as error:
        return black, f"{WITHOUT_SCAN}: {error}"
    order = order_between(volume.geometry, grid)
    if order is None:
        return black, f"{WITHOUT_SCAN}: {shown(scan)} lies on another grid than the reference"
    return Volume(order.array(volume.data), grid), ""


def _box(
    structure: str, labels: Labels, regions: Regions, pair: tuple[LabelMap, LabelMap]
) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """First voxel and size of the box around both masks of ``structure``, with a margin; of the whole grid without a voxel."""
    values = [labels.mapping()[name] for name in regions.get(structure, (structure,))]
    mask = np.isin(pair[0].data, values) | np.isin(pair[1].data, values)
    grid = pair[1].geometry
    if not mask.any():
        return (0, 0, 0), grid.shape
    places = np.argwhere(mask)
    margin = np.ceil(MARGIN_MM / np.array(grid.spacing_mm)).astype(int)
    low = np.maximum(places.min(axis=0) - margin, 0)
    high = np.minimum(places.max(axis=0) + 1 + margin, grid.shape)
    i, j, k = (int(n) for n in low)
    di, dj, dk = (int(n) for n in high - low)
    return (i, j, k), (di, dj, dk)
