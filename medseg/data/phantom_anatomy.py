"""The abdomen of a phantom: which tissue lies where, and how bright it is, drawn at random within natural limits.

Millimetres from the middle of the trunk in RAS directions, before the pose and the bending of the single case.
Later tissues lie over earlier ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.data.phantom_shapes import (
    Field,
    Point,
    Shape,
    above,
    blend,
    column,
    ellipsoid,
    ellipsoid_ml,
    grown,
    hoops,
    integrated_ml,
    turned,
    within,
    without,
)

AIR_HU = -1000.0
KEPT = "kept"  # a tissue that does not change what a voxel belongs to, such as a vessel of the liver


@dataclass(frozen=True)
class Tissue:
    """What ``shape`` is filled with: ``hu``, and the ``structure`` it belongs to (``background``, or ``KEPT``)."""

    shape: Shape
    hu: float
    structure: str = "background"
    volume_ml: float | None = None  # where a formula gives it


@dataclass(frozen=True)
class _Contrast:
    """HU of the tissues for one injection of contrast medium."""

    liver: float
    tumour: float
    spleen: float
    kidney: float
    vessel: float
    muscle: float
    stomach: float
    fat: float


class _Draw:
    """Random numbers in the words of the anatomy."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def near(self, value: float, by: float) -> float:
        return float(self.rng.uniform(value - by, value + by))

    def point(self, value: Point, by: float) -> Point:
        return self.near(value[0], by), self.near(value[1], by), self.near(value[2], by)

    def size(self, value: Point, share: float) -> Point:
        x, y, z = (v * self.near(1.0, share) for v in value)
        return x, y, z


def draw_abdomen(rng: np.random.Generator) -> tuple[Tissue, ...]:
    """All tissues of one phantom, painted in this order: trunk, bones, bowel, organs, tumours."""
    draw = _Draw(rng)
    contrast = _draw_contrast(draw)
    fat_rim, wall = draw.near(15.0, 6.0), draw.near(17.0, 3.0)
    body = (draw.near(160.0, 8.0), draw.near(112.0, 6.0))
    muscle = (body[0] - fat_rim, body[1] - 0.8 * fat_rim)
    cavity = column((0.0, 6.0), (muscle[0] - wall, muscle[1] - wall - 6.0))
    liver_lobe = blend(
        ellipsoid(
            draw.point((60.0, 2.0, 14.0), 5.0), draw.size((66.0, 72.0, 66.0), 0.08), draw.point((0.0, -12.0, 0.0), 8.0)
        ),
        ellipsoid(
            draw.point((92.0, -2.0, -28.0), 5.0), draw.size((36.0, 52.0, 58.0), 0.1), draw.point((0.0, 8.0, 0.0), 8.0)
        ),
        25.0,
    )  # the right lobe and its lower tip at the flank
    trunk = [
        Tissue(column((0.0, 0.0), body), contrast.muscle),  # skin
        Tissue(column((0.0, 0.0), (body[0] - 2.5, body[1] - 2.5)), contrast.fat),
        Tissue(column((0.0, 0.0), muscle), contrast.muscle),
        Tissue(cavity, contrast.fat),
    ]
    return (
        *trunk,
        *_lungs(draw, contrast, cavity, liver_lobe),
        *_bones(draw, contrast, (muscle[0] - 0.55 * wall, muscle[1] - 0.55 * wall)),
        *_bowel(draw, contrast, cavity),
        *_organs(draw, contrast, cavity, liver_lobe),
    )


