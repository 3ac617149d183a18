"""A folder of images and a folder of label maps, matched by case id."""

from pathlib import Path

from medseg.core.case import Case, case_id, has_image_suffix
from medseg.core.config import DataConfig
from medseg.core.errors import DataError
from medseg.data.layouts.common import make_case, require_unique


def folder(config: DataConfig) -> list[Case]:
    """One case for each image file, or folder of DICOM files, in ``images``; its label map has the same id in ``labels``.

    A label may also be a DICOM segmentation or RT structure set, or a folder of one mask per structure.
    """
    image_folder, label_folder = config.folder_of("images"), config.folder_of("labels")
    images, labels = _by_id(image_folder, "image", folders=True), _by_id(label_folder, "label", folders=False)
    unlabelled = sorted(set(images) - set(labels))
    if unlabelled:
        raise DataError(f"{label_folder}: label missing for {', '.join(unlabelled[:5])} ({len(unlabelled)} in all)")
    lost = sorted(set(labels) - set(images))
    if lost:
        raise DataError(f"{image_folder}: image missing for {', '.join(lost[:5])} ({len(lost)} in all)")
    return [make_case(name, (path,), labels[name], config.group) for name, path in images.items()]


def _by_id(where: Path, kind: str, *, folders: bool) -> dict[str, Path]:
    """The files and, with ``folders`` or where there are no files, the folders in ``where``, by case id."""
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
