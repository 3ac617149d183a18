"""A fully connected CRF: every voxel pulls every other one to its label, the more the nearer and the more alike they are.

Krähenbühl & Koltun 2011, arXiv:1210.5644. Their Gaussian filters are made of factors here: positions lie on a grid, so that
a kernel is the product of one small matrix for each axis and one for the intensities, each of low rank.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.boxes import Box, boxes_of
from medseg.core.component import Component, build
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.data.preprocess import ByWindow
from medseg.inference.decide import largest, regions_in_order
from medseg.inference.refine import REFINEMENTS, DenseCrf
from medseg.inference.restore import Piece, interpolated
from medseg.inference.windows import Triple
from medseg.io.recorded import STEPS, Recorded, Steps

VOXELS = 10**6  # of a box that is refined at once
ALIKE = 0.01  # how far an entry of the kernel of intensities may be off
NEAR = 0.001  # and one of positions along an axis
MOST_ROWS = 48  # of the factor of intensities; beyond them rare intensities are tied less than they should be

MOST_LABELS = 16  # in one box; voxels of another label stay

State = Callable[[Tensor], Tensor]
SpacingMm = tuple[float, float, float]


def refine(
    channels: npt.NDArray[np.unsignedinteger],
    recorded: Recorded,
    image: npt.NDArray[np.float32] | ByWindow,
    *,
    asked: Component,
    spacing_mm: SpacingMm,
    labels: Labels,
    progress: Progress = silent,
) -> int:
    """Change ``channels`` (I, J, K) in place as ``asked``, box by box, and say how many voxels it changed.

    ``recorded`` has the probabilities that ``channels`` come from. A box holds the uncertain voxels of one part of the scan,
    at most ``VOXELS`` with what lies around them as far as the kernels reach, and only labels that could win there, the others
    as one. Voxels so certain that the neighbours' weight cannot change them stay, and boxes without others cost no more
    than reading.
    """
    crf: DenseCrf = build("refine", REFINEMENTS, asked)
    regions = bool(labels.regions)
    decide = regions_in_order(labels.region_writes) if regions else largest
    shape = (channels.shape[0], channels.shape[1], channels.shape[2])
    parts, margins = _parts(shape, [math.ceil(crf.reach_mm / mm) for mm in spacing_mm])
    changed = 0
    for number, part in enumerate(parts, 1):
        uncertain, outputs = _open(recorded.within(part), crf.weight, regions=regions)
        if uncertain.any():
            inner = boxes_of(uncertain.view(np.uint8))[1]
            core = _box((p.start + s.start, p.start + s.stop) for p, s in zip(part, inner, strict=True))
            around = _box(
                (max(0, c.start - m), min(n, c.stop + m)) for c, m, n in zip(core, margins, shape, strict=True)
            )
            logits = torch.from_numpy(_logits(recorded.within(around, outputs), recorded.names, regions=regions))
            intensities = torch.from_numpy(image[(slice(None), *around)])
            state = overlapping if regions else exclusive
            found = mean_field(crf, logits, state, intensities, spacing_mm)
            here = tuple(slice(c.start - a.start, c.stop - a.start) for c, a in zip(core, around, strict=True))
            decided = decide(iter(found[(slice(0, len(outputs)), *here)].numpy()), outputs)
            place = channels[core]
            may = uncertain[inner] if regions else uncertain[inner] & np.isin(place, outputs)
            changed += int(np.count_nonzero(place[may] != decided[may]))
            place[may] = decided[may]
        progress("refine", number, len(parts))
    return changed


def bytes_needed(grid: Triple, outputs: int, channels: int, *, regions: bool) -> int:
    """What ``refine`` holds at most beside its arguments."""
    voxels, held = min(VOXELS, math.prod(grid)), outputs if regions else min(outputs, MOST_LABELS) + 1
    return voxels * max(4 * outputs + 8, 4 * (MOST_ROWS + channels + 8 + 7 * held))


def _parts(shape: Triple, reach: Sequence[int]) -> tuple[list[Box], list[int]]:
    """Boxes that tile ``shape``, and how many voxels of each axis go around each: ``reach``, or a third of the whole."""
    room, margins = VOXELS, [0, 0, 0]
    sides: list[list[tuple[int, int]]] = [[], [], []]
    for rank, axis in enumerate(np.argsort(shape).tolist()):  # what a short axis leaves goes to the longer ones
        side = min(shape[axis], round(room ** (1 / (3 - rank))))
        room //= side
        margins[axis] = min(reach[axis], side // 3) if side < shape[axis] else reach[axis]
        step = side - 2 * margins[axis] if side < shape[axis] else side
        sides[axis] = [(start, min(start + step, shape[axis])) for start in range(0, shape[axis], step)]
    return [_box(ends) for ends in product(*sides)], margins


def _box(ends: Iterable[tuple[int, int]]) -> Box:
    i, j, k = (slice(start, stop) for start, stop in ends)
    return i, j, k


def _open(steps: Steps, weight: float, *, regions: bool) -> tuple[npt.NDArray[np.bool_], list[int]]:
    """The voxels (I, J, K) that ``weight`` can change, and the outputs that can have a say in them.

    A label cannot win whose logarithm of the probability lies further than ``weight`` below the largest one, and a region's
    logit further from 0 than that stays on its side. Of labels the ``MOST_LABELS`` most frequent ones.
    """
    less = 1 / (1 + math.exp(min(weight, 50.0)))  # the probability whose logit is -weight
    if regions:
        uncertain = np.asarray(((steps > less * STEPS) & (steps < (1 - less) * STEPS)).any(axis=0))
        reached = np.full(uncertain.shape, less * STEPS, np.float32)
    else:
        most = steps.max(axis=0)
        uncertain = np.asarray(most < (1 - less) * STEPS)
        reached = most * np.float32(math.exp(-weight))
    voxels = np.array([np.count_nonzero(uncertain & (one > reached)) for one in steps])
    if not regions:
        voxels[np.argsort(-voxels, kind="stable")[MOST_LABELS:]] = 0
    return uncertain, np.flatnonzero(voxels).tolist()


def _logits(steps: Steps, names: Sequence[str], *, regions: bool) -> npt.NDArray[np.float32]:
    """The logits (L, I, J, K) of some of the outputs called ``names``: of regions their own; of labels the logarithms, one
    more for all other labels together. A probability of 0 counts as half a step.
    """
    shares = np.maximum(steps.astype(np.float32), 0.5)
    if regions:
        return np.asarray(np.log(shares / np.maximum(STEPS - steps.astype(np.float32), 0.5)))
    if len(steps) < len(names):
        others = STEPS - steps.sum(axis=0, dtype=np.float32)
        shares = np.concatenate([shares, np.maximum(others, 0.5)[None]])
    return np.log(shares / STEPS)


def mean_field(crf: DenseCrf, logits: Tensor, state: State, image: Tensor, spacing_mm: SpacingMm) -> Tensor:
    """``logits`` (L, I, J, K) after the iterations, by the intensities of ``image`` (C, I, J, K) at ``spacing_mm``.

    ``state``: ``exclusive`` for labels, of which each voxel has one, ``overlapping`` for regions.
    """
    kernels = []
    if crf.smooth_weight:
        kernels.append(Kernel(crf.smooth_weight, image[:0], spacing_mm, crf.smooth_mm, 1.0))
    if crf.appearance_weight:
        kernels.append(Kernel(crf.appearance_weight, image, spacing_mm, crf.appearance_mm, crf.appearance_intensity))
    found = logits
    for _ in range(crf.iterations):
        now = state(found)
        found = logits.clone()
        for kernel in kernels:
            found += kernel.message(now)
    return found


def exclusive(logits: Tensor) -> Tensor:
    """The probabilities of labels of which each voxel has one; Potts: a label is pulled up by its own ones alone."""
    return torch.softmax(logits, dim=0)


def overlapping(logits: Tensor) -> Tensor:
    """The probability that a voxel is inside each region less that it is not: two labels, of which logits are differences."""
    return torch.tanh(logits / 2)


class Kernel:
    """A Gaussian kernel of positions and intensities, k(i, j), with what it makes of a state (L, I, J, K): its message.

    Voxel i gets ``weight`` times the sum over all other voxels j of k(i, j) / sqrt(d(i) d(j)) times the state of j, where d is
    the sum of k over all voxels, the voxel itself too: so neither the spacing nor the border of the image changes the weight,
    and a kernel smaller than a voxel does nothing.
    """

    def __init__(
        self,
        weight: float,
        image: Tensor,
        spacing_mm: SpacingMm,
        sigma_mm: float,
        sigma_intensity: float,
    ) -> None:
        """``image`` (C, I, J, K); with C = 0 positions alone count."""
        self.weight = weight
        channels, *shape = image.shape
        colours = image.reshape(channels, math.prod(shape)).T / sigma_intensity
        self.alike = factor(colours, tolerance=ALIKE, most=MOST_ROWS).reshape(-1, *shape)
        near = [
            factor(torch.arange(n)[:, None] * (mm / sigma_mm), tolerance=NEAR, most=n)
            for n, mm in zip(shape, spacing_mm, strict=True)
        ]
        self._splat = [Piece(slice(0, len(axis)), slice(0, n), axis) for axis, n in zip(near, shape, strict=True)]
        self._slice = [Piece(slice(0, n), slice(0, len(axis)), axis.T) for axis, n in zip(near, shape, strict=True)]
        i, j, k = (axis.square().sum(dim=0) for axis in near)
        self.itself = self.alike.square().sum(dim=0) * i[:, None, None] * j[:, None] * k
        self.scale = self.blurred(torch.ones(1, *shape)).clamp_(min=1).rsqrt_()  # k(i, i) is 1

    def blurred(self, values: Tensor) -> Tensor:
        """The sum over all voxels j of k(i, j) times ``values`` (L, I, J, K) of j: splat, and slice."""
        found = torch.zeros_like(values)
        for alike in self.alike:
            few = interpolated(values * alike, *self._splat)
            found.addcmul_(interpolated(few, *self._slice), alike)
        return found

    def message(self, state: Tensor) -> Tensor:
        """What each voxel gets of the ``state`` (L, I, J, K) of all others."""
        scaled = state * self.scale
        return (self.blurred(scaled) - self.itself * scaled) * self.scale * self.weight


def factor(features: Tensor, *, tolerance: float, most: int) -> Tensor:
    """F (B, N) whose F^T F is exp(-|f_i - f_j|^2 / 2) of ``features`` (N, D), to ``tolerance`` in each entry.

    Cholesky with the largest pivot first (arXiv:2509.13582). It ends after ``most`` rows, where features of high dimension
    need more: then pairs far from all pivots count too little.
    """
    found = torch.empty(most, len(features))  # rows that are never written take no memory
    left = torch.ones(len(features))
    for row in range(most):
        pivot = int(left.argmax())
        if left[pivot] <= tolerance:
            return found[:row]
        column = (features - features[pivot]).square_().sum(dim=1).mul_(-0.5).exp_()
        column -= found[:row, pivot] @ found[:row]
        found[row] = column.div_(left[pivot].sqrt())
        left -= column.square_()
    return found
