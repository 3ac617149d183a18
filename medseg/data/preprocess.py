"""From a scan to the plan's grid and intensities: the same function for training and inference."""

import numpy as np

from medseg.core.component import build
from medseg.core.errors import DataError
from medseg.core.geometry import order_between, resized, shape_at_spacing, upright
from medseg.core.plan import Plan
from medseg.core.regrid import label_map_onto, straightened
from medseg.core.volume import LabelMap, Volume
from medseg.data.intensity import INTENSITIES
from medseg.data.resample import resample, resample_channels, resample_touched, spline_orders


def preprocess(volume: Volume, plan: Plan) -> Volume:
    """``volume`` in RAS storage, normalised, at the plan's spacing over the same field of view; float32.

    A sheared scan (gantry tilt) is resampled to right angles first. Raises DataError where the number of channels is not
    the plan's.
    """
    if volume.channels != plan.channels:
        raise DataError(f"the scan has {volume.channels} channel(s), the plan expects {plan.channels}")
    ras = straightened(volume.canonical())
    shape = shape_at_spacing(ras.geometry, plan.spacing_mm)
    orders = spline_orders(ras.geometry.spacing_mm)
    # One memory layout first: sums and products would otherwise round differently for each storage order.
    data = np.stack(
        [
            resample(build("intensity", INTENSITIES, intensity.scheme)(np.ascontiguousarray(channel)), shape, orders)
            for channel, intensity in zip(ras.data, plan.intensity, strict=True)
        ]
    )
    return Volume(np.ascontiguousarray(data), resized(ras.geometry, shape), volume.warnings)


def preprocess_reference(reference: LabelMap, image: Volume, plan: Plan) -> LabelMap:
    """``reference`` as contiguous channels on the grid that ``preprocess`` gives ``image``; ignored is what ignored voxels touch.

    The reference may be stored in another order; it must lie on the image's grid (the dataset check sees to it).
    """
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
