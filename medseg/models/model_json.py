"""model.json of a model folder: read and checked without torch, so that a scan can be read while torch starts."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medseg.core.errors import MedsegError, ModelError
from medseg.core.labels import Labels
from medseg.core.plan import Fingerprint, Plan
from medseg.core.structures import StructureDetails, detailed
from medseg.models.how_to_run import HowToRun

FORMAT_VERSION = 1
MAX_JSON_BYTES = 16 * 2**20  # which may take 20 times as much memory once read
HOW_TO_GET_ONE = "train one with `medseg train --config FILE`, or try `medseg demo`"


class _Scores(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    dice: dict[str, float | None] = {}
    dice_interval: dict[str, tuple[float, float] | None] = {}


class _Trained(BaseModel):
    seconds: float | None = None


class _Provenance(BaseModel):
    versions: dict[str, str] = {}


def _as(kind: Any) -> AfterValidator:
    """The check that a value is of this ``kind`` in what is read of it; whatever else it holds stays."""
    check = TypeAdapter(kind).validate_python
    return AfterValidator(lambda value: [check(value), value][1])


class ModelCard(BaseModel):
    """What model.json holds. Keys that medseg does not know are ignored: a model never chooses where output goes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    format_version: int
    name: str
    created: str
    plan: Plan
    labels: dict[str, int]
    structures: dict[str, StructureDetails] = Field(default_factory=dict, description="own codes and colours, by name")
    weights: dict[str, str] = Field(description="file name -> sha256")
    fingerprint: Fingerprint | None = None
    validation: Annotated[dict[str, Any], _as(dict[str, _Scores])] = Field(default_factory=dict)
    provenance: Annotated[dict[str, Any], _as(_Provenance)] = Field(default_factory=dict)
    licence: str | None = None
    training: Annotated[dict[str, Any], _as(dict[str, _Trained])] = Field(
        default_factory=dict, description="weights without ending -> how they were trained"
    )
    inference: HowToRun = HowToRun()

    @property
    def detailed_labels(self) -> Labels:
        """The labels with the codes and colours that the model gives its structures."""
        return detailed(self.plan.structure_labels, self.structures)


def read_card(folder: Path) -> ModelCard:
    """model.json of a model folder, checked. Raises ModelError naming the folder and what to do."""
    try:
        if not folder.exists():
            raise ModelError(f"{folder}: this model folder does not exist; {HOW_TO_GET_ONE}")
        holds_nothing = folder.is_dir() and not any(folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder}: this model folder cannot be read ({error.strerror or error})") from None
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: not a medseg model: a model is a folder with model.json and safetensors. Checkpoint, pickle and "
            "TorchScript files may hold code and are unsafe, so their weights are not loaded"
        )
    file = folder / "model.json"
    if not file.is_file():
        what = "is empty" if holds_nothing else "has no model.json (the model's metadata and config)"
        inside = folder / "model"
        hint = f"did you mean {inside}?" if (inside / "model.json").is_file() else HOW_TO_GET_ONE
        raise ModelError(f"{folder}: not a medseg model folder: it {what}; {hint}")
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{file}: larger than {MAX_JSON_BYTES} bytes; this is no model.json")
        content = json.loads(file.read_text(encoding="utf-8"))
        version = content.get("format_version") if isinstance(content, dict) else None
        if isinstance(version, int | float | str) and version not in range(1, FORMAT_VERSION + 1):
            raise ModelError(
                f"{file}: format version {version!r} is not {FORMAT_VERSION}, which this medseg reads; a newer model needs "
                "a newer medseg"
            )
        card = ModelCard.model_validate(content)
        if card.plan.labels != card.labels:
            raise ModelError(f"{file}: labels {card.labels} differ from the plan's labels {card.plan.labels}")
        Labels.from_mapping(card.labels)
    except MedsegError as error:
        raise ModelError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not a model.json that medseg can read: {first_problem(error)}") from None
    if not card.weights:
        raise ModelError(f"{file}: names no weights; copy the model folder again")
    return card


def newest_model(runs: Path) -> Path:
    """The model folder under ``runs`` that was made last, by the time in its model.json. Raises ModelError if there is none."""
    found: list[tuple[str, Path]] = []
    for file in runs.glob("*/model/model.json"):
        try:
            found.append((str(json.loads(file.read_text(encoding="utf-8"))["created"]), file.parent))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged folder is not the newest model; naming it with --model says what is wrong
    if not found:
        raise ModelError(f"no model under {runs}; give --model FOLDER, or {HOW_TO_GET_ONE}")
    return max(found)[1]


def first_problem(error: Exception) -> str:
    """What ``error`` says first, on one line where it is pydantic's."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = "".join(f"{part}." for part in first["loc"]).removesuffix(".")
        return f"{where}{': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"
    return str(error)
