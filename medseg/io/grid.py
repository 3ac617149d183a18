"""What every reader asks of a grid before it believes it: spacings and axes that can be those of a scan."""

import numpy as np
import numpy.typing as npt

from medseg.core.errors import GeometryError
from medseg.core.geometry import Affine

SMALLEST_MM, LARGEST_MM = 0.005, 200.0  # a scan in metres or micrometres read as millimetres falls outside
FARTHEST_MM = 1e7  # no scanner's room is larger than 10 km; nothing overflows below
SHEAR_TOLERANCE = 5e-3  # radians from a right angle (0.3 degrees): rounding of direction cosines, not a gantry tilt


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


def check_affine(name: str, affine: Affine, field: str) -> None:
    """Raise GeometryError unless ``affine`` (4, 4) is finite, spans a volume and has axes at right angles.

    A shear is refused rather than kept: distances in millimetres along the axes would be wrong downstream.
    """
    if not np.isfinite(affine).all():
        raise GeometryError(f"{name}: {field} affine must be finite, got NaN or inf")
    if np.abs(affine).max() > FARTHEST_MM:
        raise GeometryError(f"{name}: {field} affine places voxels beyond {FARTHEST_MM:g} mm; the header is damaged")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() < 1e-12 or abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise GeometryError(f"{name}: {field} affine is singular (determinant 0): its axes span no volume")
    check_spacing(name, lengths, field)
    axes = affine[:3, :3] / lengths
    for first, second in ((0, 1), (0, 2), (1, 2)):
        cosine = float(axes[:, first] @ axes[:, second])
        if abs(cosine) > SHEAR_TOLERANCE:
            degrees = np.degrees(np.arccos(cosine))
            raise GeometryError(
                f"{name}: {field} affine holds a shear: axes {'ijk'[first]} and {'ijk'[second]} meet at {degrees:.1f} "
                "degrees, not orthogonal (90); resample the scan onto an orthogonal grid first"
            )
