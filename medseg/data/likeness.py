"""Which images show one and the same scan: by fingerprints of their voxels that outlive cropping, shifting and resampling."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Hashes = npt.NDArray[np.uint64]
SKETCH_SIZE = 2048  # hashes kept of an image
SHARED_HASHES = 64  # chance gives one or two between noisy 8-bit pictures, equal bodies without noise some tens
SHARED_PART = 0.1  # of the smaller image's hashes
DETAIL_CELLS = 16  # along each axis
SAME_DETAIL = (
    0.9  # correlation; 208 hippocampi of different sides and persons stay below 0.63, resampled copies above 0.97
)
_QUICK = np.uint32(0x9E3779B1)
_SLAB_VOXELS = 2**21
_NEIGHBOURS = [offset for offset in product((-1, 0, 1), repeat=3) if any(offset)]
_COMMON = 5  # images that share a hash beyond this number share a pattern (padding), not a scan


@dataclass(frozen=True, eq=False)
class Look:
    """``sketch`` (n,) sorted hashes of neighbourhoods, ``detail`` (cells**3,) the coarse image without its smooth part."""

    sketch: Hashes
    detail: npt.NDArray[np.float16]


@dataclass(frozen=True)
class Likeness:
    """Images ``first`` and ``second`` (their places in the sequence) share ``part`` of the smaller one; ``how`` says so."""

    first: int
    second: int
    part: float
    how: str


def look_of(image: npt.NDArray[Any]) -> Look:
    """The look of ``image`` (I, J, K), in any storage order the same sketch."""
    return Look(_sketch(image), _detail(image))


def alike(looks: Sequence[Look]) -> list[Likeness]:
    """The pairs that show one scan: they share voxels (cropped, shifted, re-saved), or their detail (resampled)."""
    found = {(a, b): Likeness(a, b, part, "voxels") for a, b, part in _sharing(looks)}
    found |= {(a, b): Likeness(a, b, part, "detail") for a, b, part in _resembling(looks) if (a, b) not in found}
    return [found[pair] for pair in sorted(found)]


def groups(pairs: Sequence[Likeness]) -> list[tuple[list[int], list[Likeness]]]:
    """Images that are alike directly or through others, each group with the pairs that make it."""
    root: dict[int, int] = {}

    def top(n: int) -> int:
        while root.setdefault(n, n) != n:
            n = root[n]
        return n

    for pair in pairs:
        root[max(top(pair.first), top(pair.second))] = min(top(pair.first), top(pair.second))
    found: dict[int, list[int]] = {}
    for n in sorted(root):
        found.setdefault(top(n), []).append(n)
    return [(members, [p for p in pairs if top(p.first) == first]) for first, members in found.items()]


def _sketch(image: npt.NDArray[Any]) -> Hashes:
    """The smallest hashes of 3 x 3 x 3 neighbourhoods, as differences to their centre: a bottom-k MinHash sketch.

    The same for any crop, offset in the world, added constant, flip and order of axes, so that the overlap of two sketches
    estimates that of two images (Broder 1997, doi:10.1109/SEQUEN.1997.666900).
    """
    step = max(1, _SLAB_VOXELS // (image.shape[0] * image.shape[1]))
    kept: Hashes = np.empty(0, np.uint64)
    for start in range(0, image.shape[2], step):
        slab = image[:, :, max(0, start - 1) : start + step + 1]
        if slab.shape[2] < min(3, image.shape[2]):
            continue  # an outer slice alone: no neighbourhood is centred in it
        kept = np.unique(np.concatenate([kept, _hashes(np.ascontiguousarray(slab, np.float32))]))[:SKETCH_SIZE]
    return kept


def _hashes(image: npt.NDArray[np.float32]) -> Hashes:
    """Hashes of one in sixteen neighbourhoods, chosen by what they hold; flat ones say nothing and are left out."""
    thick = tuple(n >= 3 for n in image.shape)
    if sum(thick) < 2:
        return np.empty(0, np.uint64)

    def moved(offset: tuple[int, ...]) -> npt.NDArray[np.float32]:
        parts = zip(offset, image.shape, thick, strict=True)
        return image[tuple(slice(1 + o, n - 1 + o) if wide else slice(None) for o, n, wide in parts)]

    centre = moved((0, 0, 0))
    last = max(axis for axis in range(3) if thick[axis])
    before, after = (moved(tuple(side * (axis == last) for axis in range(3))) - centre for side in (-1, 1))
    pair = _quickly_mixed(before) + _quickly_mixed(after)
    chosen = np.nonzero(((pair * _QUICK) >> np.uint32(28) == 0) & (before != 0))
    middle = centre[chosen]
    found, steps = np.zeros(len(middle), np.uint64), np.zeros(len(middle), np.uint8)
    for rank in (1, 2, 3):
        around = np.zeros(len(middle), np.uint64)
        for offset in _NEIGHBOURS:
            if sum(map(abs, offset)) == rank and all(wide or not o for o, wide in zip(offset, thick, strict=True)):
                difference = moved(offset)[chosen] - middle
                around += _stirred(difference.view(np.uint32).astype(np.uint64))
                steps += (difference != 0) & (rank == 1)
        found ^= _stirred(around + np.uint64(rank))
    kept: Hashes = found[steps >= 2 * sum(thick) - 2]
    return kept


def _quickly_mixed(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    mixed = values.view(np.uint32) * _QUICK
    mixed ^= mixed >> np.uint32(15)
    return mixed


def _stirred(bits: Hashes) -> Hashes:
    """Every bit spread over all others (the finaliser of SplitMix64, doi:10.1145/2660193.2660195)."""
    mixed = bits * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    return mixed


def _sharing(looks: Sequence[Look]) -> Iterator[tuple[int, int, float]]:
    hashes = np.concatenate([np.empty(0, np.uint64), *(look.sketch for look in looks)])
    owners = np.repeat(np.arange(len(looks)), [len(look.sketch) for look in looks])
    order = np.argsort(hashes, kind="stable")
    owners = owners[order]
    _, starts, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    pairs: Counter[tuple[int, int]] = Counter()
    several = (counts > 1) & (counts <= max(_COMMON, len(looks) // 10))
    for start, count in zip(starts[several], counts[several], strict=True):
        pairs.update(combinations(owners[start : start + count].tolist(), 2))
    for (a, b), shared in pairs.items():
        part = shared / max(1, _comparable(looks[a].sketch, looks[b].sketch))
        if shared >= SHARED_HASHES and part >= SHARED_PART:
            yield a, b, min(1.0, part)


def _comparable(a: Hashes, b: Hashes) -> int:
    """How many hashes of the smaller image the larger one's sketch would hold if it held that image whole."""
    last = min(s[-1] if len(s) == SKETCH_SIZE else np.iinfo(np.uint64).max for s in (a, b))
    return min(int(np.searchsorted(s, last, side="right")) for s in (a, b))


