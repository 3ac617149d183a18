"""One label map of several readers', by majority or by STAPLE, and what STAPLE says of each reader."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LabelArray = npt.NDArray[np.integer[Any]]
Method = Literal["majority", "staple"]
Box = tuple[slice, slice, slice]

LEAST_FOR_STAPLE = 3  # two readers fix three figures; STAPLE has five: prior, two sensitivities, two specificities
MOST_READERS = 16  # a bit for each in the code of a voxel
_START = 0.99999
_SETTLED = 1e-9  # change of every sensitivity and specificity
_MOST_ROUNDS = 20_000
_NEVER = 1e-12  # no reader is taken to err never: one who does not must not forbid what all others say


@dataclass(frozen=True, eq=False)
class Staple:
    """``truth`` (P,): the probability that the structure is there, by pattern; of each reader sensitivity and specificity (R,).

    ``settled`` is False where the estimates still moved when counting was stopped.
    """

    truth: Floats
    sensitivity: Floats
    specificity: Floats
    settled: bool


def staple(votes: npt.NDArray[np.bool_], voxels: npt.NDArray[np.int64]) -> Staple:
    """Estimate the truth and the readers from ``votes`` (P, R), who drew a voxel, and ``voxels`` (P,) that were drawn so.

    Expectation maximisation of Warfield et al. 2004, doi:10.1109/TMI.2004.828354, over patterns of votes instead of voxels:
    the same figures, whatever the size of the image. The prior is the fraction of all votes that say yes and stays;
    sensitivities and specificities start at 0.99999. A sensitivity is NaN where nothing, a specificity where all is true.
    """
    drawn, number = votes.astype(float), voxels.astype(float)
    prior = float(number @ drawn.mean(axis=1)) / float(number.sum())
    sensitivity = specificity = np.full(votes.shape[1], _START)
    truth, settled = np.zeros(len(votes)), False
    for _ in range(_MOST_ROUNDS):
        truth = _expected(drawn, prior, sensitivity, specificity)
        before = (sensitivity, specificity)
        true, false = number * truth, number * (1 - truth)
        sensitivity, specificity = _share(true, drawn), _share(false, 1 - drawn)
        moved = [
            np.nanmax(np.abs(new - old), initial=0) for new, old in zip((sensitivity, specificity), before, strict=True)
        ]
        if max(moved) < _SETTLED:
            settled = True
            break
    return Staple(truth, sensitivity, specificity, settled)


def _expected(drawn: Floats, prior: float, sensitivity: Floats, specificity: Floats) -> Floats:
    """The probability of the structure for each pattern (P,), in logarithms: products of many readers run out of digits."""
    from scipy.special import expit, logit

    p, q = (np.clip(np.nan_to_num(x, nan=_START), _NEVER, 1 - _NEVER) for x in (sensitivity, specificity))
    if prior in (0.0, 1.0):
        return np.full(len(drawn), prior)
    odds = logit(prior) + drawn @ (np.log(p) - np.log1p(-q)) + (1 - drawn) @ (np.log1p(-p) - np.log(q))
    return np.asarray(expit(odds), np.float64)


def _share(weights: Floats, said: Floats) -> Floats:
    """Of each reader the part of ``weights`` (P,) that they ``said`` (P, R); NaN where there is none."""
    total = float(weights.sum())
    return weights @ said / total if total > 0 else np.full(said.shape[1], np.nan)


@dataclass(frozen=True, eq=False)
class Consensus:
    """``data`` (I, J, K) and, by value, what STAPLE found of the readers there.

    ``undecided``: voxels that became background although half of the readers or more say that they are not.
    """

    data: LabelArray
    readers: dict[int, Staple]
    undecided: int


def consensus(maps: Sequence[LabelArray], values: Sequence[int], method: Method) -> Consensus:
    """One label map from those of at most 16 readers, each (I, J, K) on one grid; ``values`` are those of the structures.

    ``majority``: the structure that more than half of the readers drew; background where no structure has so many.
    ``staple``: each structure by itself, within the box around all that any reader drew of it, so that the size of the image
    does not matter; true where its probability is above one half, and where two structures are, the more probable.
    """
    data = np.zeros(maps[0].shape, np.uint8 if max(values, default=0) < 256 else np.uint16)
    boxes = _boxes(maps)
    held = [value for value in values if value in boxes]
    if not held:
        return Consensus(data, {}, 0)
    whole = _around(list(boxes.values()))
    chosen, drawn = np.zeros(data[whole].shape, np.float32), np.zeros(data[whole].shape, np.uint8)
    found: dict[int, Staple] = {}
    for value in held:
        box = boxes[value]
        within: Any = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(box, whole, strict=True))
        codes = _votes(maps, value, box)
        voxels = np.bincount(codes.ravel(), minlength=2 ** len(maps))
        votes = (np.arange(len(voxels))[:, None] >> np.arange(len(maps)) & 1).astype(bool)
        drawn[within] += votes.sum(axis=1).astype(np.uint8)[codes]
        share = votes.mean(axis=1)
        if method == "staple":
            seen = voxels > 0
            found[value] = staple(votes[seen], voxels[seen])
            share[seen] = found[value].truth
        weight = np.where(share > 0.5, share, 0).astype(np.float32)[codes]
        better = weight > chosen[within]
        chosen[within][better] = weight[better]
        data[box][better] = value
    undecided = np.count_nonzero((data[whole] == 0) & (2 * drawn.astype(np.int16) >= len(maps)))
    return Consensus(data, found, int(undecided))


def _votes(maps: Sequence[LabelArray], value: int, box: Box) -> npt.NDArray[np.uint16]:
    """Who drew ``value`` where, a bit for each reader."""
    codes = np.zeros(tuple(s.stop - s.start for s in box), np.uint16)
    for reader, one in enumerate(maps):
        codes |= np.left_shift(one[box] == value, reader, dtype=np.uint16)
    return codes


def _boxes(maps: Sequence[LabelArray]) -> dict[int, Box]:
    """By value the box around what any reader drew of it."""
    from scipy.ndimage import find_objects

    found: dict[int, list[Box]] = {}
    for one in maps:
        for n, box in enumerate(find_objects(one)):
            if box is not None:
                found.setdefault(n + 1, []).append(box)
    return {value: _around(boxes) for value, boxes in found.items()}


def _around(boxes: Sequence[Box]) -> Box:
    i, j, k = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return i, j, k
