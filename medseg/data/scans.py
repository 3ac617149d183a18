"""What a cohort is made of: the scans in folders, CSV tables and patterns, each with a name that no other has."""

import glob
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medseg.core.case import IMAGE_SUFFIXES, case_id, has_image_suffix, strip_image_suffix
from medseg.core.errors import ConfigError, DataError
from medseg.io.dicom_files import cannot_read, has_dicom_mark, looks_like_bare_dataset
from medseg.io.source import shown

if TYPE_CHECKING:
    from medseg.data.layouts.table import Row

_NAME_COLUMNS = ("case", "id")
_CHANNEL_FILE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_HEAD_BYTES = 132
_LABEL_MAPS = (".seg.nrrd",)
_BESIDE = (("", ".json"), *(("_seg", suffix) for suffix in IMAGE_SUFFIXES))
_BELOW = ("probabilities", "entropy", "preview")  # folders of images that belong to the label maps of the folder above
JOURNALS = ("journal.sqlite",)  # a folder with one is the output of a cohort


@dataclass(frozen=True)
class Scans:
    """One case: its ``name`` (folders separated by ``/``) and its ``files``, one per channel, or one for all.

    ``problem``: why it cannot be segmented, where that is known without reading it; empty otherwise.
    """

    name: str
    files: tuple[Path, ...]
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """What stands where the user pointed: ``scans`` by name and path, table ``rows``, and ``notes`` on what was left out."""

    scans: tuple[tuple[str, Path], ...] = ()
    rows: "tuple[tuple[Path, Row], ...]" = ()
    notes: tuple[str, ...] = ()


def is_pattern(given: Path) -> bool:
    """True for a path with ``*``, ``?`` or ``[`` that is not the name of something."""
    return glob.has_magic(str(given)) and not os.path.lexists(given)


def is_table(given: Path) -> bool:
    return given.suffix.lower() in (".csv", ".tsv") and not _is_folder(given)


def is_many(given: Path) -> bool:
    """True for a table, a pattern, and a folder that holds image files or several folders of DICOM files."""
    return is_table(given) or is_pattern(given) or (_is_folder(given) and not _is_one(given))


def _is_folder(given: Path) -> bool:
    return os.path.isdir(given)  # noqa: PTH112 - Path.is_dir raises on odd names


def find_scans(given: Sequence[Path], *, output: Path) -> Found:
    """The scans that ``given`` stand for: image files, folders of scans, tables (CSV), patterns such as ``data/*/t1.nii.gz``.

    In a folder every image file is one and every folder of DICOM files is; their names are their paths in it, without image
    suffix. Left out are ``output``, label maps that medseg wrote, and folder links. Raises DataError where nothing is found.
    """
    scans: list[tuple[str, Path]] = []
    rows: list[tuple[Path, Row]] = []
    notes: list[str] = []
    for one in given:
        if is_table(one):
            rows += _rows(one)
        elif is_pattern(one):
            scans += _matching(one, output, notes)
        elif _is_folder(one) and not _is_one(one):
            scans += _in_folder(one, output, notes)
        else:
            named = Path(os.path.realpath(one)) if one.name in ("", "..") else one
            scans.append((case_id(named), one))
    if not scans and not rows:
        where = ", ".join(shown(one) for one in given)
        raise DataError(f"{where}: no scans found: no image file and no DICOM folder is there{_because(notes)}")
    return Found(tuple(scans), tuple(rows), tuple(notes))


def _rows(table: Path) -> "list[tuple[Path, Row]]":
    from medseg.data.layouts.table import read_table  # and with it all layouts, which a scan alone does not need

    return [(table, row) for row in read_table(table, (), (*_NAME_COLUMNS, "image"), prefix="image_")]


def as_cases(found: Found, channels: Sequence[str]) -> list[Scans]:
    """The cases of a model with these ``channels``, sorted by name; of several, files ``CASE_0000``, ``CASE_0001`` are one.

    Raises ConfigError where two cases have one name (letter case and Unicode form apart), DataError for a table that lacks
    a column.
    """
    cases = _grouped(found.scans, len(channels)) if len(channels) > 1 else [Scans(n, (p,)) for n, p in found.scans]
    cases += [_from_row(table, row, channels) for table, row in found.rows]
    taken: dict[str, Scans] = {}
    for case in cases:
        key = unicodedata.normalize("NFC", case.name).casefold()
        if key in taken:
            raise ConfigError(
                f"{shown(taken[key].files[0])} and {shown(case.files[0])} would both be case {case.name!r}; give the folder "
                "that holds both, a table with a column `case`, or run them with different --output"
            )
        taken[key] = case
    return sorted(cases, key=lambda case: case.name)


def _matching(pattern: Path, output: Path, notes: list[str]) -> list[tuple[str, Path]]:
    """The scans that match, named by their paths from the last folder before the first wildcard."""
    fixed = Path(*_before_wildcard(pattern))
    found: list[tuple[str, Path]] = []
    for match in sorted(fixed.glob(pattern.relative_to(fixed).as_posix())):
        below = match.relative_to(fixed)
        if any(part.startswith(".") for part in below.parts):
            continue
        if match.is_dir():
            if _same(match, output):
                continue
            deeper = [("", match)] if _is_one(match) else _in_folder(match, output, notes)
            found += [(_joined(below.as_posix(), name), path) for name, path in deeper]
        elif _is_scan(match, notes):
            found.append((_name(below), match))
    if not found:
        raise DataError(f"{shown(pattern)}: no scan matches this pattern; it starts at the current folder")
    return list(dict.fromkeys(found))  # `**` meets a file and the folder that holds it


