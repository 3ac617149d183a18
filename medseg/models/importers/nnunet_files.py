"""The files of a folder that nnU-Net v2 trained: which one, its folds, plans.json, dataset.json and dataset_fingerprint.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medseg.core.errors import ModelError
from medseg.models.importers.imported import ImportOptions

MAX_JSON_BYTES = 16 * 2**20  # which may take 20 times as much memory once read
CHECKPOINT = "checkpoint_final.pth"
M = TypeVar("M", bound=BaseModel)


class _Known(BaseModel):
    """The keys that matter; nnU-Net's files hold others too."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Architecture(_Known):
    network_class_name: str
    arch_kwargs: dict[str, Any]


class Configuration(_Known):
    """One entry of ``configurations`` with what it inherits; sizes in the order of the transposed array."""

    patch_size: list[int] = Field(min_length=2, max_length=3)
    spacing: list[float] = Field(min_length=2, max_length=3)
    batch_size: int = 2
    preprocessor_name: str = "DefaultPreprocessor"
    normalization_schemes: list[str]
    use_mask_for_norm: list[bool]
    resampling_fn_data: str
    resampling_fn_data_kwargs: dict[str, Any] = {}
    resampling_fn_probabilities: str
    resampling_fn_probabilities_kwargs: dict[str, Any] = {}
    architecture: Architecture
    previous_stage: str | None = None


class IntensityProperties(_Known):
    mean: float
    std: float
    min: float = 0.0
    max: float = 0.0
    percentile_00_5: float
    percentile_99_5: float


class Plans(_Known):
    """plans.json, with one configuration chosen."""

    dataset_name: str = ""
    plans_name: str = ""
    image_reader_writer: str
    transpose_forward: list[int] = Field(min_length=3, max_length=3)
    label_manager: str = "LabelManager"
    original_median_spacing_after_transp: list[float] = []
    configurations: dict[str, Any]
    foreground_intensity_properties_per_channel: dict[str, IntensityProperties] = {}


class Dataset(_Known):
    """dataset.json."""

    channel_names: dict[int, str] = Field(min_length=1)
    labels: dict[str, int | list[int]]
    regions_class_order: list[int] | None = None
    training_cases: int | None = Field(None, alias="numTraining")


class DatasetFingerprint(_Known):
    """dataset_fingerprint.json; sizes in the order in which nnU-Net reads an array."""

    spacings: list[tuple[float, float, float]] = Field(min_length=1)
    shapes_after_crop: list[tuple[int, int, int]]
    foreground_intensity_properties_per_channel: dict[int, IntensityProperties]

    @model_validator(mode="after")
    def _even(self) -> "DatasetFingerprint":
        if len(self.spacings) != len(self.shapes_after_crop):
            raise ValueError(f"{len(self.spacings)} spacings for {len(self.shapes_after_crop)} shapes_after_crop")
        return self


def holds_model(folder: Path) -> bool:
    """Whether ``folder`` is one trained configuration: by its plans.json or its folds."""
    return (folder / "plans.json").is_file() or any(one.is_dir() for one in folder.glob("fold_*"))


def model_folders(folder: Path) -> list[Path]:
    """``folder`` itself, or its subfolders called Trainer__Plans__configuration."""
    if holds_model(folder):
        return [folder]
    return sorted(one for one in folder.glob("*__*__*") if one.is_dir() and holds_model(one))


def chosen_folder(folder: Path, configuration: str | None) -> Path:
    """The one trained configuration in ``folder``. Raises ModelError naming them where there are several."""
    found = model_folders(folder)
    if len(found) > 1 and configuration is not None:
        found = [one for one in found if one.name.split("__")[2] == configuration] or found
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ModelError(f"{folder}: holds {len(found)} trained models ({names}); give one of these folders")
    return found[0]


def chosen_checkpoints(folder: Path, options: ImportOptions) -> dict[str, Path]:
    """``{"fold_0": checkpoint}``: the folds that were asked for, else all numbered ones, else fold_all."""
    name = options.checkpoint or CHECKPOINT
    there = {one.name: one / name for one in sorted(folder.glob("fold_*")) if (one / name).is_file()}
    if options.folds is not None:
        wanted = [f"fold_{fold}" for fold in options.folds]
    else:
        wanted = [fold for fold in there if fold != "fold_all"] or list(there)
    missing = [fold for fold in wanted if fold not in there]
    if missing or not wanted:
        others = sorted({path.name for path in folder.glob("fold_*/*.pth")} - {name})
        what = f"{missing[0]} has no {name}" if missing else f"no fold_* has a {name}"
        hint = f"; folds that have it: {', '.join(there)}" if there else ""
        hint += f"; other checkpoints: {', '.join(others)} (--checkpoint)" if others else ""
        raise ModelError(f"{folder}: {what}, the weights are missing{hint}")
    return {fold: there[fold] for fold in wanted}


def read_plans(folder: Path) -> Plans:
    content = read_json(folder / "plans.json")
    # The name of nnU-Net's first releases.
    older = content.get("foreground_intensity_properties_by_modality")
    if older is not None:
        content = {"foreground_intensity_properties_per_channel": older} | content
    return parsed(Plans, content, folder / "plans.json")


def read_dataset(folder: Path) -> Dataset:
    content = read_json(folder / "dataset.json")
    if "channel_names" not in content and "modality" in content:
        content = content | {"channel_names": content["modality"]}
    return parsed(Dataset, content, folder / "dataset.json")


def read_fingerprint(folder: Path) -> DatasetFingerprint | None:
    """None where the folder has none: nnU-Net needs it for training only."""
    file = folder / "dataset_fingerprint.json"
    return parsed(DatasetFingerprint, read_json(file), file) if file.is_file() else None


def resolved(plans: Plans, name: str, file: Path) -> dict[str, Any]:
    """The configuration ``name`` over those that it inherits from."""
    content: dict[str, Any] = {}
    seen: list[str] = []
    following: Any = name
    while following is not None:
        one = plans.configurations.get(following)
        if not isinstance(one, dict) or following in seen:
            known = ", ".join(plans.configurations)
            raise ModelError(f"{file}: has no configuration {following!r} that can be used; it has {known}")
        seen.append(following)
        content = one | content
        following = one.get("inherits_from")
    return content


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError naming the file."""
    try:
        if file.exists() and not file.is_file():
            raise ModelError(f"{file}: not a regular file, so it is not read")
        if file.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{file}: larger than {MAX_JSON_BYTES} bytes; this is no {file.name} of nnU-Net")
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{file}: missing; a folder that nnU-Net trained holds plans.json, dataset.json and fold_*/{CHECKPOINT}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: not JSON that can be read: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{file}: not a JSON object, so no {file.name} of nnU-Net")
    return content


def parsed(kind: type[M], content: Mapping[str, Any], file: Path) -> M:
    """``content`` as ``kind``. Raises ModelError naming the file and the first key that does not fit."""
    try:
        return kind.model_validate(content)
    except (ValidationError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise ModelError(f"{file}: nested too deeply") from None
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = "missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
        raise ModelError(f"{file}: not a {file.name} of nnU-Net v2 that medseg can read: {where}: {what}") from None
