"""One door for every scan and label map: the path decides the reader, and all of them are held to the same checks."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.core.files import sha256_of
from medseg.core.geometry import Geometry, StorageOrder, order_between
from medseg.core.labels import Labels
from medseg.core.memory import check_room
from medseg.core.volume import LabelMap, Volume
from medseg.io.archive import is_archive, unpacked
from medseg.io.mask_folder import folder_as_masks, mask_files
from medseg.io.named_masks import NamedMasks, as_one_label_map
from medseg.io.scan import DEFAULTS, ChannelGrids, ReadOptions, Scan
from medseg.io.source import IMAGE_BOMB_BYTES, LABEL_BOMB_BYTES, check_regular, foreign_content, open_regular, shown
from medseg.io.stored import Stored, as_intensities, as_label_map, exact_values

_NIFTI = ".nii", ".nii.gz", ".hdr", ".img"
_ITK = ".mha", ".mhd", ".nrrd", ".nhdr"
_FLAT = ".png", ".jpg", ".jpeg", ".tif", ".tiff"
_READ = (
    "NIfTI (.nii, .nii.gz, .hdr/.img), MetaImage (.mha, .mhd), NRRD (.nrrd, .nhdr), DICOM folders, 2D pictures "
    "(.png, .tif, .jpg), and zip archives of one scan"
)


@contextmanager
def open_scan(paths: Sequence[Path], *, channels: int | None = None, options: ReadOptions = DEFAULTS) -> Iterator[Scan]:
    """The scan at ``paths``, its channels from one file each (or all from one), in the first one's storage order.

    Each path is an image file, the folder of a DICOM series, a multi-frame DICOM file, a DICOMDIR, or a zip archive of one
    of these; a 2D picture is one slice, and ``flat``. Voxels lie in RAS+ millimetres in stored axis order; integers and
    float32 keep their type, scaled or wider intensities become float32; a 4th axis becomes the channels. What had to be
    assumed is in the volume's ``warnings``. The frames' files exist for the block only, where they came from an archive.

    Raises DataError or GeometryError naming the file and what is wrong: also where the number of channels is not
    ``channels``, and where the grids of two files differ, unless ``options`` say to resample them; ResourceError where a scan
    cannot fit in the memory of ``options``.
    """
    with ExitStack() as stack:
        scans = [_unpacked_scan(path, options, stack) for path in paths]
        if options.series is not None and not any(scan.frames for scan in scans):
            raise DataError(
                f"{shown(paths[0])}: no DICOM series, so there is none that --series could name; leave it out"
            )
        volumes = [scan.volume for scan in scans]
        if len(volumes) > 1:  # joined, they lie there twice
            check_room(shown(paths[0]), sum(volume.data.nbytes for volume in volumes), options.max_memory)
        volume = _joined(paths, volumes, options.channel_grids)
        if channels is not None and volume.channels != channels:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            raise DataError(
                f"{shown(paths[0])}{more}: {volume.channels} channels (4th dimension: a time series or several volumes?), "
                f"expected {channels}; give the channels that the model was trained on"
            )
        yield replace(scans[0], volume=volume)


def check_room_by_headers(paths: Sequence[Path], options: ReadOptions) -> None:
    """Raise ResourceError where one of ``paths`` is a NIfTI file that cannot fit in the memory of ``options``, by its header.

    Whatever else is wrong with them is left to ``open_scan``.
    """
    if options.max_memory is None:
        return
    from medseg.io.nifti import check_nifti_room

    for path in paths:
        if path.name.lower().endswith(_NIFTI):
            with suppress(DataError):
                check_nifti_room(path, max_voxels=options.max_voxels, max_memory=options.max_memory)


def files_of(path: Path, options: ReadOptions = DEFAULTS) -> tuple[Path, ...]:
    """The files that hold the scan at ``path``: itself, and the voxels beside a header. Raises DataError."""
    suffix = path.suffix.lower()
    if suffix in (".mhd", ".nhdr"):
        from medseg.io.itk_header import read_itk_header

        return tuple(dict.fromkeys((path, read_itk_header(path, max_voxels=options.max_voxels).data_path)))
    if suffix in (".hdr", ".img"):
        from medseg.io.nifti import pair_of

        return pair_of(path)
    return (path,)


def hash_of(scan: Path, options: ReadOptions = DEFAULTS) -> str:
    """The sha256 of a scan's file, of all files of its folder, or of a header and the voxels beside it.

    Raises DataError where it cannot be read.
    """
    try:
        digests = [sha256_of(part) for part in files_of(scan, options)]
    except OSError as error:
        raise DataError(f"{shown(scan)}: could not be read ({error.strerror or error})") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read_volume(path: Path, *, channels: int | None = None, options: ReadOptions = DEFAULTS) -> Volume:
    """The volume of ``open_scan`` for one path."""
    with open_scan([path], channels=channels, options=options) as scan:
        return scan.volume


def read_volumes(paths: Sequence[Path], *, channels: int | None = None, options: ReadOptions = DEFAULTS) -> Volume:
    """The volume of ``open_scan`` for the channels of one case."""
    with open_scan(paths, channels=channels, options=options) as scan:
        return scan.volume


def read_stored(paths: Sequence[Path], *, options: ReadOptions = DEFAULTS) -> Stored:
    """The voxels of ``open_scan`` as they are on disk, for a copy in another format: no value is rounded or checked.

    Several files become channels in the first one's storage order, unscaled, in the smallest type that holds all of them.
    """
    parts = [_unpacked_stored(path, options) for path in paths]
    if len(parts) == 1:
        return parts[0]
    orders = [
        _order_onto(part.geometry, parts[0].geometry, path, paths[0]) for part, path in zip(parts, paths, strict=True)
    ]
    data = np.concatenate([order.array(exact_values(part)) for order, part in zip(orders, parts, strict=True)])
    said = tuple(dict.fromkeys(warning for part in parts for warning in part.warnings))
    return Stored(data, parts[0].geometry, warnings=said, modality=parts[0].modality)


def _joined(paths: Sequence[Path], volumes: Sequence[Volume], grids: ChannelGrids) -> Volume:
    """All channels on the first volume's grid, in its storage order. Raises GeometryError where a grid differs or is apart."""
    first = volumes[0]
    if len(volumes) == 1:
        return first
    parts, remarks = [], []
    for n, (path, volume) in enumerate(zip(paths, volumes, strict=True), 1):
        if grids == "resample" and order_between(volume.geometry, first.geometry) is None:
            from medseg.core.regrid import volume_onto  # and with it scipy

            moved, covered = volume_onto(volume, first.geometry)
            if not covered:
                raise GeometryError(
                    f"{shown(path)}: lies nowhere on the grid of {shown(paths[0])}: not of one session?"
                )
            partly = "" if covered == 1 else ", of which it covers a part only: its smallest intensity in the rest"
            remarks.append(f"channel {n} is resampled onto the grid of channel 1{partly}")
            parts.append(moved.data)
            continue
        order = _order_onto(volume.geometry, first.geometry, path, paths[0])
        parts.append(order.array(volume.data))
    warnings = dict.fromkeys([warning for volume in volumes for warning in volume.warnings] + remarks)
    return Volume(np.concatenate(parts), first.geometry, tuple(warnings), first.modality)


