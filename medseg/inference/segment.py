"""One scan in, its label map out, on the scan's own grid: what training validates with and what `infer` runs."""

import time
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from medseg.core.geometry import order_to, upright
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.core.regrid import label_map_onto
from medseg.core.volume import LabelMap, Volume
from medseg.data.preprocess import preprocess
from medseg.inference.restore import largest, regions_in_order, restore
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Predict, stream_logits
from medseg.inference.windows import window_starts

USUAL = InferenceSettings()


@dataclass(frozen=True)
class Segmented:
    """A ``label_map`` on the scan's grid, ``seconds`` by stage, and the number of ``windows`` that made it."""

    label_map: LabelMap
    seconds: dict[str, float]
    windows: int


def segment(
    volume: Volume,
    plan: Plan,
    predict: Predict,
    *,
    settings: InferenceSettings = USUAL,
    progress: Progress = silent,
) -> Segmented:
    """Segment ``volume`` (C, I, J, K) with the plan's windows and Gaussian blend; regions write in their order.

    Stored in any of the 48 orders, the same voxels get the same labels. A sheared scan is segmented on ``upright`` of its
    grid, and each of its voxels gets the label of the nearest one there. Logits of all classes exist for one slab of
    windows at a time only.
    """
    labels = plan.structure_labels
    clock = [time.perf_counter()]
    prepared = preprocess(volume, plan)
    clock.append(time.perf_counter())
    order = order_to(volume.geometry)
    stored = order.geometry(volume.geometry)
    grid = upright(stored)
    source = prepared.geometry.shape
    axis = int(np.argmax(source))
    padded = tuple(max(n, w) for n, w in zip(source, plan.patch_size, strict=True))
    total = len(window_starts((padded[0], padded[1], padded[2]), plan.patch_size, settings.overlap))
    in_network = 0.0
    done = 0

    def timed(patches: Tensor) -> Tensor:
        nonlocal in_network, done
        start = time.perf_counter()
        logits = predict(patches)
        in_network += time.perf_counter() - start
        done += len(patches)
        progress("windows", done, total)
        return logits

    slabs = stream_logits(
        prepared.data,
        timed,
        channels=labels.outputs,
        window=plan.patch_size,
        axis=axis,
        overlap=settings.overlap,
        batch=settings.batch,
    )
    channels = restore(
        slabs,
        source=source,
        target=grid.shape,
        axis=axis,
        dtype=labels.channel_dtype,
        decide=regions_in_order(labels.region_writes) if labels.regions else largest,
    )
    clock.append(time.perf_counter())
    found = label_map_onto(LabelMap(labels.to_values(channels), grid), stored)
    values = np.ascontiguousarray(order.inverse.array(found.data))
    label_map = LabelMap(values, volume.geometry, labels)
    seconds = {
        "preprocess": clock[1] - clock[0],
        "network": in_network,
        "blend_and_restore": clock[2] - clock[1] - in_network,
    }
    return Segmented(label_map, seconds, total)