def _detail(image: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """The means of cells over the whole image, less their smooth part, of length 1; zeros where nothing is left."""
    cells = image
    for axis in (2, 1, 0):
        cells = _means(cells, axis, DETAIL_CELLS if image.shape[axis] > 1 else 1)
    detail = cells - ndimage.gaussian_filter(cells, 1.0, mode="nearest")
    length = float(np.linalg.norm(detail))
    if length <= 1e-5 * float(np.linalg.norm(cells)) or min(image.shape[:2]) < DETAIL_CELLS:
        return np.zeros(cells.size, np.float16)
    found: npt.NDArray[np.float16] = (detail / length).astype(np.float16).ravel()
    return found


def _means(values: npt.NDArray[Any], axis: int, cells: int) -> npt.NDArray[np.float32]:
    """``values`` averaged over ``cells`` equal parts of ``axis``, whose borders may cut voxels."""
    moved = np.moveaxis(values, axis, 0)
    edges = np.linspace(0, len(moved), cells + 1)
    found = []
    for low, high in pairwise(edges):
        inside = np.arange(int(low), min(len(moved), int(np.ceil(high))))
        weights = np.minimum(inside + 1, high) - np.maximum(inside, low)
        part = np.asarray(moved[inside[0] : inside[-1] + 1], np.float32)
        found.append(np.tensordot((weights / weights.sum()).astype(np.float32), part, 1))
    return np.moveaxis(np.stack(found), 0, axis)


def _resembling(looks: Sequence[Look]) -> Iterator[tuple[int, int, float]]:
    sizes = {len(look.detail) for look in looks}
    for size in sizes:
        members = [n for n, look in enumerate(looks) if len(look.detail) == size and look.detail.any()]
        details = np.array([looks[n].detail for n in members], np.float32).reshape(len(members), size)
        for n in range(len(members)):  # a row at a time: memory stays flat
            for m in np.flatnonzero(details[n + 1 :] @ details[n] > SAME_DETAIL):
                other = n + 1 + int(m)
                yield members[n], members[other], float(min(1.0, details[n] @ details[other]))
