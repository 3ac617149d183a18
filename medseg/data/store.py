"""The preprocessed cases on disk, memory-mapped, made once for a plan and found again by its hash."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.files import make_folder, write_durable, write_json
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.core.volume import LabelMap, Volume

Load = Callable[[Case], tuple[Volume, LabelMap]]
LOCATIONS = 2_000  # voxels kept per structure and case, to centre patches on
_PARTS = ("image", "reference", "locations")


@dataclass(frozen=True, eq=False)
class StoredCase:
    """``image`` (C, I, J, K) float32 and ``reference`` (I, J, K) channels, both memory-mapped.

    ``locations`` (n, 4): channel, i, j, k of voxels inside structures.
    """

    id: str
    image: npt.NDArray[np.float32]
    reference: npt.NDArray[np.uint8]
    locations: npt.NDArray[np.int32]


def store_key(plan: Plan) -> str:
    """What the stored voxels depend on, hashed: spacing, intensities, labels. Other decisions may change freely."""
    decided = plan.model_dump(mode="json", include={"format_version", "spacing_mm", "intensity", "labels", "channels"})
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def build_store(
    folder: Path, cases: Sequence[Case], plan: Plan, load: Load, *, progress: Progress = silent
) -> list[StoredCase]:
    """Preprocess what is not there yet and open everything; ``load`` gives a case as preprocessed volume and channels.

    A case counts as there when its record (written last) is: a killed run goes on where it stopped.
    """
    place = make_folder(folder / store_key(plan))
    labels = Labels.from_mapping(plan.labels)

    def ensure(case: Case) -> StoredCase:
        stem = hashlib.sha256(case.id.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        record = place / f"{stem}.json"
        if not record.exists():
            image, reference = load(case)
            parts = (image.data, reference.data, _locations(reference, labels, stem))
            for name, array in zip(_PARTS, parts, strict=True):
                write_durable(place / f"{stem}.{name}.npy", _npy(array))
            write_json(record, {"case": case.id, "shape": list(reference.data.shape)})
        image_, reference_, locations = (np.load(place / f"{stem}.{name}.npy", mmap_mode="r") for name in _PARTS)
        return StoredCase(case.id, image_, reference_, locations)

    stored = []
    with ThreadPoolExecutor(2) as pool:
        for done, item in enumerate(pool.map(ensure, cases), 1):
            progress("preprocess", done, len(cases))
            stored.append(item)
    return stored


def _locations(reference: LabelMap, labels: Labels, stem: str) -> npt.NDArray[np.int32]:
    """Up to LOCATIONS voxels of each channel but the background, chosen by the case's hash alone."""
    random = np.random.default_rng(int(stem, 16))
    rows = [np.empty((0, 4), np.int32)]
    for channel in range(1, labels.channels):
        inside = np.flatnonzero(reference.data == channel)
        if inside.size > LOCATIONS:
            inside = np.sort(random.choice(inside, LOCATIONS, replace=False))
        index = np.stack(np.unravel_index(inside, reference.data.shape), axis=1)
        rows.append(np.column_stack([np.full(len(inside), channel), index]).astype(np.int32))
    return np.concatenate(rows)


def _npy(array: npt.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()