def _order_onto(grid: Geometry, first: Geometry, path: Path, first_path: Path) -> StorageOrder:
    order = order_between(grid, first)
    if order is None:
        raise GeometryError(
            f"{shown(path)}: grid {grid!r} differs from {first!r} of {shown(first_path)}; "
            "the channels of one case must lie on one grid: resample them first, or set data.channel_grids to resample"
        )
    return order


def read_label_map(
    path: Path, labels: Labels | None = None, *, like: Geometry | None = None, options: ReadOptions = DEFAULTS
) -> LabelMap:
    """The label map at ``path`` in stored axis order and the smallest unsigned type that holds its values.

    Floats that hold whole numbers are taken as such. Raises DataError for fractions, NaN, negative values, colours,
    several channels and, where ``labels`` is given, for values that it does not name.

    ``path`` may also hold masks with names, which become the values of ``labels`` (``named_masks.as_one_label_map``): a
    DICOM segmentation, an RT structure set, a folder with one of them, or a folder of one mask per structure. The DICOM
    objects are laid on the grid ``like``, that of their image; an RT structure set cannot do without.
    """
    if is_archive(path):
        with unpacked(path) as inner, inner.named():
            if holds_named_masks(inner.path):  # who asks before reading is not told of them inside an archive
                raise DataError(f"{shown(path)}: holds structures with names, not a label map; unzip it first")
            return read_label_map(inner.path, labels, options=options)
    masks = _named_masks(path)
    if masks is not None:
        return as_one_label_map(masks(like, options), labels)
    if _is_flat(path):
        from medseg.io.image2d import read_label_picture

        stored = read_label_picture(path, max_voxels=options.max_voxels)
    else:
        stored = _read(path, options, LABEL_BOMB_BYTES)
    return as_label_map(shown(path), stored, labels)