def true_volumes_ml(tissues: tuple[Tissue, ...]) -> dict[str, float]:
    """Volume of each structure in millilitres, less what lies over it: by formula where there is one, else integrated."""
    volumes: dict[str, float] = {}
    for n, tissue in enumerate(tissues):
        if tissue.structure in ("background", KEPT):
            continue
        over = [t for t in tissues[n + 1 :] if t.structure != KEPT]
        if tissue.volume_ml is not None:
            volume = tissue.volume_ml
        else:
            # What has a formula (a tumour) lies wholly inside one structure and is subtracted exactly.
            inside = sum(t.volume_ml for t in over if t.volume_ml is not None and _holds(tissue.shape, t.shape))
            volume = integrated_ml(without(tissue.shape, *(t.shape for t in over if t.volume_ml is None))) - inside
        volumes[tissue.structure] = volumes.get(tissue.structure, 0.0) + volume
    return volumes


def _draw_contrast(draw: _Draw) -> _Contrast:
    phase = draw.near(0.5, 0.5)  # 0: without contrast medium, 1: portal venous
    liver = 66.0 + 30.0 * phase + draw.near(0.0, 5.0)
    return _Contrast(
        liver=liver,
        tumour=liver - draw.near(54.0, 9.0),
        spleen=liver + draw.near(0.0, 9.0),
        kidney=42.0 + 120.0 * phase + draw.near(0.0, 10.0),
        vessel=46.0 + 110.0 * phase,
        muscle=liver - draw.near(14.0, 10.0),
        stomach=liver - draw.near(16.0, 14.0),
        fat=draw.near(-102.0, 8.0),
    )


def _lungs(draw: _Draw, contrast: _Contrast, cavity: Shape, liver_lobe: Shape) -> Iterator[Tissue]:
    left_dome = ellipsoid(draw.point((-62.0, -8.0, 14.0), 4.0), (70.0, 78.0, 66.0))
    middle = blend(
        ellipsoid((0.0, 30.0, 28.0), (78.0, 62.0, 56.0)), column((0.0, -30.0), (42.0, 46.0)), 20.0
    )  # left lobe of the liver; spine, great vessels
    lungs = without(within(cavity, above(draw.near(18.0, 8.0))), grown(liver_lobe, 4.0), left_dome, middle)
    yield Tissue(within(grown(lungs, 3.5), cavity), contrast.muscle)  # diaphragm and pleura
    yield Tissue(lungs, draw.near(-840.0, 30.0))
    yield Tissue(
        ellipsoid(draw.point((-22.0, 32.0, 116.0), 5.0), (62.0, 46.0, 42.0), (0.0, -20.0, 0.0)), contrast.vessel
    )


def _bones(draw: _Draw, contrast: _Contrast, wall: tuple[float, float]) -> Iterator[Tissue]:
    for side in (-1.0, 1.0):
        yield Tissue(column((side * 33.0, -76.0), (31.0, 20.0)), contrast.muscle)  # beside the spine
        yield Tissue(
            column((side * draw.near(37.0, 2.0), -42.0), (17.0, 20.0), (-300.0, -15.0)), contrast.muscle
        )  # psoas
    ribs = hoops(
        (0.0, 0.0),
        wall,
        thickness=draw.near(5.5, 0.7),
        pitch=draw.near(31.0, 3.0),
        slope=draw.near(0.42, 0.06),
        lowest=-40.0,
    )
    yield Tissue(without(ribs, column((0.0, 75.0), (62.0, 70.0))), draw.near(330.0, 60.0))
    spongy, hard = draw.near(190.0, 35.0), draw.near(420.0, 60.0)
    height, offset = draw.near(35.0, 3.0), draw.near(0.0, 15.0)
    yield Tissue(column((0.0, -45.0), (22.0, 17.0)), contrast.muscle + 25.0)  # discs
    for n in range(-6, 7):
        z = offset + n * height
        ends = (z - 0.4 * height, z + 0.4 * height)
        yield Tissue(column((0.0, -45.0), (23.5, 18.0), ends), hard)
        yield Tissue(column((0.0, -45.0), (20.5, 15.0), (ends[0] + 2.5, ends[1] - 2.5)), spongy)
        yield Tissue(ellipsoid((0.0, -68.0, z), (36.0, 5.5, 8.0)), hard)  # transverse processes
        yield Tissue(ellipsoid((0.0, -84.0, z - 8.0), (4.5, 17.0, 12.0), (-20.0, 0.0, 0.0)), hard)  # spinous process
    yield Tissue(column((0.0, -69.0), (13.5, 11.5)), hard)
    yield Tissue(column((0.0, -69.0), (10.5, 8.5)), 30.0)  # spinal canal
    yield Tissue(column((draw.near(-11.0, 3.0), -15.0), (10.5, 10.5)), contrast.vessel)  # aorta
    yield Tissue(column((draw.near(20.0, 3.0), -16.0), (13.0, 9.5)), contrast.vessel - 12.0)  # inferior vena cava


