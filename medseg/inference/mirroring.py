"""Averaging over mirrored windows: a wrapper Predict -> Predict."""

from collections.abc import Sequence
from itertools import combinations

from torch import Tensor

from medseg.inference.stream import Predict


def mirrored(predict: Predict, axes: Sequence[int], swaps: Sequence[int]) -> Predict:
    """The mean of what ``predict`` finds in patches mirrored along each combination of ``axes``, none among them.

    Axes are those of the plan's grid: 0 turns left into right. There output c counts as output ``swaps[c]``: what the
    network calls the left kidney of a mirrored patient is the right one. 2^n forward passes for n axes.
    """
    turns = [turn for n in range(1, len(axes) + 1) for turn in combinations(axes, n)]

    def average(patches: Tensor) -> Tensor:
        total = predict(patches).clone()
        for turn in turns:
            dims = [axis + 2 for axis in turn]
            found = predict(patches.flip(dims))
            for output, other in enumerate(swaps if 0 in turn else range(total.shape[1])):
                total[:, output] += found[:, other].flip([dim - 1 for dim in dims])
        return total.div_(len(turns) + 1)

    return average if turns else predict
