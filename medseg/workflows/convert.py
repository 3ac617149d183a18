"""Convert: the same voxels in the same place in another format, or a refusal that says what the format cannot hold."""

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.core.errors import ConfigError, DataError, GeometryError, OutputError
from medseg.core.files import check_writable, clear_unfinished, is_there, staged_folder, write_together
from medseg.core.geometry import Geometry, order_between, order_to
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.reading import read_label_map, read_stored, read_volume
from medseg.io.scan import DEFAULTS, ReadOptions
from medseg.io.source import shown
from medseg.io.stored import Stored, exact_values
from medseg.io.tables import labels_from_names, read_labels

Modality = Literal["CT", "MR"]
Voxels = npt.NDArray[Any]
_NIFTI = ".nii.gz", ".nii", ".hdr", ".img"
_ITK = ".nrrd", ".nhdr", ".mha", ".mhd"
_PICTURES = ".png", ".tif", ".tiff"
_KINDS = {
    **dict.fromkeys(_NIFTI, "nifti"),
    ".seg.nrrd": "segments",
    **dict.fromkeys(_ITK, "itk"),
    **dict.fromkeys(_PICTURES, "picture"),
    ".zip": "zip",
}
_OUR_SLICE = re.compile(r"slice_\d{4,}\.dcm")


@dataclass(frozen=True)
class Converted:
    """What was written to ``path``: its grid, voxel type and channels, and what a reader of it should know."""

    path: Path
    geometry: Geometry
    dtype: str
    channels: int
    notes: tuple[str, ...]


def convert(
    scans: Sequence[Path | str],
    output: Path | str,
    *,
    labels: Path | str | Labels | None = None,
    label: bool = False,
    modality: Modality | None = None,
    force: bool = False,
    options: ReadOptions = DEFAULTS,
) -> Converted:
    """Write the scan in ``scans`` (its channels, if several) to ``output``; the suffix chooses the format.

    Voxels keep their values, their type where the format has it, and their place. NIfTI (.nii.gz, .nii, .hdr/.img), NRRD,
    MetaImage, PNG and TIFF for one axial slice, .zip for a zipped DICOM series; a name without a suffix or with a ``/`` at its
    end, or an existing folder, for a DICOM series. With ``label`` or ``labels`` (a labels file), for a NIfTI that says so, and
    to or from .seg.nrrd the voxels are label values, and keep their names where the format has room for them. ``modality`` is
    needed for DICOM where the scan does not tell.

    Raises DataError or GeometryError for what cannot be read or held, ConfigError for a suffix or option that does not fit,
    OutputError where ``output`` exists (unless ``force``).

    >>> import medseg
    >>> medseg.convert(["ct_series"], "ct.nii.gz").geometry.orientation  # doctest: +SKIP
    'LPS'
    """
    sources = [Path(scan) for scan in scans]
    if not sources:
        raise ConfigError("no scan given; name the scan, and then where to write it")
    kind = _kind(str(output))
    target = Path(output)
    _check_free(target, kind, sources, force=force)
    if label or labels is not None or kind == "segments" or _says_label(sources[0]):
        if len(sources) > 1:
            raise ConfigError("a label map lies in one file; several files are the channels of a scan")
        return _label_map(sources[0], target, kind, labels, options)
    stored = read_stored(sources, options=options)
    data = exact_values(stored)
    if kind in ("folder", "zip"):
        return _dicom(sources[0], target, kind, stored, data, modality)
    contents, notes = _WRITERS[kind](target, data, stored.geometry)
    write_together(contents)
    scale = (f"scaled on disk ({stored.slope:g}, {stored.intercept:g}): the true values are written",) * stored.scaled
    return Converted(target, stored.geometry, str(data.dtype), len(data), (*stored.warnings, *scale, *notes))


def _kind(output: str) -> str:
    """Which way to write ``output``. Raises ConfigError for a suffix that is none of ours."""
    lower = output.lower()
    if output.endswith(("/", os.sep)) or _is_folder(output):
        return "folder"
    found = next(
        (kind for suffix, kind in _KINDS.items() if lower.endswith(suffix) and Path(lower).name != suffix), None
    )
    if found is None and Path(output).suffix:
        raise ConfigError(
            f"{shown(Path(output))}: unknown suffix; choose .nii.gz, .nii, .hdr, .nrrd, .nhdr, .mha, .mhd, .zip (DICOM), .png or "
            ".tif (one slice), or end the name with / for a DICOM folder"
        )
    return found or "folder"