def _bowel(draw: _Draw, contrast: _Contrast, cavity: Shape) -> Iterator[Tissue]:
    for _ in range(9):
        centre = (draw.near(-5.0, 95.0), draw.near(32.0, 30.0), draw.near(-88.0, 34.0))
        radii = draw.size((24.0, 20.0, 20.0), 0.25)
        loop = within(ellipsoid(centre, radii, draw.point((0.0, 0.0, 0.0), 40.0)), cavity)
        yield Tissue(grown(loop, 2.5), contrast.muscle + 10.0)
        yield Tissue(loop, contrast.tumour + draw.near(4.0, 18.0))
        if draw.near(0.5, 0.5) < 0.45:  # gas rises to the front of a patient on the back
            gas = ellipsoid((centre[0], centre[1] + 0.7 * radii[1], centre[2]), radii)
            yield Tissue(within(gas, loop), draw.near(-850.0, 60.0))


def _organs(draw: _Draw, contrast: _Contrast, cavity: Shape, liver_lobe: Shape) -> Iterator[Tissue]:
    yield Tissue(
        ellipsoid(draw.point((-12.0, 8.0, -12.0), 4.0), (62.0, 13.0, 15.0), (0.0, 18.0, -8.0)), contrast.stomach + 8
    )
    stomach = within(
        ellipsoid(
            draw.point((-50.0, 26.0, 24.0), 6.0), draw.size((42.0, 38.0, 50.0), 0.1), draw.point((0.0, 25.0, 0.0), 10.0)
        ),
        cavity,
    )
    yield Tissue(stomach, contrast.liver - draw.near(2.0, 4.0))  # wall
    yield Tissue(grown(stomach, -4.0), contrast.stomach)
    gas = ellipsoid(draw.point((-48.0, 70.0, 30.0), 5.0), draw.size((40.0, 20.0, 32.0), 0.2))
    yield Tissue(within(gas, grown(stomach, -4.0)), draw.near(-900.0, 40.0))
    spleen = ellipsoid(
        draw.point((-94.0, -26.0, 28.0), 4.0),
        draw.size((28.0, 46.0, 50.0), 0.12),
        draw.point((-15.0, -8.0, -22.0), 8.0),
    )
    yield Tissue(within(spleen, cavity), contrast.spleen, "spleen")

    left_lobe = ellipsoid(
        draw.point((2.0, 42.0, 26.0), 5.0), draw.size((72.0, 27.0, 42.0), 0.1), draw.point((0.0, 14.0, 8.0), 6.0)
    )
    liver = within(blend(liver_lobe, left_lobe, 24.0), cavity)
    yield Tissue(liver, contrast.liver, "liver")
    for turn in ((0.0, -35.0, -20.0), (30.0, 25.0, 30.0), (60.0, -10.0, -50.0)):
        branch = ellipsoid(draw.point((50.0, 8.0, 12.0), 8.0), (42.0, 4.5, 4.5), draw.point(turn, 15.0))
        yield Tissue(within(branch, liver), contrast.liver + 0.35 * (contrast.vessel - contrast.liver), KEPT)
    gallbladder = ellipsoid(draw.point((36.0, 44.0, -30.0), 5.0), draw.size((14.0, 19.0, 26.0), 0.15), (25.0, 0.0, 0.0))
    yield Tissue(gallbladder, draw.near(12.0, 6.0))
    kidneys = [_kidney(draw, contrast, side) for side in ("right", "left")]
    for kidney in kidneys:
        yield from kidney
    free = without(liver, gallbladder, *(tissues[0].shape for tissues in kidneys))
    for radii, shape in _tumours(draw, free):
        yield Tissue(shape, contrast.tumour + draw.near(0.0, 4.0), "tumour", ellipsoid_ml(radii))


