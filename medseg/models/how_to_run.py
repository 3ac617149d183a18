"""The section ``inference`` of model.json: how a model wants to be run, as was measured or as its makers say."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from medseg.core.config_inference import Postprocess


class Bf16DiceLoss(BaseModel):
    """Dice in f32 less Dice in bf16 on ``cases`` of the validation: its ``mean``, and the ``largest`` of one ``structure``."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    mean: float
    largest: float
    structure: str
    cases: Annotated[int, Field(ge=1)]
    backend: str


class HowToRun(BaseModel):
    """How a model wants to be run where the user does not say; None: as usual. Keys that medseg does not know are ignored.

    The names and the meaning are those of ``inference.settings.InferenceSettings``.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    overlap: Annotated[float, Field(ge=0, le=0.9)] | None = None
    mirror: tuple[Annotated[int, Field(ge=0, le=2)], ...] | None = None
    mirror_labels: Literal["swapped", "kept"] | None = None
    ensemble: Literal["probabilities", "logits"] | None = None
    postprocess: Postprocess | None = None
    bf16_dice_loss: Bf16DiceLoss | None = None
