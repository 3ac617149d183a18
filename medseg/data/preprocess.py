"""From a scan to the plan's grid and intensities: the same function for training and inference."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.core.boxes import Box
from medseg.core.component import build
from medseg.core.errors import DataError
from medseg.core.geometry import Geometry, crop, order_between, order_to, resized, shape_at_spacing, upright
from medseg.core.interpolate import Ways
from medseg.core.plan import Feed, Plan, Resampling, TripleMm
from medseg.core.regrid import label_map_onto, straightened
from medseg.core.volume import LabelMap, Volume
from medseg.data.intensity import INTENSITIES, VOXEL_BY_VOXEL, Normalise
from medseg.data.monai_grid import monai_lines, monai_shape, onto_monai_grid
from medseg.data.resample import (
    Shape,
    as_float32,
    resample,
    resample_channels,
    resample_thick,
    resample_touched,
    spline_orders,
)
from medseg.io.scan import MAX_VOXELS


def preprocess(volume: Volume, plan: Plan) -> Volume:
    """``volume`` in the plan's orientation, normalised, at the plan's spacing over the same field of view; float32.

    A sheared scan (gantry tilt) is resampled to right angles first. Raises DataError where the number of channels is not
    the plan's.
    """
    return resampled(framed(volume, plan)[0], plan)


def framed(volume: Volume, plan: Plan) -> tuple[Volume, Box]:
    """The part of ``volume`` that the network sees, at right angles in the plan's orientation, and where it lies there.

    Where the plan crops, it is the box around what is not 0 in any channel; a scan of zeros alone stays whole. Raises
    DataError where the number of channels is not the plan's.
    """
    if volume.channels != plan.channels:
        raise DataError(f"the scan has {volume.channels} channel(s), the plan expects {plan.channels}")
    straight = straightened(volume.reordered(order_to(volume.geometry, plan.feed.orientation)))
    i, j, k = (slice(0, n) for n in straight.geometry.shape)
    if plan.feed.crop == "none":
        return straight, (i, j, k)
    box = _box_not_zero(straight.data)
    start, shape = tuple(s.start for s in box), tuple(s.stop - s.start for s in box)
    inside = straight.data[(slice(None), *box)]
    grid = crop(straight.geometry, (start[0], start[1], start[2]), (shape[0], shape[1], shape[2]))
    return Volume(inside, grid, straight.warnings, straight.modality), box


def _box_not_zero(data: npt.NDArray[Any]) -> Box:
    """The box around what is not 0 in any channel of ``data`` (C, I, J, K); all of it where everything is 0.

    Planes are looked at from outside until one is not empty, in most scans the first.
    """
    sides = [slice(0, n) for n in data.shape[1:]]
    for axis in sorted(range(3), key=lambda a: -abs(data.strides[a + 1])):
        planes = np.moveaxis(data[(slice(None), *sides)], axis + 1, 0)
        first = next((n for n, plane in enumerate(planes) if plane.any()), None)
        if first is None:
            break
        last = next(n for n in reversed(range(len(planes))) if planes[n].any())
        sides[axis] = slice(first, last + 1)
    return sides[0], sides[1], sides[2]


def resampled(frame: Volume, plan: Plan) -> Volume:
    """``frame`` (of ``framed``) normalised and brought to the plan's spacing."""
    shape, spacing_mm, how = shape_for(frame.geometry, plan), frame.geometry.spacing_mm, plan.feed.image
    if plan.feed.grid == "monai":
        return _resampled_by_monai(frame, plan)
    channels = []
    # What is a function of each voxel alone is normalised a few planes at a time, on the way.
    each = zip(frame.data, by_window(frame, plan).normalise, strict=True) if by_voxel(plan) else None
    for values, normalise in each or ((found, as_float32) for found in normalised(frame, plan)):
        if how is None:
            found = resample(values, shape, spline_orders(spacing_mm), normalise)
        else:
            thick = thick_axis(spacing_mm, plan, how)
            found = resample_thick(values, shape, how.order, how.order_thick, thick, normalise)
        channels.append(found)
    # A single channel, as CT has, is not copied.
    data = np.ascontiguousarray(channels[0][None] if len(channels) == 1 else np.stack(channels))
    return Volume(data, resized(frame.geometry, shape), frame.warnings)


