"""The fingerprint of a dataset: what its training cases measure."""

from collections.abc import Iterator, Sequence

import numpy as np

from medseg.core.plan import Arranged, Fingerprint, ForegroundIntensity
from medseg.data.check import CaseFacts

ARRANGED_CASES, ARRANGED_MM = 5, 5.0  # fewer cases, or structures nearer to each other, say nothing of how they lie


def fingerprint(facts: Sequence[CaseFacts]) -> Fingerprint:
    """Shapes, spacings, foreground intensities and structure sizes of ``facts``; never empty."""
    names = facts[0].voxels
    pooled = np.concatenate([f.foreground for f in facts], axis=1).astype(np.float64)
    shape = np.median([f.shape for f in facts], axis=0).round().astype(int)
    present = {name: [f.voxels[name] for f in facts if f.voxels[name]] for name in names}
    volumes = {name: [f.volume_ml(name) for f in facts if f.voxels[name]] for name in names}
    return Fingerprint(
        cases=len(facts),
        channels=facts[0].channels,
        channel_names=facts[0].case.channels,
        median_shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        spacings_mm=tuple(f.spacing_mm for f in facts),
        shapes=tuple(f.shape for f in facts),
        foreground=tuple(_intensity(channel) for channel in pooled),
        voxels_per_structure={name: float(np.mean(found)) if found else 0.0 for name, found in present.items()},
        cases_per_structure={name: len(found) for name, found in present.items()},
        volumes_ml={name: (min(found), max(found)) for name, found in volumes.items() if found},
        arrangement=tuple(_arrangement(facts)),
        ignored_voxels=sum(f.ignored for f in facts),
    )


def _arrangement(facts: Sequence[CaseFacts]) -> Iterator[Arranged]:
    """For each structure and axis the one that lies farthest below it in every case that holds both whole, and in enough."""
    names = list(facts[0].voxels)
    centres = np.full((len(facts), len(names), 3), np.nan)
    for case, found in zip(centres, facts, strict=True):
        for name, extent in found.extents.items():
            if not extent.touches:
                case[names.index(name)] = extent.centre_mm
    for n, upper in enumerate(names):
        gaps = centres[:, n, None] - centres
        known = (~np.isnan(gaps)).sum(axis=0)
        smallest = np.where(known >= ARRANGED_CASES, np.where(np.isnan(gaps), np.inf, gaps).min(axis=0), -np.inf)
        for axis in range(3):
            lowest = int(np.argmax(smallest[:, axis]))
            if smallest[lowest, axis] >= ARRANGED_MM:
                gap = round(float(smallest[lowest, axis]), 3)
                yield Arranged(lower=names[lowest], upper=upper, axis=axis, gap_mm=gap)


def _intensity(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> ForegroundIntensity:
    lower, upper = np.percentile(values, (0.5, 99.5))
    return ForegroundIntensity(
        mean=float(values.mean()),
        sd=float(values.std()),
        percentile_0_5=float(lower),
        percentile_99_5=float(upper),
        minimum=float(values.min()),
        maximum=float(values.max()),
    )
