"""The preprocessed cases on disk, memory-mapped, made once for a plan and found again by its hash."""

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.files import make_folder, sha256_of, write_durable, write_json
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.core.volume import LabelMap, Volume

Load = Callable[[Case], tuple[Volume, LabelMap]]
MOST_AT_ONCE = 4  # cases are preprocessed: each holds a few copies of its scan
LOCATIONS = 2_000  # voxels kept per structure and case, to centre patches on
HEADERS = (".mhd", ".nhdr", ".hdr", ".img")
_PARTS = ("image", "reference", "locations")


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case in files that begin with ``stem``; ``annotated`` as in ``Case``.

    Its arrays are memory-mapped anew each time they are asked for (0.1 ms): a map that stays open holds a file
    descriptor, and a process often has 1,024 of those.
    """

    id: str
    stem: Path
    annotated: tuple[str, ...] | None = None

    @property
    def image(self) -> npt.NDArray[np.float32]:
        """(C, I, J, K), normalised."""
        return self._open("image")

    @property
    def reference(self) -> npt.NDArray[np.uint8 | np.uint16]:
        """(I, J, K), contiguous channels."""
        return self._open("reference")

    @property
    def locations(self) -> npt.NDArray[np.int32]:
        """(n, 4): channel, i, j, k of voxels inside structures; of channel 0 any that are not to be ignored, where some are."""
        return self._open("locations")

    def file(self, ending: str) -> Path:
        """The case's file with this ending, such as ``image.npy``."""
        return self.stem.with_name(f"{self.stem.name}.{ending}")

    def _open(self, part: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(self.file(f"{part}.npy"), mmap_mode="r")
        return array


def store_key(plan: Plan) -> str:
    """What the stored voxels depend on, hashed: spacing, intensities, labels. Other decisions may change freely."""
    decided = plan.model_dump(mode="json", include={"format_version", "spacing_mm", "intensity", "labels", "channels"})
    for intensity in decided["intensity"]:
        if intensity["within"] == "scan":  # stores of before there was a choice stay good
            del intensity["within"]
    decided |= {} if plan.ignore is None else {"ignore": plan.ignore}
    return hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]


def build_store(
    folder: Path, cases: Sequence[Case], plan: Plan, load: Load, *, progress: Progress = silent
) -> list[StoredCase]:
    """Preprocess what is not there yet; ``load`` gives a case as preprocessed volume and channels.

    A case counts as there when its record (written last) is and names the content that its files still have: a killed
    run goes on where it stopped, and a scan that was edited since is made again.
    """
    place = make_folder(folder / store_key(plan))
    labels = plan.structure_labels

    def ensure(case: Case) -> StoredCase:
        stem = hashlib.sha256(case.id.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        stored = StoredCase(case.id, place / stem, case.annotated)
        record, sources = stored.file("json"), _content(case)
        if _recorded(record) != sources:
            record.unlink(missing_ok=True)  # while its arrays are replaced the case is not there
            image, reference = load(case)
            parts = (image.data, reference.data, _locations(reference, labels, stem))
            for name, array in zip(_PARTS, parts, strict=True):
                write_durable(stored.file(f"{name}.npy"), _npy(array))
            write_json(record, {"case": case.id, "shape": list(reference.data.shape), "sources": sources})
        return stored

    found = []
    with ThreadPoolExecutor(max(2, min(MOST_AT_ONCE, os.cpu_count() or 1))) as pool:
        for done, item in enumerate(pool.map(ensure, cases), 1):
            progress("preprocess", done, len(cases))
            found.append(item)
    return found


def _recorded(record: Path) -> str:
    """The content that a case was made from; empty where it is not there, or not wholly."""
    try:
        return str(json.loads(record.read_text(encoding="utf-8"))["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _content(case: Case) -> str:
    """A hash of every byte that the case is read from, and of what its label map leaves out; dates do not count."""
    digest = hashlib.sha256(json.dumps(case.left_out).encode())
    for path in (*case.images, case.reference):
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
        elif path.suffix.lower() in HEADERS:  # its voxels lie in another file of that name
            files = sorted(file for file in path.parent.glob(f"{escape(path.stem)}.*") if file.is_file())
        for file in files:
            digest.update(sha256_of(file).encode() if file.is_file() else b"-")
    return digest.hexdigest()


def _locations(reference: LabelMap, labels: Labels, stem: str) -> npt.NDArray[np.int32]:
    """Up to LOCATIONS voxels of each structure, chosen by the case's hash alone; of all that count where some are ignored."""
    random = np.random.default_rng(int(stem, 16))
    rows = [np.empty((0, 4), np.int32)]
    for channel in range(labels.ignore is None, labels.channels):
        inside = np.flatnonzero(reference.data == channel if channel else reference.data != labels.channels)
        if inside.size > LOCATIONS:
            inside = np.sort(random.choice(inside, LOCATIONS, replace=False))
        index = np.stack(np.unravel_index(inside, reference.data.shape), axis=1)
        rows.append(np.column_stack([np.full(len(inside), channel), index]).astype(np.int32))
    return np.concatenate(rows)


def _npy(array: npt.NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()
