"""What every layout checks: files that exist, ids that name one case each, patients; and dataset.json as two of them read it."""

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from medseg.core.case import Case, case_id, has_image_suffix, patient_of
from medseg.core.errors import DataError

_Lost = list[tuple[tuple[str, ...], DataError]]
_LOST: ContextVar[_Lost | None] = ContextVar("lost", default=None)


@contextmanager
def gathered() -> Iterator[_Lost]:
    """For the block, what cannot be a case is gathered, by case ids, and the others are listed: for who wants to know it all."""
    lost: _Lost = []
    token = _LOST.set(lost)
    try:
        yield lost
    finally:
        _LOST.reset(token)


def _refuse(cases: Sequence[str], message: str) -> None:
    """Raise DataError, or let ``gathered`` have it; once for each case."""
    lost = _LOST.get()
    if lost is None:
        raise DataError(message)
    if not any(set(cases) <= set(before) for before, _ in lost):
        lost.append((tuple(cases), DataError(message)))


def require_unique(ids: Iterable[str], where: Path) -> None:
    """Raise DataError where two ids are equal, or equal but for letter case or Unicode form."""
    seen: dict[str, str] = {}
    for name in ids:
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            how = (
                "twice"
                if seen[key] == name
                else "in another letter case or Unicode form (the same file on some systems)"
            )
            _refuse([name], f"{where}: duplicate case id {name!r}: it is there {how}; rename one of them")
        seen[key] = name


def require_file(path: Path, kind: str, case: str, *, line: str = "") -> Path:
    """``path`` if it exists. Raises DataError naming ``kind`` (image or label) and the case, on ``line`` of its table."""
    if not path.exists():
        _refuse([case], f"{line}{case}: {kind} missing: {path} was not found")
    return path


def require_partners(images: Iterable[str], labels: Iterable[str], image_place: Path, label_place: Path) -> None:
    """Raise DataError naming the cases that have an image and no label, or a label and no image."""
    for place, kind, lost in (
        (label_place, "label", sorted(set(images) - set(labels))),
        (image_place, "image", sorted(set(labels) - set(images))),
    ):
        if lost:
            _refuse(lost, f"{place}: {kind} missing for {', '.join(lost[:5])} ({len(lost)} in all)")


def make_case(
    name: str,
    images: Sequence[Path],
    reference: Path,
    group: str | None,
    *,
    channels: Sequence[str] = (),
    patient: str | None = None,
) -> Case:
    """A training case whose files exist. ``group`` names its patient, else ``patient``, else it is one of its own."""
    present = tuple(require_file(image, "image", name) for image in images)
    who = patient_of(name, group) if group is not None else patient or name
    return Case(name, who, present, require_file(reference, "label", name), channels=tuple(channels))


def files_by_id(where: Path, kind: str, *, folders: bool = False) -> dict[str, Path]:
    """The image files and, with ``folders`` or where there are no files, the folders in ``where``, by case id.

    Raises DataError where the folder is missing, unreadable or holds nothing of that ``kind``, or two have one id.
    """
    if not where.is_dir():
        raise DataError(f"{where}: this folder of {kind}s does not exist; set data.{kind}s")
    try:
        entries = [path for path in sorted(where.iterdir()) if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{where}: this folder of {kind}s cannot be read ({error.strerror})") from None
    files = [
        path
        for path in entries
        if has_image_suffix(path.name) and path.suffix.lower() != ".img"  # the other half of an .hdr pair
    ]
    others = [path for path in entries if path not in files and path.is_dir()]
    found = [*files, *others] if folders or not files else files
    if not found:
        raise DataError(f"{where}: no {kind}s found: the folder is empty or holds no image files")
    require_unique([case_id(path) for path in found], where)
    return {case_id(path): path for path in found}


def read_dataset_json(root: Path, layout: str) -> dict[str, Any]:
    """``root/dataset.json``; empty where it is no mapping. Raises DataError where it cannot be read."""
    if not root.exists():
        raise DataError(
            f"{root}: this dataset folder does not exist; set data.root (`medseg phantom --layout msd --output DIR` makes "
            "phantoms to try on)"
        )
    file = root / "dataset.json"
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{root}: no dataset.json found; layout {layout} needs one (or use `layout: folder`)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def channel_names(content: dict[str, Any]) -> tuple[str, ...]:
    """The channels of a dataset.json in order (``channel_names``; of older ones ``modality``); empty where it names none."""
    named = content.get("channel_names", content.get("modality"))
    if not isinstance(named, dict) or not all(str(key).isdecimal() for key in named):
        return ()
    return tuple(str(name) for _, name in sorted(named.items(), key=lambda item: int(item[0])))


def label_values(content: dict[str, Any]) -> dict[str, int]:
    """``{name: value}`` of a dataset.json in either direction: ``{"1": "liver"}`` or ``{"liver": 1}``; regions left out."""
    labels = content.get("labels")
    if not isinstance(labels, dict):
        return {}
    if all(str(key).isdecimal() and isinstance(name, str) for key, name in labels.items()):
        return {name: int(value) for value, name in labels.items()}
    return {name: value for name, value in labels.items() if isinstance(value, int) and not isinstance(value, bool)}
