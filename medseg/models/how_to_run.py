"""The section ``inference`` of model.json: how a model wants to be run, as was measured or as its makers say."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from medseg.core.config_inference import Postprocess, Refine

LARGEST_DICE_LOSS = 0.001
"""The mean Dice that a structure may lose for bf16 to be taken unasked."""


class Bf16DiceLoss(BaseModel):
    """Dice in f32 less Dice in bf16 on ``cases`` of the validation: its ``mean``, and the ``largest`` of one ``structure``."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    mean: float
    largest: float
    structure: str
    cases: Annotated[int, Field(ge=1)]
    backend: str

    @property
    def chosen(self) -> bool:
        """Whether it is little enough for bf16 to be taken unasked."""
        return self.largest <= LARGEST_DICE_LOSS


class PresetDice(BaseModel):
    """Mean Dice over ``cases`` in which it is defined, with its 95 % bootstrap interval; None: one patient has no interval."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    mean: float
    low: float | None = None
    high: float | None = None
    cases: Annotated[int, Field(ge=1)]


class Preset(BaseModel):
    """One way to run a model, and what ``medseg tune`` measured of it.

    ``seconds_per_scan``: mean over the cases without reading and writing, for all folds of the model, on ``machine``.
    ``measured_on`` says which cases these were. ``roi``: look first, see ``inference.roi``. ``refine``: None as the model
    wishes.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    overlap: Annotated[float, Field(ge=0, le=0.9)]
    mirror: tuple[Annotated[int, Field(ge=0, le=2)], ...] = ()
    postprocess: Postprocess = {}
    roi: bool = False
    refine: Refine = None
    mean_dice: float
    dice: dict[str, PresetDice]
    seconds_per_scan: float
    cases: Annotated[int, Field(ge=1)]
    measured_on: str
    machine: str

    def quoted(self, name: str) -> str:
        """What was measured, on one line."""
        each = ", ".join(
            f"{structure} {dice.mean:.3f}"
            + (f" ({dice.low:.3f} to {dice.high:.3f})" if dice.low is not None and dice.high is not None else "")
            for structure, dice in self.dice.items()
        )
        how = (", looking first (roi)" if self.roi else "") + (
            f", refined by {self.refine.name}" if self.refine else ""
        )
        return (
            f"preset {name}{how}: measured Dice {self.mean_dice:.3f} ({each}; 95 % intervals) on {self.cases} {self.measured_on}, "
            f"{self.seconds_per_scan:.2g} s a scan on {self.machine}"
        )


Share = Annotated[float, Field(ge=0, le=1)]
Scans = dict[str, tuple[Annotated[tuple[tuple[Share, Share], ...], Field(min_length=1)], ...]]
"""Of each structure, by patient: the expected and the measured Dice of every scan of theirs in which it was found."""


class DiceCalibration(BaseModel):
    """What a model expected of its label maps (``inference.predicted``), and the Dice that was measured, on scans it had not seen.

    ``scans``: by the folds that segmented them. ``settings``: those of ``InferenceSettings`` that change a label map, and
    ``folds``, the number whose outputs were averaged. Holds no name of a case or of a patient: they may tell who it was.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    settings: dict[str, Any]
    measured_on: str
    scans: dict[str, Scans]


class HowToRun(BaseModel):
    """How a model wants to be run where the user does not say; None: as usual. Keys that medseg does not know are ignored.

    The names and the meaning are those of ``inference.settings.InferenceSettings``.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    overlap: Annotated[float, Field(ge=0, le=0.9)] | None = None
    mirror: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = None
    mirror_labels: Literal["swapped", "kept"] | None = None
    ensemble: Literal["probabilities", "logits"] | None = None
    accumulators: Literal["f32", "f16", "nnunet"] | None = None
    refine: Refine = None
    postprocess: Postprocess | None = None
    bf16_dice_loss: Bf16DiceLoss | None = None
    presets: dict[str, Preset] = {}
    predicted_dice: tuple[DiceCalibration, ...] = ()
