"""Phantom CT scans of the abdomen with known organs: the demo's and the tests' data, made without any download.

The anatomy is analytic (ellipsoids, blended and cut, bent without change of volume), so the true volumes are known
and do not depend on the grid. Each case is a pure function of (seed, case).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry, order_to
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.data.phantom_anatomy import AIR_HU, KEPT, Tissue, draw_abdomen, true_volumes_ml
from medseg.data.phantom_shapes import Field, Point, Shape, Warp, share_inside, turned

STRUCTURES = {
    "all": {"background": 0, "liver": 1, "tumour": 2, "spleen": 3, "kidney_left": 4, "kidney_right": 5},
    "liver": {"background": 0, "liver": 1, "tumour": 2},  # as in Task03_Liver of the Decathlon
}
ORIENTATIONS = ("RAS", "LPS", "LAS", "RPI", "PIR", "SAL")  # how the cases are stored on disk
_HU_RANGE = (-1024, 3071)  # what 12 bits hold
_HU_EDGES = np.concatenate([[-np.inf], np.arange(-300, 501, 4), [np.inf]])  # windows tried by the baseline
_PAD_MM = 12.0  # how far bending may carry a shape out of its box


@dataclass(frozen=True, eq=False)
class Phantom:
    """A CT scan (int16 HU), its reference, and the true volume of each labelled structure in millilitres.

    ``true_volumes_ml`` describe the shapes, not the voxels: tumours by formula, the others integrated to 0.2 %.
    """

    volume: Volume
    label_map: LabelMap
    true_volumes_ml: dict[str, float]


def make_phantom(seed: int, *, case: int = 0, structures: str = "all") -> Phantom:
    """The phantom of ``(seed, case)``; ``structures``: a key of STRUCTURES, which changes the labels and nothing else.

    Raises ConfigError if ``structures`` is unknown or ``seed`` or ``case`` is negative.
    """
    labels = labels_of(structures)
    if seed < 0 or case < 0:
        raise ConfigError(f"seed and case of a phantom must be 0 or more, got seed {seed} and case {case}")
    rng = np.random.default_rng([seed, case])
    tissues = draw_abdomen(rng)
    pose = _draw_pose(rng)
    warp = _draw_warp(rng)
    geometry = _draw_grid(
        rng, pose, [t.shape for t in tissues if t.structure in STRUCTURES["all"] and t.structure != "background"]
    )
    hounsfield, values = _painted(tissues, geometry=geometry, pose=pose, warp=warp)
    hounsfield += _texture(rng, geometry) * (hounsfield > -400)
    hounsfield += _noise(rng, geometry)
    stored = order_to(geometry, str(rng.choice(ORIENTATIONS)))
    data = np.clip(np.rint(hounsfield), *_HU_RANGE).astype(np.int16)
    values[~np.isin(values, labels.values)] = 0
    scale_ml = abs(float(np.linalg.det(pose[:3, :3])))
    volumes = {name: ml * scale_ml for name, ml in true_volumes_ml(tissues).items() if name in labels.names}
    return Phantom(
        Volume(np.ascontiguousarray(stored.array(data))[None], stored.geometry(geometry)),
        LabelMap(np.ascontiguousarray(stored.array(values)), stored.geometry(geometry), labels),
        {name: volumes[name] for name in labels.names},
    )


def labels_of(structures: str) -> Labels:
    """The labels of a set of phantom structures. Raises ConfigError if there is no such set."""
    if structures not in STRUCTURES:
        raise ConfigError(f"structures: {structures!r} is none of {', '.join(STRUCTURES)}")
    return Labels.from_mapping(STRUCTURES[structures])


def threshold_baseline(phantoms: Iterable[Phantom]) -> dict[str, float]:
    """For each structure the mean Dice over ``phantoms`` of the best fixed window of HU: what a network has to beat.

    All windows [lo, hi) with edges every 4 HU from -300 to 500, and open ones, are tried; the winner is chosen on the
    same phantoms it is scored on, so no fixed threshold does better. Raises ConfigError if there are no phantoms.
    """
    totals: dict[str, npt.NDArray[np.float64]] = {}
    count = 0
    for phantom in phantoms:
        count += 1
        below = _counts_below(phantom.volume.data[0])
        for structure in phantom.label_map.labels.structures if phantom.label_map.labels else ():
            hits = _counts_below(phantom.volume.data[0][phantom.label_map.data == structure.value])
            # Entry (lo, hi): voxels in the window; hi before lo is an empty window and scores 0.
            overlap = np.clip(hits[None, :] - hits[:, None], 0, None)
            window = np.clip(below[None, :] - below[:, None], 0, None)
            dice = 2.0 * overlap / np.maximum(window + hits[-1], 1)
            totals[structure.name] = totals.get(structure.name, 0.0) + dice
    if not count:
        raise ConfigError("the threshold baseline needs at least one phantom")
    return {name: float(total.max() / count) for name, total in totals.items()}


def _counts_below(hounsfield: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.histogram(hounsfield.astype(np.float32), _HU_EDGES)[0])])


def _draw_pose(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """The affine (4, 4) from the anatomy to the world: a small turn, a body size, a place on the table."""
    pose = np.eye(4)
    turn = rng.uniform(-5, 5, 3)
    pose[:3, :3] = turned((turn[0], turn[1], turn[2])) * rng.uniform(0.93, 1.06)
    pose[:3, 3] = (*rng.uniform(-12, 12, 2), rng.uniform(-400, 400))
    return pose


def _draw_warp(rng: np.random.Generator) -> Warp:
    """Bends by 2 to 5 mm over 120 to 260 mm."""
    waves = 2 * np.pi / rng.uniform(120, 260, (3, 3)) * rng.choice([-1, 1], (3, 3))
    np.fill_diagonal(waves, 0.0)
    a, b, c = rng.uniform(2, 5, 3)
    u, v, w = rng.uniform(0, 2 * np.pi, 3)
    return Warp((float(a), float(b), float(c)), waves, (float(u), float(v), float(w)))


def _draw_grid(rng: np.random.Generator, pose: npt.NDArray[np.float64], organs: list[Shape]) -> Geometry:
    """An oblique, anisotropic grid, stored nearest to RAS, that holds every organ whole and most of the trunk."""
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis) * rng.uniform(3, 14)
    directions = turned((x, y, z))
    pixel, slice_mm = rng.uniform(3.2, 3.8), rng.uniform(4.0, 5.5)
    spacing = np.array([pixel, pixel, slice_mm])
    trunk = np.array([[a, b, 0] for a, b in product((-160, 160), (-112, 112))], float)
    corners = np.concatenate([trunk, *(_corners(shape.low, shape.high) for shape in organs)])
    along = (corners @ pose[:3, :3].T + pose[:3, 3]) @ directions  # millimetres along the axes of the grid
    low, high = along.min(axis=0) - rng.uniform(2, 8, 3), along.max(axis=0) + rng.uniform(2, 8, 3)
    i, j, k = np.ceil((high - low) / spacing).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = directions @ low
    return Geometry((int(i), int(j), int(k)), affine)


def _painted(
    tissues: tuple[Tissue, ...], *, geometry: Geometry, pose: npt.NDArray[np.float64], warp: Warp
) -> tuple[Field, npt.NDArray[np.uint8]]:
    """HU (I, J, K) with partial volume, and label values of the structures whose shape holds the voxel's centre."""
    to_anatomy = np.linalg.inv(pose) @ geometry.affine
    indices = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in geometry.shape), indexing="ij", sparse=True)
    rows = to_anatomy[:3].astype(np.float32)
    x, y, z = warp(*(r[0] * indices[0] + r[1] * indices[1] + r[2] * indices[2] + r[3] for r in rows))
    hounsfield = np.full(geometry.shape, AIR_HU, np.float32)
    values = np.zeros(geometry.shape, np.uint8)
    for tissue in tissues:
        box = _voxel_box(tissue.shape, to_anatomy, geometry.shape)
        if box is None:
            continue
        distance = tissue.shape.distance(x[box], y[box], z[box])
        hounsfield[box] += share_inside(distance) * (np.float32(tissue.hu) - hounsfield[box])
        if tissue.structure != KEPT:
            values[box][distance < 0] = STRUCTURES["all"][tissue.structure]
    return hounsfield, values


