"""What a network says of its own label map: the Dice that its probabilities let expect, summed while slabs pass."""

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from medseg.core.labels import Labels
from medseg.inference.ensemble import Outputs

_BLOCK_VALUES = 2**20  # of all outputs together that are looked at at once


class ExpectedDice:
    """Sums over the voxels of one scan's slabs, from which each structure's soft Dice comes; nothing else is held.

    With the probability p of a structure and the mask in which it is the most probable: 2 * (sum of p in the mask) / (voxels of
    the mask + sum of p everywhere), the Soft Dice Confidence (Borges and others, doi:10.48550/arXiv.2402.10665), which is
    nearly the expected Dice where p is right and voxels are independent. Networks are mostly too sure of themselves, so
    that it means little before it is calibrated (Mehrtash and others, doi:10.1109/TMI.2020.3006437): see ``predicted``.
    """

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._voxels, self._inside, self._everywhere = np.zeros((3, labels.channels))

    def of(self, volumes_ml: Mapping[str, float]) -> dict[str, float]:
        """Each structure's, 0 to 1; NaN where the label map that the slabs led to has none of it."""
        return {
            name: float(2 * self._inside[c] / (self._voxels[c] + self._everywhere[c]))
            if volumes_ml[name] and self._voxels[c]
            else math.nan
            for c, name in enumerate(self._labels.names, 1)
        }

    def watched(self, slabs: Iterable[Tensor], outputs: Outputs) -> Iterator[Tensor]:
        """The ``slabs`` (K, n, A, B) of logits or probabilities, unchanged."""
        for slab in slabs:
            self.add(slab, outputs)
            yield slab

    def add(self, values: Tensor, outputs: Outputs) -> None:
        """Logits or probabilities (K, n, A, B) of voxels that were not added before, a few at a time."""
        planes = max(1, _BLOCK_VALUES // values[:, 0].numel())
        rows = max(1, _BLOCK_VALUES // (len(values) * planes * values.shape[3]))
        for part in torch.split(values, planes, dim=1):
            for block in torch.split(part, rows, dim=2):
                self._add(block.float(), outputs)

    def _add(self, values: Tensor, outputs: Outputs) -> None:
        if self._labels.regions:
            self._add_regions(torch.sigmoid(values) if outputs == "logits" else values)
            return
        shares = torch.softmax(values, dim=0) if outputs == "logits" else values
        top, winner = shares.max(dim=0)
        flat = winner.flatten()
        self._voxels += torch.bincount(flat, minlength=len(shares)).numpy()
        self._inside += torch.bincount(flat, weights=top.flatten().double(), minlength=len(shares)).numpy()
        self._everywhere += shares.sum(dim=(1, 2, 3)).numpy()

    def _add_regions(self, shares: Tensor) -> None:
        """A voxel is the structure that a region writes if it lies in that region and in none of those that write after it.

        Regions count as independent of each other, which lies between one within the other and both apart.
        """
        left, free = torch.ones_like(shares[0]), torch.ones_like(shares[0], dtype=torch.bool)
        for share, channel in zip(shares.flip(0), self._labels.region_writes[::-1], strict=True):
            own, mask = share * left, (share > 0.5) & free
            self._voxels[channel] += int(mask.sum())
            self._inside[channel] += float(own[mask].sum())
            self._everywhere[channel] += float(own.sum())
            left, free = left * (1 - share), free & ~mask
