"""What a segmentation found, and how a notebook shows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.inference.postprocess import Change
from medseg.inference.predicted import LEVEL, PredictedDice
from medseg.inference.settings import Accumulators
from medseg.io.recorded import Recorded

if TYPE_CHECKING:
    from medseg.inference.roi import Roi


def as_nibabel(label_map: LabelMap) -> Any:
    """The nibabel image of a label map."""
    from medseg.io.nifti_image import nibabel_label_image

    return nibabel_label_image(label_map)


@dataclass(frozen=True, eq=False)
class SegmenterResult:
    """A ``label_map`` on the scan's own grid, ``volumes_ml`` by structure, ``warnings``, and ``seconds`` by stage.

    ``windows``: how many patches the network saw; ``accumulators``: the type in which what it said of them was added up.
    ``refined``: how many voxels the refinement changed, None without one.
    ``postprocessed``: what post-processing did to each structure that has any.
    ``predicted_dice``: of each structure, where the model folder has a calibration (``inference.predicted``).
    ``review``: why a human should look at this result; empty where nothing speaks against it. ``roi``: what became of looking
    first.
    ``image()`` gives the label map back as the kind of the scan.
    """

    label_map: LabelMap
    labels: Labels
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...]
    seconds: dict[str, float]
    windows: int
    accumulators: Accumulators
    back: Callable[[LabelMap], Any]
    postprocessed: dict[str, Change] = field(default_factory=dict)
    recorded: Recorded | None = None
    review: tuple[str, ...] = ()
    predicted_dice: dict[str, PredictedDice] = field(default_factory=dict)
    refined: int | None = None
    roi: "Roi | None" = None

    def image(self) -> Any:
        """The label map as what the scan was: a nibabel or SimpleITK image on exactly its grid, or an array (I, J, K).

        Of a Volume a LabelMap; of a file a nibabel image.
        """
        return self.back(self.label_map)

    def to_nibabel(self) -> Any:
        """The label map as a nibabel image: NIfTI with intent label and the structures' names in its header."""
        from medseg.io.nifti_image import nibabel_label_image

        return nibabel_label_image(self.label_map)

    def to_simpleitk(self) -> Any:
        """The label map as a SimpleITK image. Raises GeometryError for a sheared grid."""
        from medseg.io.itk import itk_label_image

        return itk_label_image(self.label_map)

    def save(self, path: Path | str) -> None:
        """Write the label map as .nii.gz or .nii, whole or not at all. Raises OutputError and ResourceError."""
        from medseg.io.nifti import write_label_map

        write_label_map(Path(path), self.label_map)

    def __repr__(self) -> str:
        return f"SegmenterResult({', '.join(f'{n} {v:.1f} mL' for n, v in self.volumes_ml.items())})"

    def _repr_html_(self) -> str:
        return result_html(
            repr(self.label_map.geometry), self.labels, self.volumes_ml, self.warnings, self.predicted_dice
        )


def result_html(
    title: str,
    labels: Labels,
    volumes_ml: Mapping[str, float],
    warnings: tuple[str, ...],
    predicted: Mapping[str, PredictedDice],
) -> str:
    """Title, volumes and predicted Dice by structure and warnings for a notebook; everything escaped."""
    rows = "".join(
        f"<tr><td>{coloured(s.name, s.colour)}</td><td style='text-align:right'>{volumes_ml[s.name]:.2f}</td>"
        + (f"<td>{escape(str(predicted[s.name]))}</td>" if predicted else "")
        + "</tr>"
        for s in labels.structures
    )
    more = f"<th>predicted Dice ({LEVEL:.0%} interval)</th>" if predicted else ""
    notes = "".join(f"<p>warning: {escape(warning)}</p>" for warning in warnings)
    return f"<p>{escape(title)}</p><table><tr><th>structure</th><th>volume mL</th>{more}</tr>{rows}</table>{notes}"


def coloured(name: str, colour: str) -> str:
    """``name``, escaped, behind a square of its colour."""
    return f"<span style='color:{colour}'>&#9632;</span> {escape(name)}"