def _voxel_box(
    shape: Shape, to_anatomy: npt.NDArray[np.float64], grid: tuple[int, int, int]
) -> tuple[slice, slice, slice] | None:
    """The voxels in which ``shape`` can lie, at least two along each axis; None where it lies off the grid."""
    to_voxel = np.linalg.inv(to_anatomy)
    corners = _corners(shape.low, shape.high) @ to_voxel[:3, :3].T + to_voxel[:3, 3]
    low = np.maximum(np.floor(corners.min(axis=0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)) + 2, grid).astype(int)
    if (high - low < 2).any():
        return None
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _corners(low: Point, high: Point) -> npt.NDArray[np.float64]:
    """The eight corners (8, 3) of a box, with room for the bending."""
    return np.array(list(product(*((a - _PAD_MM, b + _PAD_MM) for a, b in zip(low, high, strict=True)))))


def _texture(rng: np.random.Generator, geometry: Geometry) -> Field:
    """Slow unevenness of the tissues: 12 mm wide, 3 to 6 HU."""
    return _smooth_noise(rng, geometry, width_mm=12.0) * np.float32(rng.uniform(3, 6))


def _noise(rng: np.random.Generator, geometry: Geometry) -> Field:
    """The grain of a CT scan: correlated over about one pixel, standard deviation 10 to 25 HU."""
    return _smooth_noise(rng, geometry, width_mm=2.2) * np.float32(rng.uniform(10, 25))


def _smooth_noise(rng: np.random.Generator, geometry: Geometry, width_mm: float) -> Field:
    """Gaussian noise (I, J, K) of standard deviation 1, smoothed by a Gaussian of ``width_mm``."""
    noise = rng.standard_normal(geometry.shape, dtype=np.float32)
    smooth: Field = gaussian_filter(noise, [width_mm / s for s in geometry.spacing_mm], truncate=3.0, mode="wrap")
    smooth /= smooth.std()
    return smooth
