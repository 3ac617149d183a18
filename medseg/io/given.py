"""A scan that is in memory already: a numpy array, a nibabel or SimpleITK image, or a Volume."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import ConfigError, DataError, GeometryError
from medseg.core.geometry import Geometry
from medseg.core.text import printable
from medseg.core.volume import LabelMap, Volume
from medseg.io.grid import check_affine, check_spacing
from medseg.io.scan import MAX_VOXELS
from medseg.io.stored import Stored, as_intensities

_HOW = "give affine= (4x4, to RAS+ millimetres) or spacing_mm= (of axes that run to the right, to anterior, up)"


@dataclass(frozen=True, eq=False)
class Given:
    """The ``volume`` of what was given, its ``name`` in messages, and the way ``back``: a label map as the same kind."""

    volume: Volume
    name: str
    back: Callable[[LabelMap], Any]


def library_of(scan: object) -> str:
    """``nibabel``, ``SimpleITK`` or ``numpy`` for an object of theirs, else empty; none of them is imported."""
    origins = {kind.__module__.partition(".")[0] for kind in type(scan).__mro__}
    return next((name for name in ("nibabel", "SimpleITK", "numpy") if name in origins), "")


def given_scan(
    scan: Any,
    *,
    affine: npt.ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
    max_voxels: int = MAX_VOXELS,
) -> Given:
    """``scan`` as a volume in RAS+ millimetres, held to the checks of a file.

    An array (I, J, K) or (C, I, J, K) needs ``affine`` or ``spacing_mm``; an image brings its own. Raises ConfigError where
    the grid is missing or told twice, DataError and GeometryError where the scan is none.
    """
    library = "Volume" if isinstance(scan, Volume) else library_of(scan)
    if library != "numpy" and not (affine is None and spacing_mm is None):
        raise ConfigError(f"affine and spacing_mm are for numpy arrays; a {type(scan).__name__} brings its own grid")
    if isinstance(scan, Volume):
        stored = Stored(scan.data, scan.geometry, warnings=scan.warnings, modality=scan.modality)
        return _given("the volume", stored, max_voxels, lambda label_map: label_map)
    if library == "nibabel":
        from medseg.io.nifti_image import nibabel_grid, nibabel_label_image, stored_from_nibabel

        file = scan.get_filename() if hasattr(scan, "get_filename") else None
        name = printable(file) if file else "the nibabel image"
        stored = stored_from_nibabel(name, scan, max_voxels=max_voxels)
        nifti = nibabel_grid(scan)
        return _given(name, stored, max_voxels, lambda label_map: nibabel_label_image(label_map, nifti))
    if library == "SimpleITK":
        from medseg.io.itk import itk_grid, itk_label_image, stored_from_itk

        name = "the SimpleITK image"
        stored, itk = stored_from_itk(name, scan), itk_grid(scan)
        return _given(name, stored, max_voxels, lambda label_map: itk_label_image(label_map, itk))
    if library == "numpy":
        return _given(
            "the array", _stored_array(scan, affine, spacing_mm), max_voxels, lambda label_map: label_map.data
        )
    raise ConfigError(
        f"a {type(scan).__name__} is no scan; give a path, a list of paths, a numpy array, a nibabel or SimpleITK image"
    )


def _given(name: str, stored: Stored, max_voxels: int, back: Callable[[LabelMap], Any]) -> Given:
    """Raises DataError for voxels that are no numbers or too many; see ``as_intensities`` for the rest."""
    data = stored.data
    if data.dtype.kind not in "iuf":
        raise DataError(f"{name}: voxels of type {data.dtype} are no scan; give integers or floats")
    if data.size > max_voxels:
        raise DataError(f"{name}: too large: {data.size} voxels, the limit is {max_voxels} (max_voxels)")
    if not data.dtype.isnative:
        stored = replace(stored, data=data.astype(data.dtype.newbyteorder("=")))
    return Given(as_intensities(name, stored), name, back)


def _stored_array(array: npt.NDArray[Any], affine: npt.ArrayLike | None, spacing_mm: Sequence[float] | None) -> Stored:
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise DataError("the array: masked voxels have no intensity; fill them first")
    if np.ndim(array) not in (3, 4):
        raise DataError(f"the array: shape {np.shape(array)}; expected (I, J, K), or (C, I, J, K) with channels first")
    if (affine is None) == (spacing_mm is None):
        told = "has no place in the world" if affine is None else "was told its grid twice, by affine and by spacing_mm"
        raise ConfigError(f"the array {told}; {_HOW}")
    if spacing_mm is not None:
        flat = isinstance(spacing_mm, Sequence) or (isinstance(spacing_mm, np.ndarray) and spacing_mm.ndim == 1)
        listed = list(spacing_mm) if flat else []
        if len(listed) != 3 or not all(isinstance(one, int | float | np.integer | np.floating) for one in listed):
            raise ConfigError(f"the array: spacing_mm must be three numbers, along i, j, k; got {spacing_mm!r}")
        check_spacing("the array", spacing_mm, "spacing_mm")
        placed = np.diag([*np.asarray(spacing_mm, float), 1.0])
        notes = ["only spacing_mm was given: the axes are taken to run to the right, to anterior and up (RAS)"]
    else:
        try:
            placed = np.asarray(affine).astype(np.float64, casting="same_kind")
        except (TypeError, ValueError):
            raise ConfigError(
                f"the array: affine must be 4x4 numbers, to RAS+ millimetres; got {repr(affine)[:200]}"
            ) from None
        if placed.shape != (4, 4) or not np.array_equal(placed[3], [0, 0, 0, 1]):
            raise GeometryError(f"the array: affine must be 4x4 with last row 0, 0, 0, 1; got {placed.tolist()}")
        notes = check_affine("the array", placed, "its")
    data = np.asarray(array)
    data = data[np.newaxis] if data.ndim == 3 else data
    i, j, k = data.shape[1:]
    return Stored(data, Geometry((i, j, k), placed), warnings=tuple(notes))


def given_paths(scan: Any) -> list[Path] | None:
    """``scan`` as the paths of its channels; None where it is no path."""
    given = [scan] if isinstance(scan, Path | str) else scan
    if not isinstance(given, list | tuple) or not all(isinstance(path, Path | str) for path in given):
        return None
    if not given:
        raise DataError("no scan was given: the list of paths is empty")
    return [Path(path) for path in given]


def check_beside(paths: Sequence[Path] | None, *, series: str | None, grid: bool) -> None:
    """Raise ConfigError for what says something only of another kind of scan: a ``series``, or the ``grid`` of an array.

    ``paths``: those of ``given_paths``.
    """
    if paths is None and series is not None:
        raise ConfigError(f"series {series!r} chooses one in a DICOM folder; leave it out for a scan that is no path")
    if paths is not None and grid:
        raise ConfigError(
            f"affine and spacing_mm are for numpy arrays; {printable(str(paths[0]))} brings its own grid: leave them out"
        )
