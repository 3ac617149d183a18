"""Probabilities and entropy of a scan, made from the same slabs as its label map while they pass."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.interpolate import Ways
from medseg.core.labels import Labels
from medseg.inference.ensemble import Outputs
from medseg.inference.restore import Planes, axes_of, interpolated
from medseg.inference.windows import Triple
from medseg.io.recorded import STEPS, Recorded, Steps

BLOCK_VALUES = 2**22  # of all outputs together that are interpolated at once

Channels = npt.NDArray[np.unsignedinteger]


def recorded_slabs(
    slabs: Iterable[Tensor],
    recorded: Recorded,
    *,
    channels: Channels,
    source: Triple,
    axis: int,
    labels: Labels,
    orders: Ways = (1, 1, 1),
    outputs: Outputs = "logits",
) -> Iterator[Tensor]:
    """The ``slabs`` that ``restore`` turns into ``channels``, unchanged; what they say goes into ``recorded`` on the way.

    Logits are interpolated as for the label map, softmax (of regions: sigmoid) comes after; probabilities are interpolated as
    they are. What is recorded agrees with ``channels`` to the voxel: each channel is its voxel's most probable one, each
    region is above one half where it writes.
    """
    target = channels.shape
    axes = axes_of(source, (target[0], target[1], target[2]), orders)
    along, *across = (axes[a] for a in (axis, *(a for a in range(3) if a != axis)))
    found = np.moveaxis(channels, axis, 0)
    names = tuple(r.name for r in labels.regions) or (labels.background, *labels.names)
    recorded.begin((target[0], target[1], target[2]), axis, names, background=not labels.regions)
    planes = max(1, BLOCK_VALUES // (len(names) * found[0].size))
    rows = across[0].pieces(0, found.shape[1], max(1, BLOCK_VALUES // (len(names) * found.shape[2])))
    (columns,) = across[1].pieces(0, found.shape[2], found.shape[2])
    held = Planes()
    done = 0
    for slab in slabs:
        yield slab  # now ``channels`` has what it decides
        held.append(slab)
        end = int(np.searchsorted(along.last, held.stop))
        for piece in along.pieces(done, end, planes):
            block = held.between(piece.source.start, piece.source.stop)
            steps = np.empty((recorded.count, piece.target.stop - piece.target.start, *found.shape[1:]), np.uint16)
            for row in rows:
                values = interpolated(block[:, :, row.source].float(), piece, row, columns)
                steps[:, :, row.target] = _steps(values, found[piece.target, row.target], labels, outputs, recorded)
            recorded.append(np.moveaxis(steps, 0, 1))
        done = end
        if done < len(found):
            held.keep(int(along.first[done]))


def _steps(values: Tensor, winner: Channels, labels: Labels, outputs: Outputs, recorded: Recorded) -> Steps:
    """What is stored of a block of interpolated outputs (K, n, a, b) whose channels are ``winner`` (n, a, b)."""
    regions = bool(labels.regions)
    if outputs == "logits":
        values = torch.sigmoid(values) if regions else torch.softmax(values, dim=0)
    parts = []
    if recorded.probabilities:
        shares = values.numpy()
        parts.append(region_steps(shares, winner, labels.region_writes) if regions else exclusive_steps(shares, winner))
    if recorded.entropy:
        parts.append(entropy_steps(values, regions=regions)[np.newaxis])
    return np.concatenate(parts)


def exclusive_steps(probabilities: npt.NDArray[np.float32], winner: Channels) -> Steps:
    """``probabilities`` (K, ...) in steps that sum to ``STEPS`` in each voxel and are largest at ``winner`` (...).

    All but the winner are rounded down, to less than a step below; what is left over is the winner's.
    """
    steps = np.floor(probabilities * STEPS).astype(np.int32)
    place = winner[np.newaxis].astype(np.intp)
    np.put_along_axis(steps, place, 0, axis=0)
    second = steps.argmax(axis=0)[np.newaxis]
    most = np.take_along_axis(steps, second, axis=0)
    left = STEPS - steps.sum(axis=0, dtype=np.int32, keepdims=True)
    moved = np.maximum(0, (most - left) // 2 + 1)  # only where both are equal but for the rounding of a float32
    np.put_along_axis(steps, second, most - moved, axis=0)
    np.put_along_axis(steps, place, left + moved, axis=0)
    return steps.astype(np.uint16)


def region_steps(probabilities: npt.NDArray[np.float32], winner: Channels, writes: tuple[int, ...]) -> Steps:
    """``probabilities`` (R, ...) of overlapping regions in steps, rounded; above one half where a region writes ``winner``."""
    steps = np.rint(probabilities * STEPS).astype(np.uint16)
    half = np.uint16(STEPS // 2)
    above = np.zeros(winner.shape, bool)  # what a later region has written
    for region, channel in zip(steps[::-1], writes[::-1], strict=True):
        wrote = (winner == channel) & ~above
        np.copyto(region, np.minimum(region, half), where=~wrote & ~above)
        np.copyto(region, np.maximum(region, half + np.uint16(1)), where=wrote)
        above |= wrote
    return steps


def entropy_steps(probabilities: Tensor, *, regions: bool) -> Steps:
    """Shannon's entropy in steps, from 0 (certain) to 1 (all K equally probable): in nats over ln K.

    Of regions, which do not exclude each other, the mean of their binary entropies in bits.
    """
    terms = -torch.special.xlogy(probabilities, probabilities)
    if regions:
        terms -= torch.special.xlogy(1 - probabilities, 1 - probabilities)
        found = terms.mean(dim=0) / np.log(2)
    else:
        found = terms.sum(dim=0) / np.log(len(probabilities))
    steps: Steps = (found.clamp(0, 1) * STEPS).round().numpy().astype(np.uint16)
    return steps