def _check_free(target: Path, kind: str, sources: Sequence[Path], *, force: bool) -> None:
    """Raise OutputError where ``target`` must not be written: it exists, is a source, or cannot be."""
    written = _written(target)
    real = {os.path.realpath(path) for source in sources for path in _written(source)}
    for path in written:
        if os.path.realpath(path) in real:
            raise OutputError(f"{shown(path)}: this is the scan itself; choose another OUT")
        if kind != "folder" and _is_folder(path):
            raise OutputError(f"{shown(path)}: is a folder; choose another OUT")
        if kind != "folder" and is_there(path) and not force:
            raise OutputError(f"{shown(path)}: exists already; overwrite it with --force, or choose another OUT")
    if kind == "folder":
        _check_folder(target, sources, force=force)
    check_writable(Path(os.path.realpath(target)).parent if kind == "folder" else target.parent)


def _check_folder(target: Path, sources: Sequence[Path], *, force: bool) -> None:
    real = Path(os.path.realpath(target))
    clear_unfinished(real.parent.glob(f".{glob.escape(real.name)}.*.tmp"))  # of a conversion that was killed
    if is_there(target) and not _is_folder(target):
        raise OutputError(f"{shown(target)}: is a file, where a DICOM folder is to be written; choose another OUT")
    if any(real.is_relative_to(os.path.realpath(source)) for source in sources if _is_folder(source)):
        raise OutputError(f"{shown(target)}: lies in the scan's own folder and would mix with it; choose another OUT")
    inside = [entry.name for entry in target.iterdir()] if _is_folder(target) else []
    foreign = [name for name in inside if not _OUR_SLICE.fullmatch(name)]
    if foreign:
        raise OutputError(
            f"{shown(target)}: holds other files ({shown(Path(foreign[0]))}), and a DICOM series is written to a folder of its "
            "own; choose another OUT"
        )
    if inside and not force:
        raise OutputError(f"{shown(target)}: exists already; replace this series with --force, or choose another OUT")


