"""What an evaluation is asked for, checked once and stated in its report."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from medseg.core.errors import ConfigError
from medseg.metrics.calibration import CALIBRATION
from medseg.metrics.overlap import empty_mask_policy
from medseg.metrics.rules import DEFAULT_BOUNDARY_MM, DEFAULT_LESION_IOU, DEFAULT_TOLERANCE_MM, Missed, Rules
from medseg.metrics.table import CASE_METRICS, LESION_METRICS, chosen_metrics


@dataclass(frozen=True)
class Settings:
    """``metrics`` for every structure, those of lesions for ``lesions`` too.

    ``tolerances_mm`` are those of single structures, ``tolerance_mm`` is that of the others; the same
    of ``boundaries_mm`` and ``boundary_mm``, the width for boundary_iou. ``regions`` are structures taken
    together under a name, scored beside them. ``probabilities``: whether they are scored, too.
    """

    metrics: tuple[str, ...] = field(default_factory=lambda: chosen_metrics(None))
    tolerance_mm: float = DEFAULT_TOLERANCE_MM
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    missed: Missed = "diagonal"
    lesions: tuple[str, ...] = ()
    lesion_iou: float = DEFAULT_LESION_IOU
    regions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    boundary_mm: float = DEFAULT_BOUNDARY_MM
    boundaries_mm: Mapping[str, float] = field(default_factory=dict)
    probabilities: bool = False

    @classmethod
    def of(
        cls,
        *,
        metrics: Sequence[str] | None,
        tolerance_mm: float | Mapping[str, float],
        missed: str,
        lesions: Sequence[str],
        lesion_iou: float,
        regions: Mapping[str, Sequence[str]] | None = None,
        boundary_mm: float | Mapping[str, float] = DEFAULT_BOUNDARY_MM,
        probabilities: bool = False,
    ) -> "Settings":
        """From arguments as people give them; in ``tolerance_mm`` and ``boundary_mm`` the empty name stands for all
        structures not named.

        Raises ConfigError for a metric that is unknown or a figure out of range.
        """
        elsewhere, by_structure = _by_structure(tolerance_mm, DEFAULT_TOLERANCE_MM)
        width, widths = _by_structure(boundary_mm, DEFAULT_BOUNDARY_MM)
        chosen = chosen_metrics(metrics)
        parts = {name: tuple(dict.fromkeys(structures)) for name, structures in (regions or {}).items()}
        settings = cls(
            chosen,
            elsewhere,
            by_structure,
            cast(Missed, missed),
            tuple(lesions),
            lesion_iou,
            parts,
            width,
            widths,
            probabilities,
        )
        for structure in ("", *by_structure, *widths):
            settings.rules(structure)  # raises for what is out of range
        return settings

    def rules(self, structure: str) -> Rules:
        """How ``structure`` is judged."""
        width = self.boundaries_mm.get(structure, self.boundary_mm)
        return Rules(self.tolerances_mm.get(structure, self.tolerance_mm), self.missed, self.lesion_iou, width)

    def metrics_of(self, structure: str) -> tuple[str, ...]:
        """The figures of one ``structure``."""
        of_structures = tuple(name for name in self.metrics if name not in CASE_METRICS)
        return (*of_structures, *LESION_METRICS) if structure in self.lesions else of_structures

    @property
    def empty_masks(self) -> str:
        """The policy for empty masks in words."""
        return empty_mask_policy(self.missed)

    def require_structures(self, known: Collection[str]) -> None:
        """Raises ConfigError where a structure that an option names is not ``known``, or a region has a structure's name."""
        both = {*known, *self.regions}
        for region in self.regions:
            if region in known or not region:
                raise ConfigError(f"--region: {region!r} is a structure; give the region a name of its own")
        parts = [name for structures in self.regions.values() for name in structures]
        asked = (
            ("--tolerance", self.tolerances_mm, both),
            ("--boundary", self.boundaries_mm, both),
            ("--lesions", self.lesions, both),
            ("--region", parts, known),
        )
        for option, names, allowed in asked:
            for name in names:
                if name not in allowed:
                    listed = ", ".join(list(known)[:12]) + (", ..." if len(known) > 12 else "")
                    raise ConfigError(f"{option}: no structure is called {name!r}; there are: {listed or 'none'}")

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "metrics": list(self.metrics),
            "tolerance_mm": {"default": self.tolerance_mm, **self.tolerances_mm},
            "boundary_mm": {"default": self.boundary_mm, **self.boundaries_mm},
            "missed": self.missed,
            "lesions": list(self.lesions),
            "regions": {name: list(structures) for name, structures in self.regions.items()},
            **({"calibration": CALIBRATION} if self.probabilities else {}),
            "lesion_matching": (
                "26-connected components, one to one, most pairs first, then the largest sum of IoU; "
                f"a pair has an IoU of at least {self.lesion_iou:g}"
            ),
        }


def _by_structure(millimetres: float | Mapping[str, float], default: float) -> tuple[float, dict[str, float]]:
    """For all structures not named, and by name."""
    named = dict(millimetres) if isinstance(millimetres, Mapping) else {"": millimetres}
    return named.pop("", default), named
