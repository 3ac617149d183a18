"""The windows of one scan: run, timed, counted, and blended into logits."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from medseg.core.boxes import Box
from medseg.core.errors import ModelError
from medseg.core.plan import Plan
from medseg.core.progress import Progress
from medseg.data.preprocess import ByWindow
from medseg.inference.memory import DTYPES
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Array, Predict, stream_bricks, stream_logits, window_order
from medseg.inference.windows import BLENDS, STARTS, Triple
from medseg.models.head import Head


@dataclass(eq=False)
class WindowsOfScan:
    """Windows over an ``image`` (C, I, J, K) on the plan's grid, which follow each other by ``order`` of its axes.

    With a ``head`` a network gives the features of which that makes logits. ``seconds`` in networks, ``predicted`` windows,
    and how many there are for each stage (``counts``), which is told to ``progress``, are those of all calls so far.
    """

    image: Array | ByWindow
    plan: Plan
    settings: InferenceSettings
    head: Head | None
    progress: Progress
    seconds: float = 0.0
    predicted: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def order(self) -> Triple:
        i, j, k = self.image.shape[1:]
        return window_order((i, j, k), self.plan, self.settings.accumulators)

    def bricks(
        self, stage: str, forward: Predict, overlap: float, within: Box | None = None
    ) -> Iterator[tuple[Box, Tensor]]:
        """Logits (K, *box) of boxes that together are the image, or the part of it ``within``."""
        options = self._options(stage, overlap, within)
        for brick, mean in stream_bricks(self.image, self._watched(forward), order=self.order, **options):
            yield from ((brick, mean),) if self.head is None else self.head.pieces(brick, mean)
            del mean

    def slabs(self, stage: str, forward: Predict, overlap: float, within: Box | None = None) -> Iterator[Tensor]:
        """Logits (K, n, A, B) of whole planes along the first axis of ``order``, the other two in theirs."""
        options, order = self._options(stage, overlap, within), self.order
        for slab in stream_logits(self.image, self._watched(forward), axis=order[0], order=order, **options):
            yield from (slab,) if self.head is None else self.head.slabs(slab)
            del slab

    def _watched(self, forward: Predict) -> Predict:
        def predict(patches: Tensor) -> Tensor:
            start = time.perf_counter()
            found = forward(patches)
            self.seconds += time.perf_counter() - start
            if not torch.isfinite(found.sum()):  # else the largest of them would be a label like any other
                raise ModelError(
                    f"the network gives values that are not finite for {len(patches)} window(s): its weights are damaged, the "
                    "scan's intensities are beyond all it was trained on, or the precision does not suffice (try --precision f32)"
                )
            self.predicted += len(patches)
            return found

        return predict

    def _options(self, stage: str, overlap: float, within: Box | None) -> dict[str, Any]:
        before, settings, labels = self.counts.get(stage, 0), self.settings, self.plan.structure_labels

        def counted(_: str, done: int, of: int) -> None:
            self.counts[stage] = before + of
            self.progress(stage, before + done, before + of)

        return {
            "channels": self.head.features if self.head else labels.outputs,
            "window": self.plan.patch_size,
            "overlap": overlap,
            "batch": settings.batch,
            "dtype": DTYPES[settings.accumulators],
            "exclusive": not labels.regions and self.head is None,
            "as_nnunet": settings.accumulators == "nnunet",
            "weigh": BLENDS[self.plan.feed.blend],
            "place": STARTS[self.plan.feed.starts],
            "within": within,
            "progress": counted,
        }
