"""Patches as training loads and augments them, to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.data.augment import augment, extent_for
from medseg.data.loader import cases_of, load_batch
from medseg.data.store import StoredCase

Images = npt.NDArray[np.float32]
Channels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Example:
    """A patch of ``case`` before and after augmentation: image (C, I, J, K) and contiguous channels (I, J, K) of each."""

    case: str
    before: tuple[Images, Channels]
    after: tuple[Images, Channels]


def examples(stored: Sequence[StoredCase], plan: Plan, count: int) -> list[Example]:
    """The first ``count`` patches of a training on ``stored`` with batches of one, by the loader and augmentation of training."""
    single = plan.model_copy(update={"batch_size": 1, "accumulate": 1, "processes": 1})
    untouched = single.model_copy(update={"augmentation": (), "mirror_axes": ()})
    swaps = Labels.from_mapping(plan.labels).mirror_swaps
    found = []
    for step in range(count):
        batch = load_batch(stored, single, step, extent_for(single))
        images, references = torch.from_numpy(batch.images), torch.from_numpy(batch.references)
        (case,) = cases_of(stored, single, step)
        before, after = (
            tuple(tensor[0].numpy() for tensor in augment(images.clone(), references.clone(), as_planned, step, swaps))
            for as_planned in (untouched, single)
        )
        found.append(Example(case, (before[0], before[1]), (after[0], after[1])))
    return found
