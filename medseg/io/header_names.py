"""The names of structures that label maps carry themselves, gathered over all files and held against each other."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import DataError, MedsegError
from medseg.core.labels import Labels
from medseg.core.text import printable
from medseg.io.matching import FilePair, match_files
from medseg.io.named_masks import same_name
from medseg.io.nifti import label_names_from_nifti
from medseg.io.reading import holds_named_masks, named_masks
from medseg.io.seg_nrrd import label_names_from_nrrd
from medseg.io.source import shown

MASKS = "; one mask per structure? Give the folder that holds a folder of masks for each case"
NUMBERS = "values: no header names them"
_LARGEST = 65535


@dataclass(frozen=True)
class HeaderNames:
    """``labels``: what files call their values, None where none does; ``source``: where the names stand, for the report."""

    labels: Labels | None
    source: str


def header_names(pairs: Sequence[FilePair]) -> HeaderNames:
    """The names in the headers of the label maps of ``pairs``.

    NIfTI label tables and .seg.nrrd segments name values. Where every file holds masks with names instead (DICOM segmentations,
    folders of masks), these count from 1 in the order in which they appear. One value has one name in all files, and one name
    one value (letter case, spaces, ``_`` and ``-`` do not count): a DataError says where two files differ. The spelling is
    that of the references. Files that cannot be read say nothing here.
    """
    by_value: dict[int, tuple[str, Path]] = {}
    by_name: dict[str, tuple[int, Path]] = {}
    masks: list[Path] = []
    told: dict[str, int] = {}
    files = [("references", pair.reference) for pair in pairs] + [("predictions", pair.prediction) for pair in pairs]
    for side, file in dict.fromkeys(files):
        if _holds_masks(file):
            masks.append(file)
            continue
        found = names_in(file)
        for name, value in found.items():
            named, valued = by_value.setdefault(value, (name, file)), by_name.setdefault(same_name(name), (value, file))
            _require_alike(file, name, value, named, valued)
        if found:
            told[side] = told.get(side, 0) + 1
    if not by_value and len(masks) == len(dict.fromkeys(files)):
        return _of_masks(masks)
    if not by_value:
        return HeaderNames(None, NUMBERS)
    labels = Labels.from_mapping({"background": 0, **{by_value[value][0]: value for value in sorted(by_value)}})
    return HeaderNames(labels, f"headers of the {' and the '.join(told)}")


def header_names_of(places: Sequence[tuple[Path, Path]]) -> HeaderNames:
    """``header_names`` of several predictions and their references, each a file or a folder, matched as for ``evaluate``."""
    pairs: list[FilePair] = []
    for predictions, references in places:
        with suppress(MedsegError, OSError):  # who scores them says what is wrong
            pairs += match_files(predictions, references)[0]
    return header_names(pairs)


def names_in(file: Path) -> dict[str, int]:
    """``{name: value}`` of a label map that names its structures, the background left out; empty where it names none."""
    lower = file.name.lower()
    read = label_names_from_nrrd if lower.endswith(".nrrd") else label_names_from_nifti
    if not lower.endswith((".nrrd", ".nii", ".nii.gz", ".hdr", ".img")):
        return {}
    with suppress(MedsegError, OSError):
        found = {printable(name).strip(): value for name, value in (read(file) or {}).items()}
        return {name: value for name, value in found.items() if name and 0 < value <= _LARGEST}
    return {}


def _require_alike(file: Path, name: str, value: int, named: tuple[str, Path], valued: tuple[int, Path]) -> None:
    """Raise DataError where ``file`` gives ``value`` another name, or ``name`` another value, than a file before it."""
    advice = "give --labels FILE (one of the two, say), whose names then hold for all files"
    if same_name(named[0]) != same_name(name):
        raise DataError(
            f"{shown(file)}: value {value} is {name!r} by its header, and {named[0]!r} by that of {shown(named[1])}: which is "
            f"meant is not known; {advice}{MASKS if file.parent == named[1].parent else ''}"
        )
    if valued[0] != value:
        raise DataError(
            f"{shown(file)}: {name!r} has the value {value} by its header, and {valued[0]} by that of {shown(valued[1])}: "
            f"the same value must mean the same everywhere; write them alike, or {advice}"
        )


def _holds_masks(file: Path) -> bool:
    with suppress(MedsegError, OSError):
        return holds_named_masks(file)
    return False


def _of_masks(files: Sequence[Path]) -> HeaderNames:
    spelled: dict[str, str] = {}
    for file in files:
        with suppress(MedsegError, OSError):
            for name in named_masks(file).names:
                spelled.setdefault(same_name(name), printable(name))
    if not spelled:
        return HeaderNames(None, NUMBERS)
    labels = Labels.from_mapping({"background": 0, **{name: n for n, name in enumerate(spelled.values(), 1)}})
    return HeaderNames(labels, "names of the masks")
