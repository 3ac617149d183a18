"""REFINEMENTS: what changes a label map by the scan's intensities and the network's probabilities, before post-processing."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from medseg.core.component import Component, build
from medseg.core.config_inference import NOTHING
from medseg.core.errors import ConfigError


@dataclass(frozen=True)
class DenseCrf:
    """What ``dense_crf`` was asked for."""

    smooth_weight: float
    smooth_mm: float
    appearance_weight: float
    appearance_mm: float
    appearance_intensity: float
    iterations: int

    @property
    def weight(self) -> float:
        """How far the neighbours can move a logit, about: what is more certain than that stays."""
        return self.smooth_weight + self.appearance_weight

    @property
    def reach_mm(self) -> float:
        """Beyond it a voxel has little say: two standard deviations of the wider kernel."""
        return 2 * max(
            self.smooth_mm if self.smooth_weight else 0.0, self.appearance_mm if self.appearance_weight else 0.0
        )


def dense_crf(
    *,
    smooth_weight: float = 0.0,
    smooth_mm: float = 1.0,
    appearance_weight: float = 2.0,
    appearance_mm: float = 1.5,
    appearance_intensity: float = 0.15,
    iterations: int = 5,
) -> DenseCrf:
    """Moves uncertain borders to where the image changes: a fully connected CRF by mean field (arXiv:1210.5644).

    Where all neighbours agree on a label its logit rises by about ``smooth_weight``, wherever they lie within the standard
    deviation ``smooth_mm`` (millimetres), and by ``appearance_weight`` for those that lie within ``appearance_mm`` and look
    alike: within ``appearance_intensity``, in units of the normalised image that the network sees, mostly its standard
    deviations. ``iterations`` of mean field. Weights that are large for what the network is unsure of make thin structures
    vanish: measure before you use it.
    """
    crf = DenseCrf(smooth_weight, smooth_mm, appearance_weight, appearance_mm, appearance_intensity, iterations)
    for field in fields(crf):
        value = getattr(crf, field.name)
        is_weight = field.name.endswith("weight")
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value < 0 or not (value or is_weight):
            lowest = "a number of 0 or more" if is_weight else "a number above 0"
            raise ConfigError(f"refine: {field.name} is {value!r}; give {lowest}")
    if not isinstance(iterations, int) or iterations > 100:
        raise ConfigError(f"refine: iterations is {iterations!r}; give a whole number from 1 to 100")
    return crf


REFINEMENTS: dict[str, Callable[..., DenseCrf]] = {"dense_crf": dense_crf}


def refinement_of(asked: Component) -> Component | None:
    """What was asked for, built once: name and options are right. None for ``none``. Raises ConfigError."""
    if asked.name == NOTHING:
        return None
    build("refine", REFINEMENTS, asked)
    return asked
