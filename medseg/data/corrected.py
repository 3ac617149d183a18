"""A corrected copy of a dataset: what can be put right is, what cannot is left out, and a log says both."""

import csv
import glob
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from medseg import __version__
from medseg.core.case import Case
from medseg.core.errors import DataError, MedsegError, OutputError
from medseg.core.files import (
    check_writable,
    clear_unfinished,
    copy_durable,
    is_there,
    sha256_of,
    staged_folder,
    write_json,
    write_text,
)
from medseg.core.geometry import order_between, order_to
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.volume import Volume
from medseg.data.measure import content_of
from medseg.data.repair import LARGEST_FRACTION, LARGEST_SHIFT, Repaired, repair
from medseg.io.nifti import write_label_map, write_volume

TABLE = "cases.csv"
FORMAT = 1
OUTCOMES = ("unchanged", "changed", "dropped", "left out")


@dataclass(frozen=True)
class Copied:
    """A file of the copy: its ``role`` (image or label), source and name in the copy, with the sha256 of both."""

    role: str
    source: str
    before: str
    copy: str
    after: str


@dataclass(frozen=True)
class Entry:
    """What became of a case, one of OUTCOMES, and ``why`` in words; ``files`` are none where it is not in the copy."""

    case: str
    outcome: str
    why: tuple[str, ...] = ()
    files: tuple[Copied, ...] = ()


@dataclass(frozen=True)
class FixLog:
    """What became of every case of a dataset in the copy ``folder``."""

    folder: Path
    entries: tuple[Entry, ...]

    def count(self, outcome: str) -> int:
        return sum(one.outcome == outcome for one in self.entries)

    @property
    def summary(self) -> str:
        """How many cases became what, in one line."""
        return f"{self.folder}: " + ", ".join(f"{self.count(word)} {word}" for word in OUTCOMES)

    @property
    def lines(self) -> list[str]:
        """A line for each case that is not as it was."""
        return [
            f"{one.case}: {one.outcome}: {'; '.join(one.why)}" for one in self.entries if one.outcome != OUTCOMES[0]
        ]

    def content(self) -> dict[str, Any]:
        """The schema of fix.json, described in docs/check.md."""
        return {
            "format": FORMAT,
            "medseg": __version__,
            "tolerances": {"affine_voxels": LARGEST_SHIFT, "label_fraction": LARGEST_FRACTION},
            "cases": [
                {
                    "id": one.case,
                    "outcome": one.outcome,
                    "why": list(one.why),
                    "files": [
                        {
                            "role": f.role,
                            "from": f.source,
                            "sha256_before": f.before,
                            "to": f.copy,
                            "sha256_after": f.after,
                        }
                        for f in one.files
                    ],
                }
                for one in self.entries
            ],
        }


def require_new(folder: Path) -> None:
    """Raise OutputError unless ``folder`` does not exist yet, or is empty, and can be written."""
    if is_there(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"{folder}: exists and is not empty; --fix makes a new folder and touches nothing that is there"
        )
    clear_unfinished(folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"))
    check_writable(folder)


def write_corrected(
    cases: Sequence[Case],
    labels: Labels,
    folder: Path,
    *,
    channels: int | None,
    lost: Mapping[str, str],
    accept: Callable[[Path], None],
    progress: Progress = silent,
) -> FixLog:
    """Copies of ``cases`` in ``folder``: images/, labels/, cases.csv (layout csv), and what was done in fix.json and fix.txt.

    ``channels`` is the usual number of channels; ``lost`` are cases without files to copy, and why. ``accept`` is called
    with the table before the folder takes its name, and raises where the copy is not good. Raises DataError where no case
    can be kept. After any error nothing is left behind.
    """
    entries = [Entry(case, "left out", (why,)) for case, why in lost.items()]
    with staged_folder(folder) as staging:
        copy = _Copy(staging, labels, channels)
        for done, case in enumerate(cases, 1):
            entries.append(copy.add(case))
            progress("fix", done, len(cases))
        if not copy.rows:
            raise DataError(f"none of {len(entries)} cases can be put right: {'; '.join(entries[0].why)}")
        log = FixLog(folder, tuple(sorted(entries, key=lambda one: one.case)))
        write_text(staging / TABLE, _table(copy.rows))
        write_json(staging / "fix.json", log.content())
        write_text(staging / "fix.txt", "\n".join([log.summary, "", *log.lines]) + "\n")
        accept(staging / TABLE)
    return log


@dataclass
class _Copy:
    """The copy as it grows: the rows of its table, which images are in it already, and the names taken."""

    folder: Path
    labels: Labels
    channels: int | None
    rows: list[dict[str, str]] = field(default_factory=list)
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def add(self, case: Case) -> Entry:
        """Write ``case`` if it can be put right and is not there yet; what became of it."""
        try:
            found = repair(case, self.labels, channels=self.channels)
        except MedsegError as error:
            return Entry(case.id, "left out", (str(error),))
        content, drawn = _contents(found)
        if content and content in self.seen:
            kept, label = self.seen[content]
            other = "" if label == drawn else "; the label is another: decide which of the two is right"
            return Entry(case.id, "dropped", (f"its image is identical with that of {kept}, which is kept{other}",))
        self.seen[content] = case.id, drawn
        files, row = self._write(case, found)
        self.rows.append(row)
        return Entry(case.id, "changed" if found.changes else "unchanged", found.changes, tuple(files))

    def _write(self, case: Case, found: Repaired) -> tuple[list[Copied], dict[str, str]]:
        stem = self._stem(case.id)
        row = {"case": case.id, "patient": case.patient}
        files = []
        several = len(case.channels) > 1
        as_files = not found.new_image and len(case.images) == (len(case.channels) or 1)
        for n, channel in enumerate(case.channels if several else ("",)):
            source = case.images[n if len(case.images) > 1 else 0]
            base = f"images/{stem}_{self._safe(channel)}" if several else f"images/{stem}"
            if as_files:
                name = base + _suffix(source)
                after = copy_durable(source, self.folder / name)
            else:
                name = f"{base}.nii.gz"
                part = found.image.data[n : n + 1] if several else found.image.data
                after = write_volume(self.folder / name, Volume(part, found.image.geometry))
            files.append(Copied("image", str(source), sha256_of(source), name, after))
            row[f"image_{channel}" if several else "image"] = name
        name = f"labels/{stem}" + (".nii.gz" if found.new_label else _suffix(case.reference))
        target = self.folder / name
        after = write_label_map(target, found.label) if found.new_label else copy_durable(case.reference, target)
        files.append(Copied("label", str(case.reference), sha256_of(case.reference), name, after))
        row["label"] = name
        if case.fold is not None:
            row["fold"] = str(case.fold)
        if case.annotated is not None:
            row["annotated"] = ";".join(case.annotated)
        return files, row

    def _stem(self, case: str) -> str:
        """A file name for ``case`` that no other case of the copy has."""
        stem = self._safe(case)
        while stem.casefold() in self.taken:
            stem += "_"
        self.taken.add(stem.casefold())
        return stem

    @staticmethod
    def _safe(name: str) -> str:
        return re.sub(r"[^\w.+ -]", "_", name).strip(". ") or "case"


def _contents(found: Repaired) -> tuple[str, str]:
    """Hashes of image and label, the same in any storage order; empty for a constant image."""
    ras = found.image.canonical()
    order = order_between(found.label.geometry, ras.geometry) or order_to(found.label.geometry)
    label = np.ascontiguousarray(order.array(found.label.data), np.uint16)
    return content_of(ras), hashlib.sha256(label.data).hexdigest()


def _suffix(path: Path) -> str:
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