def _resampled_by_monai(frame: Volume, plan: Plan) -> Volume:
    def normal(volume: Volume) -> Volume:
        return Volume(np.stack([*normalised(volume, plan)]), volume.geometry, volume.warnings)

    spacing_mm = plan.spacing_mm if not plan.feed.native_axes else frame.geometry.spacing_mm
    if plan.feed.normalise == "before":
        return onto_monai_grid(normal(frame), spacing_mm)
    return normal(onto_monai_grid(frame, spacing_mm))


def normalised(frame: Volume, plan: Plan) -> Iterator[npt.NDArray[np.float32]]:
    """The channels (I, J, K) of ``frame``, one after the other, with the plan's intensities."""
    inside = _not_zero(frame) if any(one.within == "nonzero" for one in plan.intensity) else None
    for channel, intensity in zip(frame.data, plan.intensity, strict=True):
        # One memory layout first: sums and products would otherwise round differently for each storage order.
        values = np.ascontiguousarray(channel)
        normalise = build("intensity", INTENSITIES, intensity.scheme)
        if inside is not None and intensity.within == "nonzero":
            found = values.astype(np.float32)
            found[inside] = normalise(values[inside])
        else:
            found = normalise(values)
        yield found


def seen_on(frame: Volume, plan: Plan) -> "npt.NDArray[np.float32] | ByWindow":
    """The intensities (C, I, J, K) that the network sees, on the grid of ``frame``: not resampled."""
    if by_voxel(plan):
        return by_window(frame, plan)
    return np.stack([*normalised(frame, plan)])


