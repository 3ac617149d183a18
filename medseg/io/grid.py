"""What every reader asks of a grid before it believes it: spacings and axes that can be those of a scan."""

import numpy as np
import numpy.typing as npt

from medseg.core.errors import GeometryError
from medseg.core.geometry import SHEAR_TOLERANCE, Affine, Geometry

SMALLEST_MM, LARGEST_MM = 0.005, 200.0  # a scan in metres or micrometres read as millimetres falls outside
FARTHEST_MM = 1e7  # no scanner's room is larger than 10 km; nothing overflows below
MOST_SHEAR_DEGREES = 45.0  # no gantry tilts beyond 30 degrees


def check_spacing(name: str, spacing_mm: npt.ArrayLike, field: str) -> None:
    """Raise GeometryError unless three spacings are finite, positive and of a scan's size; ``field`` names their source."""
    spacing = np.asarray(spacing_mm, float)
    got = ", ".join(f"{s:.6g}" for s in spacing)
    if not np.isfinite(spacing).all():
        raise GeometryError(f"{name}: spacing must be finite, got ({got}) mm in {field}")
    if spacing.min() <= 0:
        raise GeometryError(f"{name}: spacing must be positive, got ({got}) mm in {field}")
    if spacing.min() < SMALLEST_MM or spacing.max() > LARGEST_MM:
        raise GeometryError(
            f"{name}: spacing ({got}) mm in {field} is outside {SMALLEST_MM:g} to {LARGEST_MM:g} mm; "
            "the unit is probably not millimetres: convert the file"
        )


def check_affine(name: str, affine: Affine, field: str) -> list[str]:
    """Raise GeometryError unless ``affine`` (4, 4) is finite and spans a volume; a note where its axes are sheared.

    A shear as of a tilted gantry is kept: whoever needs right angles resamples by the full affine.
    """
    if not np.isfinite(affine).all():
        raise GeometryError(f"{name}: {field} affine must be finite, got NaN or inf")
    if np.abs(affine).max() > FARTHEST_MM:
        raise GeometryError(f"{name}: {field} affine places voxels beyond {FARTHEST_MM:g} mm; the header is damaged")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-12 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise GeometryError(f"{name}: {field} affine is singular (determinant 0): its axes span no volume")
    check_spacing(name, lengths, field)
    degrees = Geometry((1, 1, 1), affine).shear_degrees
    if degrees > MOST_SHEAR_DEGREES:
        raise GeometryError(
            f"{name}: {field} affine holds a shear: its axes miss right angles by {degrees:.1f} degrees (orthogonal: 0; a "
            f"gantry tilt: at most 30); the header is damaged, or resample the scan onto an orthogonal grid first"
        )
    return shear_note(degrees)


def shear_note(degrees: float) -> list[str]:
    """What to say of voxel axes that miss right angles by so much: nothing within rounding."""
    if degrees <= np.degrees(SHEAR_TOLERANCE):
        return []
    return [
        f"the voxel axes are sheared by {degrees:.1f} degrees (gantry tilt): the sheared affine is kept, the network sees "
        "the scan resampled to right angles, and results are mapped back"
    ]