def _kidney(draw: _Draw, contrast: _Contrast, side: str) -> list[Tissue]:
    sign = 1.0 if side == "right" else -1.0
    x, y, z = draw.point((sign * 63.0, -36.0, -36.0 if side == "right" else -28.0), 5.0)
    radii, turn = draw.size((27.0, 26.0, 54.0), 0.1), (draw.near(-10.0, 5.0), sign * draw.near(-8.0, 4.0), sign * -25.0)
    inner = (0.55 * radii[0], 0.5 * radii[1], 0.62 * radii[2])
    sinus = ellipsoid(
        (x - sign * 0.65 * radii[0], y + 8.0, z), (0.62 * radii[0], 0.3 * radii[1], 0.36 * radii[2]), turn
    )
    return [
        Tissue(ellipsoid((x, y, z), radii, turn), contrast.kidney, f"kidney_{side}"),
        Tissue(ellipsoid((x, y, z), inner, turn), contrast.kidney - 0.2 * abs(contrast.kidney), KEPT),  # medulla
        Tissue(sinus, contrast.fat + 30.0),
    ]


def _tumours(draw: _Draw, free: Shape) -> Iterator[tuple[Point, Shape]]:
    """One to four ellipsoids of 8 to 25 mm wholly inside ``free``, 3 mm clear of its surface and of each other.

    One that finds no place is made smaller; below 8 mm it is given up, unless it is the only one.
    """
    sphere = _sphere_points(200)
    taken: list[tuple[Shape, list[Field]]] = []
    for n in range(int(draw.rng.integers(1, 5))):
        radius = draw.near(18.5, 4.0) if n == 0 else draw.near(13.0, 4.0)
        for tries in range(10_000):
            shrunk = radius * 0.9 ** (tries // 40)
            if shrunk < 8.0 and taken:
                break
            x, y, z = (float(np.clip(r, 8.0, 25.0)) for r in draw.size((shrunk, shrunk, shrunk), 0.15))
            turn = draw.point((0.0, 0.0, 0.0), 90.0)
            centre = (draw.near(55.0, 75.0), draw.near(10.0, 60.0), draw.near(5.0, 75.0))
            shape = ellipsoid(centre, (x, y, z), turn)
            around = (sphere * (np.array((x, y, z)) + 3.0)) @ turned(turn).T + np.array(centre)
            surface = [axis.astype(np.float32) for axis in around.T]
            if free.distance(*surface).max() < 0 and all(
                other.distance(*surface).min() > 0 and shape.distance(*its_surface).min() > 0
                for other, its_surface in taken
            ):
                taken.append((shape, surface))
                yield (x, y, z), shape
                break


def _sphere_points(number: int) -> npt.NDArray[np.float64]:
    """``number`` points (N, 3) spread evenly over the unit sphere (the golden spiral)."""
    n = np.arange(number) + 0.5
    height, angle = 1.0 - 2.0 * n / number, np.pi * (1.0 + 5.0**0.5) * n
    ring = np.sqrt(1.0 - height**2)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)


def _holds(shape: Shape, other: Shape) -> bool:
    """True where the middle of ``other`` lies in ``shape``."""
    x, y, z = ((np.array(other.low) + np.array(other.high)) / 2).astype(np.float32)[:, None]
    return bool(shape.distance(x, y, z)[0] < 0)