def _is_folder(path: Path | str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where the name is too long


def _written(path: Path) -> list[Path]:
    """The files that make up ``path``: two of a pair."""
    other = {".hdr": ".img", ".img": ".hdr", ".mhd": ".zraw", ".nhdr": ".raw.gz"}.get(path.suffix.lower())
    return [path, path.with_suffix(other)] if other else [path]


def _nifti(target: Path, data: Voxels, geometry: Geometry) -> tuple[Mapping[Path, bytes], tuple[str, ...]]:
    from medseg.io.nifti import volume_files

    return volume_files(target, data, geometry), ()


def _itk(target: Path, data: Voxels, geometry: Geometry) -> tuple[Mapping[Path, bytes], tuple[str, ...]]:
    from medseg.io.itk_write import itk_files

    return itk_files(target, data, geometry), ()


def _picture(target: Path, data: Voxels, geometry: Geometry) -> tuple[Mapping[Path, bytes], tuple[str, ...]]:
    from medseg.io.image2d import picture_bytes

    return {target: picture_bytes(target, data, geometry)}, _lost_in_a_picture(geometry)


_WRITERS: dict[str, Callable[[Path, Voxels, Geometry], tuple[Mapping[Path, bytes], tuple[str, ...]]]] = {
    "nifti": _nifti,
    "itk": _itk,
    "picture": _picture,
}


def _lost_in_a_picture(geometry: Geometry) -> tuple[str, ...]:
    seen = order_to(geometry, "LPS").geometry(geometry)
    if np.allclose(seen.affine, np.diag([-1.0, -1.0, 1.0, 1.0]), atol=1e-6):
        return ()
    spacing = " x ".join(f"{mm:.4g}" for mm in seen.spacing_mm[:2])
    return (f"a picture holds no place and no spacing: pixels of {spacing} mm are read back as 1 x 1 mm at the origin",)


def _dicom(source: Path, target: Path, kind: str, stored: Stored, data: Voxels, modality: Modality | None) -> Converted:
    """A DICOM series in a folder, read back and compared before it takes its name, or in a zip archive."""
    from medseg.io.dicom_write import series_of, write_series, zip_of

    known: dict[str, Modality] = {"CT": "CT", "MR": "MR"}
    chosen = modality or known.get(stored.modality)
    if chosen is None:
        told = f"says it is {stored.modality}" if stored.modality else "does not say what it is"
        raise ConfigError(
            f"{shown(source)}: the scan {told}; choose the kind of DICOM image with --modality CT or --modality MR"
        )
    series = series_of(target, data, stored.geometry, chosen)
    if kind == "zip":
        write_together({target: zip_of(series)})
    else:
        with staged_folder(Path(os.path.realpath(target))) as staging:  # a link to a folder stays a link
            write_series(staging, series)
            _compare(staging, target, data, stored.geometry, series.rounding)
    notes = list(stored.warnings)
    if series.rounding:
        notes.append(f"rounded to 16 bits: intensities are off by at most {series.rounding:.3g}")
    return Converted(target, series.geometry, str(series.stored.dtype), 1, tuple(notes))


def _compare(staging: Path, target: Path, data: Voxels, geometry: Geometry, rounding: float) -> None:
    """Raise DataError unless the series in ``staging`` reads back as ``data`` on ``geometry``."""
    back = read_volume(staging)
    order = order_between(back.geometry, geometry, 1e-3)
    if order is None:
        raise GeometryError(
            f"{shown(target)}: the series reads back on another grid ({back.geometry!r}), so it is not written"
        )
    read = order.array(back.data)
    single = np.finfo(np.float32).eps * float(np.abs(read).max()) if read.dtype == np.float32 else 0.0
    if np.abs(read - data.astype(np.float64)).max() > rounding * 1.001 + single:
        raise DataError(f"{shown(target)}: the series reads back with other intensities, so it is not written")


def _says_label(path: Path) -> bool:
    """True for a .seg.nrrd, and for a NIfTI whose header says that it is a label map, or names values."""
    from medseg.io.nifti import is_label_map, label_names_from_nifti

    name = path.name.lower()
    there = os.path.isfile(path)  # noqa: PTH113 - as in _is_folder
    if not name.endswith(_NIFTI) or not there:
        return name.endswith(".seg.nrrd")
    return is_label_map(path) or label_names_from_nifti(path) is not None


def _label_map(
    source: Path, target: Path, kind: str, labels: Path | str | Labels | None, options: ReadOptions
) -> Converted:
    """A label map as a label map, with its names where the format holds them."""
    from medseg.io.image2d import palette_png
    from medseg.io.nifti import label_map_bytes
    from medseg.io.seg_nrrd import seg_nrrd_bytes

    if kind in ("folder", "zip"):
        raise ConfigError(f"{shown(target)}: a label map is no DICOM image series; write NIfTI, NRRD or MHA")
    given = read_labels(Path(labels)) if isinstance(labels, Path | str) else labels
    found = read_label_map(source, given, options=options)
    named, notes = _named(source, found)
    lower = target.name.lower()
    if kind == "segments":
        if named.geometry.is_sheared:
            raise GeometryError(
                f"{shown(target)}: .seg.nrrd holds right angles only, this grid is sheared; write NIfTI"
            )
        contents: Mapping[Path, bytes] = {target: seg_nrrd_bytes(target, named, named.labels or _by_value(named))}
    elif lower.endswith((".nii", ".nii.gz")):
        contents = {target: label_map_bytes(target, named)}
    elif lower.endswith(".png"):
        contents = {target: palette_png(named)}
        notes += _lost_in_a_picture(named.geometry)
    else:
        contents, more = _WRITERS[kind](target, named.data[np.newaxis], named.geometry)
        notes += (*more, *(("the names of the structures have no room in this format",) if named.labels else ()))
    write_together(contents)
    return Converted(target, named.geometry, str(named.data.dtype), 1, (*named.warnings, *notes))


def _named(source: Path, found: LabelMap) -> tuple[LabelMap, tuple[str, ...]]:
    """``found`` with the names that its own file has for all its values, where it came without."""
    from medseg.io.nifti import label_names_from_nifti
    from medseg.io.seg_nrrd import label_names_from_nrrd

    if found.labels is not None:
        return found, ()
    name = source.name.lower()
    reader = (
        label_names_from_nrrd if name.endswith(".nrrd") else label_names_from_nifti if name.endswith(_NIFTI) else None
    )
    names = reader(source) if reader else None
    if not names:
        return found, ()
    labels = labels_from_names(names)
    unnamed = sorted(set(np.unique(found.data).tolist()) - {0, *labels.values})
    if unnamed:
        return found, (f"its own table of names lacks the value {unnamed[0]}: the names are left out; give --labels",)
    return LabelMap(found.data, found.geometry, labels, found.warnings), ()


def _by_value(found: LabelMap) -> Labels:
    """Names made of the values, for a format that needs some."""
    values = [int(value) for value in np.unique(found.data) if value]
    return Labels.from_mapping({"background": 0, **{f"label {value}": value for value in values or [1]}})
