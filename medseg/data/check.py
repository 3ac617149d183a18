"""Everything that is wrong with a dataset, found in one reading before a second of training."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.errors import DataError, GeometryError, MedsegError
from medseg.core.geometry import Geometry, order_between
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.volume import LabelMap, Volume
from medseg.data.reference import read_reference
from medseg.io.reading import read_volumes
from medseg.io.source import shown

ODD_CASES_NAMED = 3  # where more share a warning, it is said once
FOREGROUND_SAMPLES = 10_000  # intensities kept per case for the fingerprint


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What one case holds. Triples follow i, j, k of RAS storage; ``foreground`` (C, n) are sampled intensities.

    ``content`` is a hash of the image's voxels, the same for any storage order and type; empty for a constant image.
    """

    case: Case
    channels: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    content: str
    voxels: dict[str, int]
    foreground: npt.NDArray[np.float32]
    warnings: tuple[str, ...]


def check_dataset(cases: Sequence[Case], labels: Labels, *, progress: Progress = silent) -> list[CaseFacts]:
    """Read every case once; return its facts. Raises DataError naming each case that cannot be used and why."""
    facts, problems = [], []
    with ThreadPoolExecutor(2) as pool:
        for done, result in enumerate(pool.map(lambda case: _facts_or_error(case, labels), cases), 1):
            progress("check", done, len(cases))
            if isinstance(result, CaseFacts):
                facts.append(result)
            else:
                problems.append(str(result))
    problems += _duplicates(facts)
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise DataError(f"{len(problems)} problem(s) in the dataset: " + "; ".join(problems[:5]) + more)
    _check_together(facts, labels)
    return facts


def structures_in(facts: Sequence[CaseFacts]) -> dict[str, list[str]]:
    """The structures that each case holds, by its id."""
    return {f.case.id: [name for name, voxels in f.voxels.items() if voxels] for f in facts}


def warnings_of(facts: Sequence[CaseFacts], labels: Labels) -> list[str]:
    """What is odd but usable: constant images, cases without any structure, structures that are nowhere."""
    cases: dict[str, list[str]] = {}
    for f in facts:
        for warning in f.warnings:
            cases.setdefault(warning, []).append(f.case.id)
    found = []
    for warning, ids in cases.items():
        shared = len(ids) > ODD_CASES_NAMED
        found += [f"{ids[0]} and {len(ids) - 1} more: {warning}"] if shared else [f"{i}: {warning}" for i in ids]
    absent = [name for name in labels.names if not any(f.voxels[name] for f in facts)]
    return found + [f"structure {name!r} is in no case: it will not be learnt" for name in absent]


def _facts_or_error(case: Case, labels: Labels) -> CaseFacts | MedsegError:
    try:
        return _facts(case, labels)
    except MedsegError as error:
        return error


def _facts(case: Case, labels: Labels) -> CaseFacts:
    image = read_volumes(case.images, channels=len(case.channels) or None)
    reference = as_label(case, labels, image.geometry)
    ras = image.canonical()  # what is measured does not depend on how a case happens to be stored
    order = order_between(reference.geometry, ras.geometry)
    if order is None:
        raise GeometryError(_grids_differ(case, image, reference))
    channels = labels.to_channels(order.array(reference.data))
    counts = np.bincount(channels.ravel(), minlength=labels.channels)
    warnings = [*image.warnings, *reference.warnings]
    if counts[1:].sum() == 0:
        warnings.append("the label holds no structure")
    if any(channel.min() == channel.max() for channel in image.data):
        warnings.append("the image is constant")
    return CaseFacts(
        case=case,
        channels=image.channels,
        shape=ras.geometry.shape,
        spacing_mm=ras.geometry.spacing_mm,
        content=_content(ras),
        voxels=dict(zip(labels.names, (int(n) for n in counts[1:]), strict=True)),
        foreground=_sample(ras, channels),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def as_label(case: Case, labels: Labels, grid: Geometry) -> LabelMap:
    """The case's reference, values left out as background; ``grid`` is that of its image.

    Raises DataError that says the label is at fault and names its file.
    """
    try:
        return read_reference(case.reference, labels, case.left_out, grid)
    except MedsegError as error:
        text = str(error)
        raise type(error)(text if text.startswith("label") else f"label {text}") from None


def _grids_differ(case: Case, image: Volume, reference: LabelMap) -> str:
    a, b = image.geometry, reference.geometry
    if a.shape != b.shape:
        return (
            f"label {shown(case.reference)}: shape {b.shape} differs from shape {a.shape} of image "
            f"{shown(case.images[0])}; label and image must share one grid"
        )
    return (
        f"label {shown(case.reference)}: affine differs from that of image {shown(case.images[0])}: label {b!r} with "
        f"origin {_origin(b.affine)}, image {a!r} with origin {_origin(a.affine)}; label and image must share one geometry"
    )


def _origin(affine: npt.NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{x:.1f}" for x in affine[:3, 3]) + ") mm"


def _sample(image: Volume, channels: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    inside = np.flatnonzero(channels.ravel())
    if inside.size > FOREGROUND_SAMPLES:
        inside = np.random.default_rng(inside.size).choice(inside, FOREGROUND_SAMPLES, replace=False)
    index: tuple[Any, ...] = (slice(None), *np.unravel_index(inside, channels.shape))
    values: npt.NDArray[np.float32] = image.data[index].astype(np.float32)
    return values


def _content(image: Volume) -> str:
    if all(channel.min() == channel.max() for channel in image.data):
        return ""
    digest = hashlib.sha256(repr(image.data.shape).encode())
    for channel in image.data:
        for k in range(channel.shape[2]):  # slice by slice: no copy of the volume
            digest.update(np.ascontiguousarray(channel[:, :, k], np.float32).data)
    return digest.hexdigest()


def _duplicates(facts: Sequence[CaseFacts]) -> list[str]:
    """Equal images under two ids: one patient could be in training and in validation."""
    first: dict[str, str] = {}
    problems = []
    for f in facts:
        if not f.content:
            continue  # constant images are equal without being one scan
        if f.content in first:
            problems.append(
                f"{first[f.content]} and {f.case.id} have identical images (duplicate): remove one, or they leak across folds"
            )
        first.setdefault(f.content, f.case.id)
    return problems


def _check_together(facts: Sequence[CaseFacts], labels: Labels) -> None:
    counts = {f.channels for f in facts}
    if len(counts) > 1:
        odd = next(f for f in facts if f.channels != facts[0].channels)
        raise DataError(
            f"{odd.case.id} has {odd.channels} channel(s), {facts[0].case.id} has {facts[0].channels}; all must agree"
        )
    if not any(f.voxels[name] for f in facts for name in labels.names):
        raise DataError(
            f"no case holds any foreground: no {' or '.join(labels.names)} in {len(facts)} label map(s), all are empty"
        )
