"""One scan in, its label map out, on the scan's own grid: what training validates with and what `infer` runs."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.boxes import Box
from medseg.core.geometry import order_to, upright
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.core.regrid import label_map_onto
from medseg.core.volume import LabelMap, Volume
from medseg.data.preprocess import by_window, framed, is_by_window, is_planned, resampled, seen_on, shape_for, ways_back
from medseg.inference.crf import refine
from medseg.inference.decide import Decide, largest, largest_in_float16, regions_in_order
from medseg.inference.ensemble import Outputs, as_probabilities
from medseg.inference.expected import ExpectedDice
from medseg.inference.memory import fitted, stepping_down
from medseg.inference.mirroring import mirrored
from medseg.inference.postprocess import Change, postprocess
from medseg.inference.recording import recorded_slabs
from medseg.inference.restore import needed, restore
from medseg.inference.roi import FIRST_OVERLAP, Roi, Scout, coarse_to_fine
from medseg.inference.settings import Accumulators, InferenceSettings
from medseg.inference.stream import Predict
from medseg.inference.windows_of_scan import WindowsOfScan
from medseg.io.recorded import Recorded
from medseg.models.head import Head

USUAL = InferenceSettings()
BORDER: dict[Outputs, float] = {"logits": 0.0, "probabilities": 0.5}
"""Where a region begins."""
ON_BORDER = 2.0**-25
"""MONAI's AsDiscrete counts the border itself in: one half, whose next float32 is this much below."""


@dataclass(frozen=True)
class Segmented:
    """A ``label_map`` on the scan's grid, ``seconds`` by stage, and the number of ``windows`` that made it.

    ``accumulators``: the type in which they were added up, which ``max_memory`` may have decided.
    ``reused`` windows were constant and took the logits of another one. ``postprocessed``: what the steps of the
    settings did to each structure that has any. ``refined``: the voxels that the refinement changed; None without one.
    ``roi``: what became of looking first, where that was asked for.
    """

    label_map: LabelMap
    seconds: dict[str, float]
    windows: int
    accumulators: Accumulators
    reused: int = 0
    postprocessed: dict[str, Change] = field(default_factory=dict)
    refined: int | None = None
    roi: Roi | None = None


def _decision(plan: Plan, settings: InferenceSettings, outputs: Outputs) -> Decide:
    """How logits become channels: regions in their order, or the largest logit, rounded as nnU-Net does where that is wanted."""
    labels, logits = plan.structure_labels, plan.feed.logits
    if labels.regions:
        border = BORDER[outputs] - (ON_BORDER if plan.feed.grid == "monai" else 0.0)
        return regions_in_order(labels.region_writes, above=border)
    return largest_in_float16 if settings.accumulators == "nnunet" and logits and logits.float16 else largest


