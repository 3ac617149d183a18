"""What logits say about a target, in the terms that every loss is made of: sums of each channel, and the truth's log-probability.

Channels are the background (first) and the structures, told apart by a softmax, or overlapping regions, each with a
sigmoid of its own. It is our own code since no one-hot target is made of a softmax's: against MONAI's DiceCELoss,
forward and backward at 60 channels of 64^3 voxels took 0.22 s instead of 0.43 s on one core and a peak of 197 MiB
instead of 310 MiB; at batch 2, 3 channels and 96^3 voxels 0.039 s instead of 0.048 s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from medseg.core.labels import Labels
from medseg.losses.shared import over_processes


class Loss(Protocol):
    """Logits (B, K, *spatial) and a target (B, *spatial) of int64 channels to a scalar in float32.

    ``annotated`` (B, channels) is False where a sample does not say which voxels are of that structure: it adds no loss
    there. None: every structure is annotated in every sample.
    """

    def __call__(self, logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Sums:
    """Over the voxels that count, for each sample and channel (B, K): ``predicted`` sum(p), ``present`` sum(y), ``both`` sum(p y).

    ``counted`` (B, K) is 1 where the channel counts in that sample; None where each does in all.
    """

    predicted: Tensor
    present: Tensor
    both: Tensor
    counted: Tensor | None

    def over_batch(self) -> "Sums":
        """One sum (1, K) for all samples of all processes; a channel counts where it counts in any of them."""
        counted = None
        if self.counted is not None:
            counted = (over_processes(self.counted.sum(0, keepdim=True)) > 0.0).float()
        predicted, present, both = (
            over_processes(x.sum(0, keepdim=True)) for x in (self.predicted, self.present, self.both)
        )
        return Sums(predicted, present, both, counted)

    def without(self, first: int) -> "Sums":
        """Without the ``first`` channels."""
        counted = None if self.counted is None else self.counted[:, first:]
        return Sums(self.predicted[:, first:], self.present[:, first:], self.both[:, first:], counted)

    def mean(self, terms: Tensor) -> Tensor:
        """Mean of ``terms`` (B, K) over the samples and channels that count; 0 where none does."""
        if self.counted is None:
            return terms.sum() / max(terms.numel(), 1)
        # What counts may differ from process to process, so each needs the figures of all.
        return over_processes((terms * self.counted).sum()) / over_processes(self.counted.sum()).clamp_min(1.0)


@dataclass(frozen=True, eq=False)
class Comparison:
    """``log_p_true``: log-probability of the truth at each voxel, (B, *spatial) of a softmax, (B, K, *spatial) of regions.

    ``counted``, of the same shape, is 1 where a voxel counts; None where all do. ``truth``, of the same shape: the channel
    of a softmax, whether the voxel is inside of a region. ``unsure()`` is the mean log-probability of all answers.
    ``background``: how many channels come before the structures (1 or 0). ``sums()`` costs a pass over all channels.
    """

    log_p_true: Tensor
    counted: Tensor | None
    truth: Tensor
    background: int
    unsure: Callable[[], Tensor]
    sums: Callable[[], Sums]

    def mean(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Weighted mean of ``values``, shaped like ``log_p_true``, over the voxels that count; 0 where none does."""
        factors = self.counted if weights is None else weights if self.counted is None else weights * self.counted
        if factors is None:
            return values.sum() / max(values.numel(), 1)
        least = torch.finfo(factors.dtype).tiny
        return over_processes((values * factors).sum()) / over_processes(factors.sum()).clamp_min(least)


Compare = Callable[[Tensor, Tensor, Tensor | None], Comparison]


def comparison(labels: Labels | None) -> Compare:
    """How logits and targets of ``labels`` are compared; None: a softmax over all channels, no voxel ignored.

    The result raises ValueError where the shapes of logits and target do not fit.
    """
    if labels is not None and labels.regions:
        member = torch.zeros(labels.outputs, labels.reference_channels, dtype=torch.bool)
        for region, channels in enumerate(labels.region_channels):
            member[region, list(channels)] = True
        return partial(_regions, member, labels.channels if labels.ignore is not None else None)
    ignored = labels is not None and labels.ignore is not None
    return partial(_softmax, None if labels is None else labels.channels, ignored)