@dataclass(frozen=True, eq=False)
class ByWindow:
    """An image (C, I, J, K) that is normalised where it is cut: a window has the bits that it has in ``resampled``."""

    data: npt.NDArray[Any]
    normalise: tuple[Normalise, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def part(self, box: Box) -> "ByWindow":
        """The same of the voxels in ``box``; nothing is copied."""
        return replace(self, data=self.data[(slice(None), *box)])

    def __getitem__(self, cut: tuple[slice, ...]) -> npt.NDArray[np.float32]:
        """The window at ``cut`` (four slices), float32."""
        inside = self.data[cut]
        return np.stack([make(np.ascontiguousarray(one)) for make, one in zip(self.normalise, inside, strict=True)])


def is_by_window(grid: Geometry, plan: Plan) -> bool:
    """Whether a scan on ``grid`` can stay as it is stored until a window is cut from it.

    It lies on the plan's grid, no smaller than a window, and its intensities are normalised voxel by voxel.
    """
    return (
        is_planned(grid, plan)
        and all(n >= w for n, w in zip(grid.shape, plan.patch_size, strict=True))
        and by_voxel(plan)
    )


def is_planned(grid: Geometry, plan: Plan) -> bool:
    """Whether the plan's grid over a scan on ``grid`` is that itself."""
    return shape_for(grid, plan) == grid.shape and all(isinstance(way, int) for way in ways_back(grid, plan))


def by_voxel(plan: Plan) -> bool:
    """Whether the plan normalises each voxel by its own value alone."""
    return all(one.scheme.name in VOXEL_BY_VOXEL and one.within != "nonzero" for one in plan.intensity)


def by_window(frame: Volume, plan: Plan) -> ByWindow:
    """``frame`` (of ``framed``) as ``is_by_window`` allows it: no copy of it is made."""
    return ByWindow(frame.data, tuple(build("intensity", INTENSITIES, one.scheme) for one in plan.intensity))


def shape_for(grid: Geometry, plan: Plan) -> Shape:
    """The shape at the plan's spacing over the field of view of ``grid``; native axes keep their own.

    Raises DataError where it has more than ``MAX_VOXELS``: the spacing of one of the two is absurd.
    """
    wanted = (monai_shape if plan.feed.grid == "monai" else shape_at_spacing)(grid, plan.spacing_mm)
    kept = [n if a in plan.feed.native_axes else w for a, (n, w) in enumerate(zip(grid.shape, wanted, strict=True))]
    if math.prod(kept) * plan.channels > MAX_VOXELS:
        raise DataError(
            f"at the model's spacing of {' x '.join(f'{s:g}' for s in plan.spacing_mm)} mm the scan would have "
            f"{' x '.join(map(str, kept))} voxels, too large (limit {MAX_VOXELS}); is the spacing of the scan right?"
        )
    return kept[0], kept[1], kept[2]


def thick_axis(spacing_mm: TripleMm, plan: Plan, how: Resampling, *, back: bool = False) -> int | None:
    """The axis that is resampled on its own: the longest of the voxels it comes from, else of those it goes to.

    ``spacing_mm`` is the scan's; ``back`` from the plan's grid. None where no axis, or more than one, is that long.
    """
    planned = [
        s if a in plan.feed.native_axes else p for a, (s, p) in enumerate(zip(spacing_mm, plan.spacing_mm, strict=True))
    ]
    for spacing in (planned, spacing_mm) if back else (spacing_mm, planned):
        if how.thick is not None and max(spacing) / min(spacing) > how.thick:
            longest = [a for a, s in enumerate(spacing) if max(spacing) / s == 1]
            return longest[0] if len(longest) == 1 else None
    return None


def restore_orders(spacing_mm: TripleMm, plan: Plan) -> Shape:
    """The spline order along each axis by which logits come from the plan's grid back to a scan of ``spacing_mm``."""
    how = plan.feed.logits
    if how is None:
        return 1, 1, 1
    thick = thick_axis(spacing_mm, plan, how, back=True)
    i, j, k = (how.order_thick if a == thick else how.order for a in range(3))
    return i, j, k


def ways_back(grid: Geometry, plan: Plan) -> Ways:
    """How logits come from the plan's grid back to ``grid``, a scan's: along each axis by a spline order, or on a line."""
    if plan.feed.grid != "monai" or plan.feed.native_axes or (lines := monai_lines(grid, plan.spacing_mm)) is None:
        return restore_orders(grid.spacing_mm, plan)
    i, j, k = ((-start / step, 1 / step) for start, step in lines)
    return i, j, k


def _not_zero(frame: Volume) -> npt.NDArray[np.bool_]:
    """The voxels that are not 0 in every channel, and what they enclose."""
    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes((frame.data != 0).any(axis=0))
    return filled


def preprocess_reference(reference: LabelMap, image: Volume, plan: Plan) -> LabelMap:
    """``reference`` as contiguous channels on the grid that ``preprocess`` gives ``image``; ignored is what ignored voxels touch.

    The reference may be stored in another order; it must lie on the image's grid (the dataset check sees to it). Raises
    DataError for an imported plan that crops or resamples in its own way: nothing is trained with it.
    """
    if plan.feed != Feed():
        raise DataError("this plan was imported to segment with; to train on, start a config with `init: MODEL`")
    stored = image.canonical().geometry
    order = order_between(reference.geometry, stored)
    if order is None:
        raise DataError(f"label grid {reference.geometry} differs from the image grid {image.geometry}")
    labels = plan.structure_labels
    ras = upright(stored)
    channels = label_map_onto(LabelMap(labels.to_channels(order.array(reference.data)), stored), ras).data
    shape = shape_at_spacing(ras, plan.spacing_mm)
    resampled = resample_channels(channels, labels.channels, shape)
    if labels.ignore is not None:
        resampled = np.where(resample_touched(channels == labels.channels, shape), labels.channels, resampled)
    return LabelMap(resampled.astype(labels.channel_dtype, copy=False), resized(ras, shape))
