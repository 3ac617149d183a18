"""One case of a dataset, before anything is read."""

from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = (
    *(".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".zip"),
    *(".png", ".tif", ".tiff", ".jpg", ".jpeg"),
)


@dataclass(frozen=True)
class Case:
    """``images``: one path per channel. ``reference``: its label map. ``patient``: cases of one patient never split.

    ``left_out``: values in the reference that the dataset names and the config does not: background in training.
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    reference: Path
    left_out: tuple[int, ...] = ()


def strip_image_suffix(name: str) -> str:
    """``name`` without its image suffix; letter case is ignored."""
    lower = name.lower()
    return next((name[: -len(s)] for s in IMAGE_SUFFIXES if lower.endswith(s) and len(name) > len(s)), name)


def has_image_suffix(name: str) -> bool:
    return strip_image_suffix(name) != name


def case_id(path: Path) -> str:
    """The file or folder name without its image suffix and without a trailing ``_seg``.

    >>> case_id(Path("a/liver_12_seg.nii.gz")), case_id(Path("b/CT 3.1"))
    ('liver_12', 'CT 3.1')
    """
    name = strip_image_suffix(path.name)
    return name[:-4] if name.endswith("_seg") and len(name) > 4 else name