def _softmax(
    channels: int | None, ignored: bool, logits: Tensor, target: Tensor, annotated: Tensor | None
) -> Comparison:
    size = _check(logits, target, channels)
    log_p = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    if annotated is not None:
        log_p, target = _merged(log_p, target, annotated, ignored)
    inside = target != size if ignored else None
    index = target if inside is None else target.where(inside, 0)
    log_p_true = log_p.gather(1, index.unsqueeze(1)).squeeze(1)

    def unsure() -> Tensor:
        if annotated is None:
            return log_p.mean(1)
        known = _over_space(annotated, log_p)
        return log_p.where(known, 0.0).sum(1) / known.sum(1)

    def sums() -> Sums:
        p = log_p.exp() if inside is None else log_p.exp() * inside.unsqueeze(1)
        # An ignored voxel falls into a channel of its own, which is dropped.
        bins = size + ignored
        present = _sum_per_channel(torch.ones_like(log_p_true), target, bins)[:, :size]
        both = _sum_per_channel(log_p_true.exp(), target, bins)[:, :size]
        return Sums(p.flatten(2).sum(2), present, both, None if annotated is None else annotated.float())

    return Comparison(log_p_true, None if inside is None else inside.float(), index, 1, unsure, sums)


def _regions(
    member: Tensor, ignored: int | None, logits: Tensor, target: Tensor, annotated: Tensor | None
) -> Comparison:
    _check(logits, target, len(member), least=1)
    x = logits.float()
    member = member.to(target.device)
    truth = torch.stack([row[target] for row in member], dim=1)
    log_p_true = logsigmoid(torch.where(truth, x, -x))
    known = None if annotated is None else _known_regions(member, annotated)
    counted: Tensor | None = None
    if ignored is not None:
        counted = (target != ignored).unsqueeze(1).float()
    if known is not None:
        space = _over_space(known, x).float()
        counted = space if counted is None else counted * space
    if counted is not None:
        counted = counted.expand_as(x)

    def sums() -> Sums:
        p, y = x.sigmoid(), truth.float()
        if counted is not None:
            p, y = p * counted, y * counted
        predicted, present, both = (v.flatten(2).sum(2) for v in (p, y, p * y))
        return Sums(predicted, present, both, None if known is None else known.float())

    return Comparison(log_p_true, counted, truth, 0, lambda: (logsigmoid(x) + logsigmoid(-x)) / 2, sums)


def _merged(log_p: Tensor, target: Tensor, annotated: Tensor, ignored: bool) -> tuple[Tensor, Tensor]:
    """Structures that a sample does not annotate become part of its background (doi:10.1016/j.media.2021.101979).

    Their probability goes to channel 0 and leaves their own, and so does what the target says of them.
    """
    others = annotated.clone()
    others[:, 0] = False
    background = log_p.masked_fill(_over_space(others, log_p), -torch.inf).logsumexp(1, keepdim=True)
    rest = log_p[:, 1:].masked_fill(~_over_space(annotated[:, 1:], log_p), -torch.inf)
    channels = torch.arange(log_p.shape[1], device=target.device).where(annotated, 0)
    if ignored:
        channels = torch.cat([channels, channels.new_full((len(channels), 1), log_p.shape[1])], dim=1)
    seen = channels.gather(1, target.flatten(1)).reshape(target.shape)
    return torch.cat([background, rest], dim=1), seen


def _known_regions(member: Tensor, annotated: Tensor) -> Tensor:
    """(B, regions): a region is known in a sample that annotates all its structures."""
    inside = member[:, : annotated.shape[1]]
    return (annotated.unsqueeze(1) | ~inside).all(2)


def _over_space(flags: Tensor, like: Tensor) -> Tensor:
    """(B, K) as (B, K, 1, ...), to go with ``like`` (B, K, *spatial)."""
    return flags.reshape(*flags.shape, *[1] * (like.ndim - 2))


def _check(logits: Tensor, target: Tensor, channels: int | None, least: int = 2) -> int:
    """The number of channels of ``logits``. Raises ValueError where it or the shape of ``target`` is not what it should be."""
    expected, found = (logits.shape[0], *logits.shape[2:]), logits.shape[1]
    if target.shape != expected or found < least or found != (channels or found):
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit; expected a target {expected} of "
            f"indices and {f'{channels} channels' if channels else 'a channel for the background and for each structure'}"
        )
    return found


def _sum_per_channel(values: Tensor, target: Tensor, channels: int) -> Tensor:
    """Sums (B, channels) of ``values`` (B, *spatial) over the voxels of each index in ``target``."""
    # Row by row first: one running float32 sum over 128^3 voxels of p = 0.97 came out 2.3 % too high.
    rows, indices = values.flatten(1, -2), target.flatten(1, -2)
    return rows.new_zeros((*rows.shape[:2], channels)).scatter_add(2, indices, rows).sum(1)
