"""How a structure is judged: the choices that change a figure, each stated in every report."""

from dataclasses import dataclass
from typing import Literal, get_args

from medseg.core.errors import ConfigError

Missed = Literal["diagonal", "undefined"]
DEFAULT_TOLERANCE_MM = 2.0
DEFAULT_LESION_IOU = 0.1
DEFAULT_BOUNDARY_MM = 2.0


@dataclass(frozen=True)
class Rules:
    """The choices for one structure.

    ``tolerance_mm``: how far a surface may lie from the other and still count as the same (``nsd``). ``missed``: what a
    distance is where one mask is empty: the image diagonal, or undefined. ``lesion_iou``: the least IoU of two lesions
    that are the same one. ``boundary_mm``: the width of the rim that ``boundary_iou`` compares.
    Raises ConfigError for a choice that makes no sense.
    """

    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    missed: Missed = "diagonal"
    lesion_iou: float = DEFAULT_LESION_IOU
    boundary_mm: float = DEFAULT_BOUNDARY_MM

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance_mm < float("inf"):
            raise ConfigError(f"tolerance {self.tolerance_mm} mm: give a number of millimetres from 0")
        if self.missed not in get_args(Missed):
            raise ConfigError(f"missed {self.missed!r}: choose {' or '.join(get_args(Missed))}")
        if not 0 < self.lesion_iou <= 1:
            raise ConfigError(f"lesion IoU {self.lesion_iou}: give a number above 0 and at most 1, such as 0.1")
        if not 0 < self.boundary_mm < float("inf"):
            raise ConfigError(f"boundary {self.boundary_mm} mm: give a number of millimetres above 0, such as 2")
