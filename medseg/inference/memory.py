"""What an inference holds at its peak, before it begins; and what it does with less where it was given less."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from math import prod
from threading import Event, Thread
from typing import Literal

import torch
from torch import Tensor

from medseg.core.errors import ResourceError
from medseg.core.geometry import Geometry
from medseg.core.memory import SLACK, gib, most_resident_bytes, resident_bytes
from medseg.core.plan import Plan
from medseg.data.preprocess import by_voxel, is_by_window, is_planned, shape_for
from medseg.inference.bricks import cuts_for, most_voxels
from medseg.inference.crf import bytes_needed
from medseg.inference.recording import BLOCK_VALUES
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import CONSTANT_BYTES, Predict, window_order
from medseg.inference.windows import STARTS, Triple, window_starts
from medseg.models.head import SLAB_VALUES, features_of

DTYPES = {"f32": torch.float32, "f16": torch.float16, "nnunet": torch.float16}
INTENSITY_BYTES = {"ct_window": 4, "none": 4}
"""Bytes a voxel of the scan while a channel's intensities are normalised, what comes out among them."""
OTHER_BYTES = 32  # statistics are made in float64


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak, by what holds them. ``process``: what is held already, the scan and the weights among it."""

    process: int
    preprocessing: int
    prepared: int
    blending: int
    network: int
    restoring: int
    recording: int
    label_map: int
    finishing: int
    refining: int = 0

    @property
    def peak(self) -> int:
        """The largest sum of what is held at one time."""
        streaming = self.prepared + self.blending + self.label_map + max(self.network, self.restoring + self.recording)
        after = self.prepared + max(self.finishing, self.label_map + self.refining)
        return self.process + SLACK + max(self.preprocessing, streaming, after)

    def __str__(self) -> str:
        parts = ", ".join(f"{field.name.replace('_', ' ')} {gib(getattr(self, field.name))}" for field in fields(self))
        return f"{gib(self.peak)} GiB ({parts})"


def fitted(
    frame: Geometry,
    plan: Plan,
    settings: InferenceSettings,
    predict: Predict,
    say: Callable[[str], None],
    *,
    held: int,
    whole: int = 0,
    maps: int = 0,
) -> InferenceSettings:
    """``settings`` that hold no more than their ``max_memory``: as asked, else fewer windows at once, else f16 sums.

    ``frame`` is the grid of the part that is segmented of a scan of ``whole`` voxels; ``held`` values of a voxel are blended,
    and so many ``maps`` are recorded. ``say`` is told the estimate. What the network needs is measured on one window without
    content. Raises ResourceError, which says what is needed, where even the least does not fit.
    """
    given = settings.max_memory
    kinds: list[Literal["f32", "f16", "nnunet"]]
    kinds = ["f32", "f16"] if settings.accumulators == "auto" else [settings.accumulators]
    if given is None:
        return replace(settings, accumulators=kinds[0])
    process = resident_bytes()

    def estimated(trial: InferenceSettings, network: int) -> Estimate:
        return _estimate(
            frame, plan, trial, process, network, held=held, whole=max(whole, prod(frame.shape)), maps=maps
        )

    thinner = settings.accumulators == "nnunet" and features_of(plan) < plan.structure_labels.outputs
    _check(given, estimated(replace(settings, accumulators=kinds[-1], batch=1), 0), thinner)
    network = _peak_of(lambda: predict(torch.zeros(1, plan.channels, *plan.patch_size)))
    trials = [replace(settings, accumulators=kind, batch=n) for kind in kinds for n in range(settings.batch, 0, -1)]
    for trial in trials:
        estimate = estimated(trial, network)
        if estimate.peak <= given:
            break
    _check(given, estimate, thinner)
    say(f"memory: at most {estimate}; blended in {trial.accumulators}, windows at once: {trial.batch}")
    return trial


def stepping_down(predict: Predict, say: Callable[[str], None]) -> Predict:
    """``predict``, where a batch for which the device's memory does not suffice is cut in two, from then on.

    One window alone for which it does not suffice raises torch.OutOfMemoryError. Sums are held by the CPU, never the device.
    """
    most: int | None = None

    def predicted(patches: Tensor) -> Tensor:
        nonlocal most
        if most is not None and len(patches) > most:
            return torch.cat([predicted(part) for part in torch.split(patches, most)])
        try:
            return predict(patches)
        except torch.OutOfMemoryError:
            if len(patches) == 1:
                raise
            most = (len(patches) + 1) // 2
        say(f"out of memory with {len(patches)} windows at once; going on with {most}")
        return predicted(patches)

    return predicted


def _check(given: int, estimate: Estimate, thinner: bool) -> None:
    if estimate.peak > given:
        less = "add up with --accumulators f32, which holds less of this model, " if thinner else ""
        raise ResourceError(
            f"max-memory {gib(given)} GiB does not suffice: this scan and this model need at least {estimate}; {less}give more, "
            "crop the scan, or close what else this process holds"
        )


def _estimate(
    frame: Geometry,
    plan: Plan,
    settings: InferenceSettings,
    process: int,
    network: int,
    *,
    held: int,
    whole: int,
    maps: int,
) -> Estimate:
    """``process`` is held already; ``network`` is needed for one window at a time; the others as in ``fitted``."""
    source = shape_for(frame, plan)
    labels, window = plan.structure_labels, plan.patch_size
    outer: Triple = (max(source[0], window[0]), max(source[1], window[1]), max(source[2], window[2]))
    order = window_order(source, plan, settings.accumulators)
    plane = prod(outer) // outer[order[0]]
    planes = not is_planned(frame, plan) or maps > 0
    starts = window_starts(outer, window, settings.overlap, STARTS[plan.feed.starts])
    starts.sort(key=lambda s: [s[a] for a in order])
    voxels = most_voxels(starts, window, cuts_for(starts, window, outer, order, planes=planes))
    sums = held * DTYPES[settings.accumulators].itemsize
    logits = labels.outputs * (4 if held < labels.outputs else DTYPES[settings.accumulators].itemsize)
    scan, made, label = prod(frame.shape), prod(source), labels.channel_dtype.itemsize
    windows_only = is_by_window(frame, plan)  # no copy of the scan is made
    per_voxel = max(INTENSITY_BYTES.get(intensity.scheme.name, OTHER_BYTES) for intensity in plan.intensity)
    # MONAI's way goes with all channels at once.
    by_monai = (16 * plan.channels + per_voxel) * max(scan, made) if plan.feed.grid == "monai" else 0
    return Estimate(
        process=process,
        # Resampling holds what an axis takes in, what it gives, and a copy of the larger one.
        preprocessing=0
        if windows_only
        else 4 * made * (plan.channels - 1) + max(per_voxel * scan, 4 * scan + 8 * max(scan, made), by_monai),
        prepared=0 if windows_only else 4 * plan.channels * (made if outer == source else made + prod(outer)),
        blending=(sums + 4) * voxels + min(CONSTANT_BYTES, held * prod(window) * 4),
        network=network * settings.batch,
        # Where a slab begins: a few planes of all outputs, and each output's extremes; of features their logits before.
        restoring=8 * plane * (logits + labels.outputs * 4) + 4 * SLAB_VALUES * (held < labels.outputs)
        if planes
        else 0,
        # A block of all outputs and what is made of it, planes of all outputs, and the planes of all maps.
        recording=28 * BLOCK_VALUES + 4 * logits * plane + 4 * maps * (scan // frame.shape[order[0]]) if maps else 0,
        label_map=scan * label,
        # The label map is cut out, turned and written; or its pieces are numbered; or one map after the other is turned.
        finishing=whole * max(3 * label, 2 * label + 8 if settings.postprocess else 0, 2 * label + 6 if maps else 0),
        refining=0
        if settings.refine is None
        else bytes_needed(frame.shape, labels.outputs, plan.channels, regions=bool(labels.regions))
        + (0 if by_voxel(plan) else (4 * plan.channels + per_voxel) * scan),
    )


def _peak_of(work: Callable[[], object]) -> int:
    """Bytes that this process holds at most while it does ``work``, above those that it held before."""
    before = most = resident_bytes()
    ever = most_resident_bytes()
    done = Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, resident_bytes())
            time.sleep(0.002)

    watcher = Thread(target=watch, daemon=True)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    since = most_resident_bytes()  # what a watcher may have slept through, where it was never as much before
    return max(most, resident_bytes(), since if since > ever else 0) - before
