"""Patches for training: foreground-balanced, and a pure function of (seed, step, number in the step)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.core.plan import Plan, Triple
from medseg.data.store import StoredCase


@dataclass(frozen=True, eq=False)
class Batch:
    """``images`` (B, C, I, J, K) float32 and ``references`` (B, I, J, K) channels, both ``extent`` voxels large.

    ``annotated`` (B, channels) is False for the structures that a patch's case does not annotate; None where each case
    of the training annotates all.
    """

    images: npt.NDArray[np.float32]
    references: npt.NDArray[np.uint8 | np.uint16]
    annotated: npt.NDArray[np.bool_] | None = None


def load_batch(stored: Sequence[StoredCase], plan: Plan, step: int, extent: Triple, *, part: int = 0) -> Batch:
    """The batch of ``step``: the same for the same plan and cases, whatever came before.

    A step of several passes or processes has as many ``part``s; together they are the patches of one large batch.
    Cases follow one shuffled round after the other, so that each is seen equally often. A share of
    ``plan.foreground_fraction`` of the patches is centred near a voxel of a structure that the case annotates, each as
    likely as ``plan.sampling`` says, or as the other; the rest lies anywhere, but about a voxel that is not to be ignored.
    Outside the volume the image is 0 and the reference background.
    """
    numbers = range(part * plan.batch_size, (part + 1) * plan.batch_size)
    cases = [stored[_case_at(len(stored), plan, step, n)] for n in numbers]
    items = [_patch(case, plan, step, n, extent) for n, case in zip(numbers, cases, strict=True)]
    annotated = None
    if any(case.annotated is not None for case in stored):  # all of them: every process must take the same way
        annotated = np.array([plan.structure_labels.annotated_channels(case.annotated) for case in cases])
    return Batch(np.stack([image for image, _ in items]), np.stack([reference for _, reference in items]), annotated)


def cases_of(stored: Sequence[StoredCase], plan: Plan, step: int) -> list[str]:
    """The cases whose patches ``step`` sees, each once, in order."""
    numbers = range(plan.patches_per_step)
    return list(dict.fromkeys(stored[_case_at(len(stored), plan, step, n)].id for n in numbers))


def _case_at(count: int, plan: Plan, step: int, item: int) -> int:
    position = step * plan.patches_per_step + item
    turn, place = divmod(position, count)
    return int(np.random.default_rng((plan.seed, 1, turn)).permutation(count)[place])


def _channel(case: StoredCase, present: npt.NDArray[np.int32], plan: Plan, random: np.random.Generator) -> int | None:
    """The channel of ``present`` to centre a patch on: a structure, 0 for any voxel that counts; None for anywhere at all."""
    elsewhere = 0 if 0 in present else None  # locations of channel 0 are there where some voxels are to be ignored
    if random.random() >= plan.foreground_fraction:
        return elsewhere
    structures = present[present > 0]
    if case.annotated is not None:
        structures = structures[np.array(plan.structure_labels.annotated_channels(case.annotated))[structures]]
    weights = np.ones(len(structures))
    if plan.sampling:
        names = plan.structure_labels.names
        weights = np.array([plan.sampling.get(names[channel - 1], 1.0) for channel in structures])
    if not weights.sum() > 0.0:
        return elsewhere
    return int(random.choice(structures, p=weights / weights.sum()) if plan.sampling else random.choice(structures))


def _patch(
    case: StoredCase, plan: Plan, step: int, item: int, extent: Triple
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8 | np.uint16]]:
    random = np.random.default_rng((plan.seed, 2, step, item))
    stored_image, stored_reference, locations = case.image, case.reference, case.locations
    shape = stored_reference.shape
    # Whole volumes that fit stay centred, moved by what the patch leaves free; larger ones are cut anywhere inside.
    free = [size - inner for size, inner in zip(shape, plan.patch_size, strict=True)]
    start = [int(random.integers(min(f, 0), max(f, 0) + 1)) for f in free]
    channel = _channel(case, np.unique(locations[:, 0]), plan, random)
    if channel is not None:
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