def _unpacked_scan(path: Path, options: ReadOptions, stack: ExitStack) -> Scan:
    """The scan at ``path``; what it lies in, if in an archive, lives as long as ``stack``."""
    if not is_archive(path):
        return _scan(path, options)
    inner = stack.enter_context(unpacked(path))
    with inner.named():
        scan = _scan(inner.path, options)
    warnings = (*inner.notes, *(inner.told(warning) for warning in scan.volume.warnings))
    return replace(scan, volume=replace(scan.volume, warnings=warnings))


def holds_named_masks(path: Path) -> bool:
    """True where the structures at ``path`` have names and no values of a label map: see ``read_label_map``."""
    return _named_masks(path) is not None


def named_masks(path: Path) -> NamedMasks:
    """The masks with names at ``path`` on a grid of their own; see ``read_label_map``. Raises DataError where there are none."""
    masks = _named_masks(path)
    if masks is None:
        raise DataError(f"{shown(path)}: holds no masks with names")
    return masks(None, DEFAULTS)


def _named_masks(path: Path) -> Callable[[Geometry | None, ReadOptions], NamedMasks] | None:
    """What reads the masks with names at ``path`` on a grid; None where it is a label map, or a scan."""
    if os.path.isdir(path):  # noqa: PTH112 - as below
        if mask_files(path):
            return lambda _, options: folder_as_masks(path, lambda file: read_label_map(file, options=options))
        files = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
        return _named_masks(files[0]) if len(files) == 1 and not files[0].is_dir() else None
    if is_archive(path) or not _is_dicom(path):
        return None
    from medseg.io.dicom_references import is_structured, read_structured

    if not is_structured(path):
        return None
    return lambda like, options: read_structured(path, like, max_voxels=options.max_voxels)


def _unpacked_stored(path: Path, options: ReadOptions) -> Stored:
    if not is_archive(path):
        return _read(path, options, IMAGE_BOMB_BYTES)
    with unpacked(path) as inner, inner.named():
        stored = _read(inner.path, options, IMAGE_BOMB_BYTES)
        return replace(stored, warnings=(*inner.notes, *(inner.told(warning) for warning in stored.warnings)))


def _scan(path: Path, options: ReadOptions) -> Scan:
    """Imports the reader's library only once its format is met: `import medseg.io.reading` stays cheap."""
    if _is_dicom(path):
        from medseg.io.dicom import read_dicom

        return read_dicom(path, options)
    return Scan(as_intensities(shown(path), _read(path, options, IMAGE_BOMB_BYTES)), flat=_is_flat(path))


def _read(path: Path, options: ReadOptions, bomb_bytes: int) -> Stored:
    lower = path.name.lower()
    if _is_dicom(path):
        volume = _scan(path, options).volume
        return Stored(volume.data, volume.geometry, warnings=volume.warnings, modality=volume.modality)
    if lower.endswith(_NIFTI):
        from medseg.io.nifti import read_nifti

        return read_nifti(path, max_voxels=options.max_voxels, bomb_bytes=bomb_bytes, max_memory=options.max_memory)
    if lower.endswith(_ITK):
        from medseg.io.itk import read_itk

        return read_itk(path, max_voxels=options.max_voxels, bomb_bytes=bomb_bytes, max_memory=options.max_memory)
    if _is_flat(path):
        from medseg.io.image2d import read_picture

        return read_picture(path, max_voxels=options.max_voxels)
    with open_regular(path) as file:
        start = file.read(512)
    raise DataError(f"{shown(path)}: {_unsupported(lower, start)}")


def _is_flat(path: Path) -> bool:
    """True for a file by the name of a picture."""
    return path.suffix.lower() in _FLAT and not _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    """True for a folder, and for a file that carries the DICOM mark under a name that is no other format's."""
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where the name is too long or the parent is barred
        return True
    check_regular(path)
    if path.name.lower().endswith(_NIFTI + _ITK):
        return False
    with open_regular(path) as file:
        return file.read(132)[128:] == b"DICM"


def _unsupported(lower: str, start: bytes) -> str:
    found = foreign_content(start)
    return f"it holds {found}" if found else f"unsupported file type; medseg reads {_READ}"
