"""What every layout checks: files that exist, ids that name one case each, patients."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from medseg.core.case import Case, patient_of
from medseg.core.errors import DataError


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
            raise DataError(f"{where}: duplicate case id {name!r}: it is there {how}; rename one of them")
        seen[key] = name


def require_file(path: Path, kind: str, case: str) -> Path:
    """``path`` if it exists. Raises DataError naming ``kind`` (image or label) and the case."""
    if not path.exists():
        raise DataError(f"{case}: {kind} missing: {path} was not found")
    return path


def make_case(name: str, images: Iterable[Path], reference: Path, group: str | None) -> Case:
    """A training case whose files exist."""
    present = tuple(require_file(image, "image", name) for image in images)
    return Case(name, patient_of(name, group), present, require_file(reference, "label", name))