def segment(
    volume: Volume,
    plan: Plan,
    predict: Predict,
    *,
    settings: InferenceSettings = USUAL,
    outputs: Outputs = "logits",
    record: Recorded | None = None,
    expected: ExpectedDice | None = None,
    scout: Scout | None = None,
    head: Head | None = None,
    always: Collection[str] = (),
    progress: Progress = silent,
    say: Callable[[str], None] = lambda line: None,
) -> Segmented:
    """Segment ``volume`` (C, I, J, K) with the plan's windows and Gaussian blend; regions write in their order.

    ``outputs`` is what ``predict`` gives: logits, or the probabilities of an ensemble. With a ``head`` it gives the features
    from which that makes logits, once windows are blended.

    Stored in any of the 48 orders, the same voxels get the same labels. A sheared scan is segmented on ``upright`` of its
    grid, and each of its voxels gets the label of the nearest one there. Logits of all classes exist for one slab of
    windows at a time only; ``record`` keeps on the disk what they say (a refinement without one: in the temporary folder), and
    ``expected`` sums it. Where
    ``settings.max_memory`` is given, ``say`` is told what will be held. Raises ResourceError where it does not suffice.

    With ``settings.roi`` the ``scout`` (None: ``predict``) looks first: see ``roi.coarse_to_fine``. In the box the labels are
    those of the whole scan, outside it background; ``record`` and ``expected`` cannot be kept then. ``always``: structures
    that every scan should have.
    """
    if settings.refine is not None and record is None:
        with Recorded(Path(gettempdir()), probabilities=True, entropy=False) as own:
            told: dict[str, Any] = {"expected": expected, "progress": progress, "say": say}
            return segment(volume, plan, predict, settings=settings, outputs=outputs, record=own, head=head, **told)
    labels = plan.structure_labels
    scout = scout or Scout(predict, outputs=outputs)
    softened = outputs == "logits" and plan.feed.outputs == "probabilities"
    outputs = "probabilities" if softened else outputs
    predict = stepping_down(predict, say)
    held = head.features if head else labels.outputs
    if settings.mirror:
        kept = range(held)
        swapped = head is None and settings.mirror_labels == "swapped" and 0 in settings.mirror
        swaps = labels.output_swaps if swapped else kept
        predict = mirrored(predict, settings.mirror, swaps)
    frame, box = framed(volume, plan)
    maps = 0 if record is None else labels.outputs * record.probabilities + record.entropy
    voxels = int(np.prod(volume.geometry.shape))
    settings = fitted(frame.geometry, plan, settings, predict, say, held=held, whole=voxels, maps=maps)
    clock = [time.perf_counter()]
    image = by_window(frame, plan) if is_by_window(frame.geometry, plan) else resampled(frame, plan).data
    clock.append(time.perf_counter())
    order = order_to(volume.geometry, plan.feed.orientation)
    stored = order.geometry(volume.geometry)
    grid = upright(stored)
    source, target = shape_for(frame.geometry, plan), frame.geometry.shape
    ran = WindowsOfScan(image, plan, settings, head, progress)
    axis = ran.order[0]
    by_brick = is_planned(frame.geometry, plan) and record is None  # else whole planes are wanted

    channels = np.zeros(target, labels.channel_dtype)
    decide = _decision(plan, settings, outputs)
    orders = ways_back(frame.geometry, plan)
    soften = partial(as_probabilities, regions=bool(labels.regions))

    def fill(part: Box | None) -> None:
        """Decide the channels of ``part`` of the target; None: of all of it."""
        into = channels if part is None else channels[part]
        within = None if part is None else needed(part, source, target, orders)
        if by_brick:
            for box, logits in ran.bricks("windows", predict, settings.overlap, within):
                logits = soften(logits) if softened else logits
                into[box] = decide((one.float().numpy() for one in logits), range(labels.outputs))
                if expected is not None:
                    expected.add(logits, outputs)
                del logits
            return
        slabs = ran.slabs("windows", predict, settings.overlap, within)
        slabs = map(soften, slabs) if softened else slabs
        if expected is not None:
            slabs = expected.watched(slabs, outputs)
        if record is not None:
            slabs = recorded_slabs(
                slabs,
                record,
                channels=channels,
                source=source,
                axis=axis,
                orders=orders,
                labels=labels,
                outputs=outputs,
            )
        restore(
            slabs,
            source=source,
            target=target,
            axis=axis,
            orders=orders,
            dtype=labels.channel_dtype,
            into=into,
            within=part,
            decide=decide,
        )

    roi = None
    if settings.roi:
        look = partial(ran.slabs, "first look", stepping_down(scout.predict, say), FIRST_OVERLAP)
        roi = coarse_to_fine(
            frame.geometry,
            plan,
            settings,
            scout=scout,
            axis=axis,
            look=look,
            fill=fill,
            channels=channels,
            always=always,
        )
        roi = replace(roi, first_look_windows=ran.counts.get("first look", 0), windows=ran.counts["windows"])
        say(str(roi))
    else:
        fill(None)

    refined = None
    clock.append(time.perf_counter())
    if settings.refine is not None and record is not None:
        refined = refine(
            channels,
            record,
            seen_on(frame, plan),
            asked=settings.refine,
            spacing_mm=frame.geometry.spacing_mm,
            labels=labels,
            progress=progress,
        )
    in_refining = time.perf_counter() - clock.pop()

    def on_the_scan(data: npt.NDArray[Any], outside: int = 0) -> npt.NDArray[Any]:
        if data.shape != grid.shape:
            whole = np.full(grid.shape, outside, data.dtype)  # what was cropped is background
            whole[box] = data
            data = whole
        return np.ascontiguousarray(order.inverse.array(label_map_onto(LabelMap(data, grid), stored).data))

    values = on_the_scan(labels.to_values(channels))
    if record is not None:
        record.place(on_the_scan, volume.geometry)
    clock.append(time.perf_counter())
    label_map, changes = postprocess(LabelMap(values, volume.geometry, labels), settings.postprocess, labels)
    seconds = {
        "preprocess": clock[1] - clock[0],
        "network": ran.seconds,
        "blend_and_restore": clock[2] - clock[1] - ran.seconds - in_refining,
        **({} if refined is None else {"refine": in_refining}),
        "postprocess": time.perf_counter() - clock[2],
    }
    total = sum(ran.counts.values())
    return Segmented(label_map, seconds, total, settings.accumulators, total - ran.predicted, changes, refined, roi)
