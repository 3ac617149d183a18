"""Which prediction belongs to which reference: files matched by case id."""

import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medseg.core.case import case_id, has_image_suffix
from medseg.core.errors import ConfigError, DataError
from medseg.io.mask_folder import mask_files
from medseg.io.source import shown

NOT_LABEL_MAPS = (".zip", ".jpg", ".jpeg")  # JPEG changes values
PICTURES = (".png", ".tif", ".tiff")  # label maps of their own, or in a folder of 3D ones pictures of them, passed over
# Label maps of their own; beside 3D ones the same in another format, as `infer` writes it, and passed over.
OTHERS = ((".seg.nrrd",), (".dcm",), PICTURES)


@dataclass(frozen=True)
class FilePair:
    """One case: its predicted and its reference label map, and the prediction's probabilities. ``id`` is printable text."""

    id: str
    prediction: Path
    reference: Path
    probabilities: Path | None = None


def match_files(predictions: Path, references: Path) -> tuple[list[FilePair], dict[str, str]]:
    """The pairs, sorted by case id, and for each case without a partner the message that says so.

    Two files are a pair whatever their names. Folders are matched by case id, and so are a file and a folder, where the
    file asks for its own case only. Hidden files and what is no label map are passed over, and so are DICOM objects,
    .seg.nrrd, pictures and folders where 3D label maps lie beside them; a folder with folders only has one of masks for
    each case. Raises DataError where a side does not exist or holds no label map, two files have one id, or both sides are
    the same.
    """
    for path, kind in ((predictions, "predictions"), (references, "references")):
        if not path.exists():
            raise DataError(f"{shown(path)}: not found; give the file or folder of the {kind}")
    with suppress(OSError):
        if predictions.samefile(references):
            what = "folder" if predictions.is_dir() else "file"
            raise DataError(
                f"{shown(predictions)} and {shown(references)} are the same {what}: "
                "predictions and references are identical; give two different ones"
            )
    if not predictions.is_dir() and not references.is_dir():
        return [FilePair(_id(predictions), predictions, references)], {}
    for folder, file in ((references, predictions), (predictions, references)):
        if not file.is_dir() and mask_files(folder) and _id(predictions) == _id(references):
            return [FilePair(_id(predictions), predictions, references)], {}  # one mask per structure, of this case
    predicted, expected = _by_id(predictions), _by_id(references)
    common = sorted(set(predicted) & set(expected))
    # A single file asks for its own case; a folder asks for all that it holds.
    no_prediction = sorted(set(expected) - set(predicted)) if predictions.is_dir() else []
    no_reference = sorted(set(predicted) - set(expected)) if references.is_dir() else []
    skipped = dict.fromkeys(no_prediction, _missing("prediction", predictions, no_prediction, len(expected)))
    skipped |= dict.fromkeys(no_reference, _missing("reference", references, no_reference, len(predicted)))
    pairs = [FilePair(name, predicted[name], expected[name]) for name in common]
    if pairs and all(_same_file(pair.prediction, pair.reference) for pair in pairs):
        raise DataError(
            f"{shown(predictions)} and {shown(references)} hold identical files (links to the same ones); give two folders"
        )
    return pairs, skipped


def holds_label_maps(folder: Path) -> bool:
    """Whether a 3D label map lies in ``folder``: pictures may be anything. False for what is no folder."""
    if not folder.is_dir():
        return False
    try:
        return any(_is_label_map(e) and not e.name.lower().endswith(PICTURES) for e in folder.iterdir())
    except OSError as error:
        raise DataError(f"{shown(folder)}: this folder cannot be read ({error.strerror})") from None


def short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart. Raises ConfigError where one folder is given twice."""
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        twice = next(p for p in resolved if resolved.count(p) > 1)
        raise ConfigError(f"{shown(twice)} is given twice: give different folders")
    for depth in range(1, max(len(p.parts) for p in resolved) + 1):
        names = [shown(Path(*p.parts[-depth:])) for p in resolved]
        if len(set(names)) == len(names):
            return names
    return [shown(p) for p in resolved]


def _same_file(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False


def _by_id(path: Path) -> dict[str, Path]:
    """The label maps of a folder, or the one file, by case id. Raises DataError where two have the same id, or none is there."""
    try:
        entries = sorted(path.iterdir()) if path.is_dir() else [path]
    except OSError as error:
        raise DataError(f"{shown(path)}: this folder cannot be read ({error.strerror})") from None
    if path.is_dir():
        entries = _cases(entries)
    found: dict[str, Path] = {}
    for entry in entries:
        name = _id(entry)
        if name in found:
            raise DataError(
                f"{shown(path)}: duplicate case {name!r}: {shown(Path(found[name].name))} and "
                f"{shown(Path(entry.name))} both have this case id, which is ambiguous; keep one of them "
                "(a scan beside its prediction? move the predictions to a folder of their own)"
            )
        found[name] = entry
    if not found:
        raise DataError(
            f"{shown(path)}: no images in this folder: it is empty, or holds no label map (.nii.gz, .nii, .mha, .nrrd, .png, ...)"
        )
    return found


def _cases(entries: Sequence[Path]) -> list[Path]:
    """The 3D label maps among ``entries``; without any the first kind there is of ``OTHERS``, or the folders, one a case."""
    named = [entry for entry in entries if _is_label_map(entry)]
    kinds = [[entry for entry in named if entry.name.lower().endswith(suffixes)] for suffixes in OTHERS]
    volumes = [entry for entry in named if not any(entry in kind for kind in kinds)]
    folders = [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return next((kind for kind in (volumes, *kinds) if kind), folders)


def _is_label_map(entry: Path) -> bool:
    name = entry.name.lower()
    return (
        has_image_suffix(name)
        and not name.startswith(".")
        and not name.endswith(NOT_LABEL_MAPS)
        and not (name.endswith(".img") and entry.with_suffix(".hdr").exists())  # the other half of a pair
        and not entry.is_dir()
    )


def _missing(kind: str, where: Path, names: list[str], of: int) -> str:
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"{shown(where)}: {kind} missing for {len(names)} of {of} case(s): {listed}"


def _id(path: Path) -> str:
    """The case id as it is shown, in one Unicode form: macOS stores another one than Linux and Windows."""
    return unicodedata.normalize("NFC", shown(Path(case_id(path))))
