"""INTENSITIES: from stored intensities to the network's input, one entry per scheme."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Normalise = Callable[[npt.NDArray[np.generic]], Array]


def ct_window(*, lower: float, upper: float, mean: float, sd: float) -> Normalise:
    """Clip to [``lower``, ``upper``] HU, then subtract ``mean`` and divide by ``sd``, all measured inside the structures.

    Source: Isensee 2021, doi:10.1038/s41592-020-01008-z (0.5 and 99.5 percentiles of the foreground).
    """

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        clipped = np.clip(data, lower, upper).astype(np.float32, copy=False)
        normalised: Array = (clipped - np.float32(mean)) / np.float32(max(sd, 1e-6))
        return normalised

    return normalise


def z_score() -> Normalise:
    """Subtract the volume's own mean and divide by its own standard deviation; a constant volume becomes zero."""

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        values = data.astype(np.float64)
        centred = values - values.mean()
        sd = float(np.sqrt(np.mean(centred**2)))
        return (centred / sd).astype(np.float32) if sd > 0 else np.zeros(data.shape, np.float32)

    return normalise


INTENSITIES: dict[str, Callable[..., Normalise]] = {"ct_window": ct_window, "z_score": z_score}
