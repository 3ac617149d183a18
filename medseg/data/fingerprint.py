"""The fingerprint of a dataset: what its training cases measure."""

from collections.abc import Sequence

import numpy as np

from medseg.core.plan import Fingerprint, ForegroundIntensity
from medseg.data.check import CaseFacts


def fingerprint(facts: Sequence[CaseFacts]) -> Fingerprint:
    """Shapes, spacings, foreground intensities and structure sizes of ``facts``; never empty."""
    names = facts[0].voxels
    pooled = np.concatenate([f.foreground for f in facts], axis=1).astype(np.float64)
    shape = np.median([f.shape for f in facts], axis=0).round().astype(int)
    present = {name: [f.voxels[name] for f in facts if f.voxels[name]] for name in names}
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
        ignored_voxels=sum(f.ignored for f in facts),
    )


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