def _before_wildcard(pattern: Path) -> Iterator[str]:
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            return
        yield part


def _in_folder(folder: Path, output: Path, notes: list[str]) -> list[tuple[str, Path]]:
    return [(_name(path.relative_to(folder)), path) for path in _walk(folder, output, notes)]


def _name(below: Path) -> str:
    return _joined(below.parent.as_posix(), case_id(below))


def _joined(folder: str, name: str) -> str:
    return "/".join(part for part in (folder, name) if part not in ("", "."))


def _walk(folder: Path, output: Path | None, notes: list[str]) -> Iterator[Path]:
    """Image files and DICOM folders under ``folder``, in the order of their names."""
    entries = _entries(folder)
    files = [entry for entry in entries if entry.is_file()]
    images = [entry for entry in files if has_image_suffix(entry.name) and not entry.name.lower().endswith(".dcm")]
    kept = [Path(entry.path) for entry in images if _is_scan(Path(entry.path), notes)]
    if not kept and _holds_dicom(files):
        yield folder
        return
    yield from kept
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            path = Path(entry.path)
            if _same(path, output) or any((path / name).exists() for name in JOURNALS):
                notes.append(f"{shown(path)}: the output of a cohort, left out")
            else:
                yield from _walk(path, output, notes)
        elif entry.is_dir():
            notes.append(f"{shown(Path(entry.path))}: a link to a folder, not followed")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise cannot_read(folder, error) from None


def _is_scan(path: Path, notes: list[str]) -> bool:
    """True for an image file that is no half of a pair and no label map of ours."""
    name = path.name.lower()
    if not has_image_suffix(name):
        return False
    if name.endswith(".img") and path.with_suffix(".hdr").exists():
        return False
    if name.endswith(_LABEL_MAPS) or _is_ours(path):
        notes.append(f"{shown(path)}: a label map or what belongs to one, left out")
        return False
    return True


def _is_ours(path: Path) -> bool:
    """True for ``CASE_seg.*`` with its manifest beside it, or with the scan that it is of, and for maps and pictures of it."""
    stem = strip_image_suffix(path.name)
    if not stem.endswith("_seg"):
        return False
    folder = path.parent.parent if path.parent.name in _BELOW else path.parent
    return any((folder / f"{stem.removesuffix(end)}{suffix}").exists() for end, suffix in _BESIDE)


def _holds_dicom(files: Iterable[os.DirEntry[str]]) -> bool:
    """True where a file is DICOM by its bytes, or by its name: a damaged one is an error that reading tells."""
    return any(entry.name.lower().endswith(".dcm") or _is_dicom(entry) for entry in files)


def _is_dicom(entry: os.DirEntry[str]) -> bool:
    if has_image_suffix(entry.name):
        return False
    try:
        with Path(entry.path).open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return has_dicom_mark(head) or looks_like_bare_dataset(head)


def _is_one(folder: Path) -> bool:
    """True for a folder with one folder of DICOM files at or below it, or with nothing that is known: reading it says what."""
    found = list(islice(_walk(folder, None, []), 2))
    return not found or (len(found) == 1 and found[0].is_dir())


def _same(path: Path, output: Path | None) -> bool:
    return output is not None and os.path.realpath(path) == os.path.realpath(output)


def _because(notes: Sequence[str]) -> str:
    return f" ({'; '.join(notes[:3])}{', ...' if len(notes) > 3 else ''})" if notes else ""


def _grouped(scans: Iterable[tuple[str, Path]], channels: int) -> list[Scans]:
    """Files ``CASE_0000`` ... of one folder as one case; any other file is a case of its own."""
    singles: list[Scans] = []
    parts: dict[str, dict[int, Path]] = defaultdict(dict)
    for name, path in scans:
        match = None if path.is_dir() else _CHANNEL_FILE.fullmatch(name)
        if match is None:
            singles.append(Scans(name, (path,)))
        else:
            parts[match["case"]][int(match["channel"])] = path
    return singles + [_of_parts(case, files, channels) for case, files in parts.items()]


def _of_parts(case: str, files: dict[int, Path], channels: int) -> Scans:
    ordered = tuple(path for _, path in sorted(files.items()))
    odd = sorted(files.keys() ^ set(range(channels)))
    if not odd:
        return Scans(case, ordered)
    what = "is missing" if odd[0] < channels else f"is more than the {channels} channels of the model"
    return Scans(case, ordered, f"{shown(ordered[0])}: channel {PurePosixPath(case).name}_{odd[0]:04d} {what}")


def _from_row(table: Path, row: "Row", channels: Sequence[str]) -> Scans:
    cells, where = row.cells, f"{shown(table)}, line {row.line}"
    columns = next(
        (
            names
            for names in (["image"], list(channels), [f"image_{channel}" for channel in channels])
            if all(name in cells for name in names)
        ),
        None,
    )
    if columns is None:
        wanted = f", or one for each channel: {', '.join(channels)}" if len(channels) > 1 else ""
        raise DataError(f"{shown(table)}, line 1: no column `image`{wanted}; found: {', '.join(cells)[:200]}")
    files = tuple(table.parent / cells[name] for name in columns)
    lost = [name for name in columns if not cells[name]]
    name = next((cells[column] for column in _NAME_COLUMNS if cells.get(column)), "") or case_id(files[0])
    if name in (".", "..") or re.search(r"[/\\\0-\x1f]", name):
        raise DataError(f"{where}: case {name!r} cannot name a file; use letters, digits, - and _")
    return Scans(name, files, f"{where}: {lost[0]} is empty; each row needs one" if lost else "")
