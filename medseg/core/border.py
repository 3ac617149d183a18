"""Which structures touch the border of a scan, so that a volume cut off there is never taken for a whole one."""

import numpy as np

from medseg.core.volume import LabelMap

_SIDES = {
    **{"R": "right", "L": "left"},
    **{"A": "anterior", "P": "posterior"},
    **{"S": "superior", "I": "inferior"},
}
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def touched_sides(label_map: LabelMap) -> dict[int, tuple[str, ...]]:
    """For each value but 0 that lies on a face of the grid, the sides of the patient on which it does.

    A side is the world direction nearest to the face's outward axis: right, left, anterior, posterior, superior, inferior.
    An axis with a single voxel has no faces: a 2D picture or one slice is cut everywhere along it.
    """
    touched: dict[int, list[str]] = {}
    for axis, letter in enumerate(label_map.geometry.orientation):
        if label_map.data.shape[axis] == 1:
            continue
        faces = np.moveaxis(
            label_map.data, axis, 0
        )  # a view: np.take copies the whole array where it is not contiguous
        for end, side in ((0, _OPPOSITE[letter]), (-1, letter)):
            for value in np.unique(faces[end]).tolist():
                if value:
                    touched.setdefault(int(value), []).append(_SIDES[side])
    return {value: tuple(sides) for value, sides in touched.items()}
