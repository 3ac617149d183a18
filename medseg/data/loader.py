"""Patches for training: foreground-balanced, and a pure function of (seed, step, number in the step)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.core.plan import Plan, Triple
from medseg.data.store import StoredCase


@dataclass(frozen=True, eq=False)
class Batch:
    """``images`` (B, C, I, J, K) float32 and ``references`` (B, I, J, K) channels, both ``extent`` voxels large."""

    images: npt.NDArray[np.float32]
    references: npt.NDArray[np.uint8 | np.uint16]


def load_batch(stored: Sequence[StoredCase], plan: Plan, step: int, extent: Triple, *, part: int = 0) -> Batch:
    """The batch of ``step``: the same for the same plan and cases, whatever came before.

    A step of several passes or processes has as many ``part``s; together they are the patches of one large batch.
    Cases follow one shuffled round after the other, so that each is seen equally often. A share of
    ``plan.foreground_fraction`` of the patches is centred near a voxel of a structure of the case, each structure
    as likely as the other; the rest lies anywhere. Outside the volume the image is 0 and the reference background.
    """
    numbers = range(part * plan.batch_size, (part + 1) * plan.batch_size)
    items = [_patch(stored[_case_at(len(stored), plan, step, n)], plan, step, n, extent) for n in numbers]
    return Batch(np.stack([image for image, _ in items]), np.stack([reference for _, reference in items]))


def cases_of(stored: Sequence[StoredCase], plan: Plan, step: int) -> list[str]:
    """The cases whose patches ``step`` sees, each once, in order."""
    numbers = range(plan.patches_per_step)
    return list(dict.fromkeys(stored[_case_at(len(stored), plan, step, n)].id for n in numbers))


def _case_at(count: int, plan: Plan, step: int, item: int) -> int:
    position = step * plan.patches_per_step + item
    turn, place = divmod(position, count)
    return int(np.random.default_rng((plan.seed, 1, turn)).permutation(count)[place])


def _patch(
    case: StoredCase, plan: Plan, step: int, item: int, extent: Triple
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8 | np.uint16]]:
    random = np.random.default_rng((plan.seed, 2, step, item))
    stored_image, stored_reference, locations = case.image, case.reference, case.locations
    shape = stored_reference.shape
    # Whole volumes that fit stay centred, moved by what the patch leaves free; larger ones are cut anywhere inside.
    free = [size - inner for size, inner in zip(shape, plan.patch_size, strict=True)]
    start = [int(random.integers(min(f, 0), max(f, 0) + 1)) for f in free]
    if random.random() < plan.foreground_fraction and len(locations):
        channel = random.choice(np.unique(locations[:, 0]))
        rows = np.flatnonzero(locations[:, 0] == channel)
        centre = locations[random.choice(rows), 1:]
        start = [
            int(np.clip(c - inner // 2, min(f, 0), max(f, 0)))
            for c, inner, f in zip(centre, plan.patch_size, free, strict=True)
        ]
    first = [s - (outer - inner) // 2 for s, outer, inner in zip(start, extent, plan.patch_size, strict=True)]
    image = np.zeros((stored_image.shape[0], *extent), np.float32)
    reference = np.zeros(extent, stored_reference.dtype)
    inside = tuple(slice(max(f, 0), min(f + e, n)) for f, e, n in zip(first, extent, shape, strict=True))
    to = tuple(slice(s.start - f, s.stop - f) for s, f in zip(inside, first, strict=True))
    if all(s.stop > s.start for s in inside):
        image[(slice(None), *to)] = stored_image[(slice(None), *inside)]
        reference[to] = stored_reference[inside]
    return image, reference
