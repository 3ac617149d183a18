"""How two grids of one shape differ, in words a person can act on."""

import numpy as np

from medseg.core.geometry import Geometry, StorageOrder, all_storage_orders, order_to

_SPACING_PART = 1e-3
_DEGREES = 0.05
_MM = 1e-3


def nearest_order(source: Geometry, target: Geometry) -> tuple[StorageOrder, float, float] | None:
    """The storage order of ``source`` that comes nearest to ``target``, by how many voxels a corner then misses.

    The third is what the next order would miss: where it is not clearly more, the grids may be mirrored. None where no order
    has the shape.
    """
    ranked = sorted(
        (
            (target.corner_shift(moved), number)
            for number, order in enumerate(all_storage_orders())
            if (moved := order.geometry(source)).shape == target.shape
        )
    )
    if not ranked:
        return None
    runner_up = ranked[1][0] if len(ranked) > 1 else np.inf
    return all_storage_orders()[ranked[0][1]], ranked[0][0], float(runner_up)


def difference(image: Geometry, label: Geometry) -> str:
    """What tells ``label`` from ``image``: orientation, spacing, angle (degrees) and place (mm) of the nearest storage order.

    >>> near = np.diag([-1.0, 1.0, 1.0, 1.0])
    >>> difference(Geometry((4, 5, 6), np.eye(4)), Geometry((4, 5, 6), near))
    'orientation LAS against RAS (mirrored: a flip of left and right?), its middle lies 3 mm away (-3, 0, 0)'
    """
    parts = []
    if image.orientation != label.orientation:
        turned = np.linalg.det(image.affine[:3, :3]) * np.linalg.det(label.affine[:3, :3]) < 0
        mirrored = f" (mirrored: {_flip(image.orientation, label.orientation)})" if turned else ""
        parts.append(f"orientation {label.orientation} against {image.orientation}{mirrored}")
    moved = order_to(label, image.orientation).geometry(label)
    if moved.shape != image.shape:
        parts.append(f"shape {_by(moved.shape)} against {_by(image.shape)} in the same orientation")
    if not np.allclose(moved.spacing_mm, image.spacing_mm, rtol=_SPACING_PART):
        parts.append(f"spacing {_by(moved.spacing_mm)} against {_by(image.spacing_mm)} mm")
    degrees = _angle(moved, image)
    if degrees > _DEGREES:
        parts.append(f"axes turned by {degrees:.3g} degrees")
    away = _middle(moved) - _middle(image)
    if np.linalg.norm(away) > _MM:
        x, y, z = (f"{round(float(one), 2):g}" for one in away)
        parts.append(f"its middle lies {np.linalg.norm(away):.3g} mm away ({x}, {y}, {z})")
    return ", ".join(parts) or "by rounding only"


def _flip(image: str, label: str) -> str:
    names = {"L": "left and right", "R": "left and right", "A": "front and back", "P": "front and back"}
    changed = [a for a, b in zip(image, label, strict=True) if a != b]
    return f"a flip of {names.get(changed[0], 'head and foot')}?" if len(changed) == 1 else "a flip?"


def _by(numbers: tuple[float, ...]) -> str:
    return " x ".join(f"{n:.4g}" for n in numbers)


def _angle(a: Geometry, b: Geometry) -> float:
    """The largest angle in degrees between equal axes of both."""
    axes = [g.affine[:3, :3] / np.linalg.norm(g.affine[:3, :3], axis=0) for g in (a, b)]
    # The half-angle formula: exact near 0, where the arc cosine is not.
    return float(np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(axes[0] - axes[1], axis=0) / 2, 0, 1)).max()))


def _middle(grid: Geometry) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return grid.to_world((np.array(grid.shape) - 1) / 2)
