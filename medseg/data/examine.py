"""One case read and examined: all that is wrong with it at once, and what it measures where it can be used."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.errors import GeometryError, MedsegError
from medseg.core.findings import Finding
from medseg.core.geometry import Geometry, order_between
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.data.grids import difference
from medseg.data.measure import CaseFacts, case_facts
from medseg.data.reference import read_reference
from medseg.io.reading import open_scan, read_label_map, read_stored
from medseg.io.scan import ReadOptions
from medseg.io.source import shown
from medseg.io.stored import Stored

T = TypeVar("T")
NO_STRUCTURE = "the label holds no structure"
CONSTANT = "the image is constant"
_STORAGE = "label and image are stored in different orders of axes, in the same place of the world: read right"


@dataclass(frozen=True, eq=False)
class Examined:
    """``facts`` are None where image and label cannot be laid on each other. ``values``: voxels of each label value found.

    ``named`` are the structures that the label file itself names, by value.
    """

    case: Case
    facts: CaseFacts | None
    findings: tuple[Finding, ...]
    values: dict[int, int] = field(default_factory=dict)
    named: dict[int, str] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        return self.facts is not None and not any(one.severity == "error" for one in self.findings)


def examine(case: Case, labels: Labels | None) -> Examined:
    """Read ``case`` once, and what cannot be used once more to say why. Without ``labels`` any value will do."""
    found: list[Finding] = []
    image, patient_id = _image(case, found)
    grid = image.geometry if image else _grid(case.images)
    label = _label(case, labels, grid, found)
    if label is None:
        return Examined(case, None, tuple(found))
    values = _counted(label.data)
    own = dict(zip(label.labels.values, label.labels.names, strict=True)) if label.labels and not labels else {}
    order = order_between(label.geometry, grid) if grid else None
    if grid and order is None:
        found.append(_grids_differ(case, grid, label.geometry))
    if image is None or order is None:
        return Examined(case, None, tuple(found), values, own)
    ras = image.canonical()
    onto = order_between(label.geometry, ras.geometry)
    warnings = [*image.warnings, *label.warnings]
    known = _every_value(labels, values, own)
    if not set(values) - {0, known.ignore}:
        warnings.append(NO_STRUCTURE)
    if any(channel.min() == channel.max() for channel in image.data):
        warnings.append(CONSTANT)
    if order.permutation != (0, 1, 2) or any(order.flips):
        found.append(Finding("storage-order", "info", (case.id,), _STORAGE))
    facts = case_facts(
        case,
        image,
        known.to_channels((onto or order).array(label.data)),
        known,
        warnings=tuple(dict.fromkeys(warnings)),
        patient_id=patient_id,
    )
    return Examined(case, facts, tuple(found), values, own)


def as_label(case: Case, labels: Labels, grid: Geometry) -> LabelMap:
    """The case's reference, values left out as background; ``grid`` is that of its image.

    Raises DataError that says the label is at fault and names its file.
    """
    try:
        return read_reference(case.reference, labels, case.left_out, grid)
    except MedsegError as error:
        text = str(error)
        raise type(error)(text if text.startswith("label") else f"label {text}") from None


def unnamed(value: int) -> str:
    """What a structure is called of which only the value is known."""
    return f"structure_{value}"


def _image(case: Case, found: list[Finding]) -> tuple[Volume | None, str]:
    try:
        options = ReadOptions(channel_grids=case.channel_grids)
        with open_scan(case.images, channels=len(case.channels) or None, options=options) as scan:
            return scan.volume, scan.patient_id
    except MedsegError as error:
        path = next((p for p in case.images if shown(p) in str(error)), case.images[0])
        stored = _attempt(lambda: read_stored((path,)))
        code, where = _why(stored, is_label=False) if stored else ("image-unreadable", "")
        if stored and len(case.images) == 1 and stored.data.shape[0] != len(case.channels or (0,)):
            code = "channels"
        found.append(_finding(code, case, path, error, where))
        return None, ""


def _label(case: Case, labels: Labels | None, grid: Geometry | None, found: list[Finding]) -> LabelMap | None:
    """The label map, its values checked against ``labels``; None where it is none."""
    try:
        if labels is None:
            return read_label_map(case.reference, like=grid)
        if grid is None:
            return read_reference(case.reference, labels, case.left_out)
        return as_label(case, labels, grid)
    except MedsegError as error:
        plain = _attempt(lambda: read_label_map(case.reference, like=grid)) if labels else None
        stored = None if plain else _attempt(lambda: read_stored((case.reference,)))
        code, where = ("label-values", "") if plain else ("label-unreadable", "")
        if stored:
            code, where = _why(stored, is_label=True)
        found.append(_finding(code, case, case.reference, error, where))
        if plain and case.left_out:
            return replace(
                plain, data=np.where(np.isin(plain.data, case.left_out), plain.data.dtype.type(0), plain.data)
            )
        return plain


def _attempt(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except MedsegError:
        return None


def _finding(code: str, case: Case, path: Path, error: MedsegError, where: str) -> Finding:
    """The error as a finding: its own sentence without the file, and whole, with what more is known of it."""
    text = str(error)
    is_label = path == case.reference
    if is_label and not text.startswith("label"):
        text = f"label {text}"
    message = text.replace(f"{shown(path)}: ", "").replace("label label", "label") + where
    return Finding(code, "error", (case.id,), message, text + where, error.exit_code)


def _grid(paths: tuple[Path, ...]) -> Geometry | None:
    """Of an image whose voxels cannot be used."""
    stored = _attempt(lambda: read_stored(paths))
    return stored.geometry if stored else None


def _why(stored: Stored, *, is_label: bool) -> tuple[str, str]:
    """The kind of what is wrong with readable voxels, and where: the first of the voxels that are not finite."""
    if stored.data.dtype.kind == "f":
        bad = ~np.isfinite(stored.data)
        if bad.any():
            return "not-finite", f" (at voxels {_box(bad)} of {stored.geometry.orientation} storage)"
    if not is_label:
        return "image-unreadable", ""
    if stored.data.shape[0] != 1:
        return "label-channels", ""
    low = min(float(block.min()) for _, block in stored.blocks())
    return ("label-negative" if low < 0 else "label-not-integer"), ""


def _box(bad: npt.NDArray[Any]) -> str:
    places = [np.flatnonzero(bad.any(axis=tuple(a for a in range(4) if a != axis))) for axis in (1, 2, 3)]
    return ", ".join(
        f"{name} {side[0]}" + (f"-{side[-1]}" if len(side) > 1 else "")
        for name, side in zip("ijk", places, strict=True)
    )


def _grids_differ(case: Case, image: Geometry, label: Geometry) -> Finding:
    sorted_alike = sorted(image.shape) == sorted(label.shape)
    start = f"label {shown(case.reference)}: "
    if not sorted_alike or image.shape != label.shape:
        said = (
            f"shape {label.shape} differs from shape {image.shape} of image {shown(case.images[0])}; label and image must "
            f"share one grid"
        )
        message = f"the label's shape {label.shape} differs from the image's {image.shape}"
        code = "shape"
    else:
        said = (
            f"affine differs from that of image {shown(case.images[0])}: {difference(image, label)} (label {label!r}, image "
            f"{image!r}); label and image must share one geometry"
        )
        message, code = f"the label's affine differs from the image's: {difference(image, label)}", "affine"
    what = "resample one onto the other, or find the label that was drawn on this image"
    return Finding(code, "error", (case.id,), f"{message}; {what}", start + said, GeometryError.exit_code)


def _counted(data: npt.NDArray[Any]) -> dict[int, int]:
    """How many voxels hold each value, of those that are there."""
    counts = np.zeros(int(data.max()) + 1, np.int64)
    for k in range(data.shape[2]):
        counts += np.bincount(data[:, :, k].ravel(), minlength=len(counts))
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _every_value(labels: Labels | None, values: dict[int, int], own: dict[int, str]) -> Labels:
    """``labels`` as they are where they name every value, else with a name for each that they do not."""
    mapping = labels.mapping() if labels else {"background": 0, **{name: value for value, name in own.items()}}
    ignore = labels.ignore if labels else None
    unknown = [value for value in values if value not in mapping.values() and value != ignore]
    if labels and not unknown:
        return labels
    mapping |= {unnamed(value): value for value in unknown}
    return Labels.from_mapping(mapping if len(mapping) > 1 else {**mapping, unnamed(1): 1}, ignore=ignore)
