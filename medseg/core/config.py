"""The config: what was asked. YAML in, a checked and frozen object out, every error with its line."""

import re
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError, model_validator

from medseg.core.component import Component
from medseg.core.config_data import DATA_PATHS, DataConfig
from medseg.core.config_errors import problems
from medseg.core.config_inference import EVERY, InferenceConfig
from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.core.structures import LabelEntry, labels_of
from medseg.core.yaml import Document, parse_scalar, parse_yaml

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def budget_seconds(text: str) -> float:
    """Seconds of a budget such as ``20m``, ``8h``, ``1h30m`` or ``90s``. Raises ValueError for anything else."""
    match = _BUDGET.fullmatch(text.strip())
    if not text.strip() or match is None:
        raise ValueError(f"{text!r} is not a time such as 90s, 20m, 8h or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def _budget(value: Any) -> Any:
    if value is not None and not 20 <= budget_seconds(str(value)) <= 60 * 24 * 3600:
        raise ValueError(f"{value!r} must lie between 20s and 60 days")
    return None if value is None else str(value)


def _device(value: Any) -> Any:
    if not isinstance(value, str) or not _DEVICE.fullmatch(value):
        raise ValueError(f"{value!r} is no device; choose auto, cpu, cuda or cuda:N")
    return value


def _fold(value: Any) -> Any:
    if value in ("all", "final") or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError(f"{value!r} is no fold; give its number from 0, all, or final")


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number")
    return value


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[StrictInt, Field(ge=1, le=100_000)]
Size = Annotated[StrictInt, Field(ge=1, le=4096)]
Axis = Annotated[StrictInt, Field(ge=0, le=2)]
Auto = Literal["auto"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PlanConfig(_Section):
    """What the planner may decide (auto) and what is fixed."""

    dimensions: Auto | Literal[2, 3] = "auto"
    spacing_mm: Auto | tuple[Number, Number, Number] = "auto"
    patch_size: Auto | tuple[Size, Size, Size] | tuple[Size, Size] = "auto"
    batch_size: Auto | Positive = "auto"
    architecture: Component = Component(name="unet")
    intensity: Auto | Component | tuple[Component, ...] = "auto"
    mirror_axes: Auto | Annotated[tuple[Axis, ...], Field(max_length=3)] = "auto"

    @model_validator(mode="after")
    def _spacing_is_real(self) -> "PlanConfig":
        if self.spacing_mm != "auto" and not all(0.01 <= s <= 100 for s in self.spacing_mm):
            raise ValueError(f"spacing_mm {list(self.spacing_mm)} must lie between 0.01 and 100 mm")
        return self


class TrainConfig(_Section):
    """How long and how. ``steps`` overrules ``epochs``, which overrules ``budget``."""

    budget: Annotated[str | None, BeforeValidator(_budget)] = "8h"
    steps: Annotated[StrictInt, Field(ge=1, le=10_000_000)] | None = None
    epochs: Positive | None = None
    learning_rate: Auto | Annotated[Number, Field(gt=0, le=10)] = "auto"
    optimizer: Auto | Component = "auto"
    schedule: Auto | Component = "auto"
    loss: Component = Component(name="dice_ce")
    foreground_fraction: Auto | Annotated[Number, Field(ge=0, le=1)] = "auto"
    sampling: Literal["balanced", "frequency"] | dict[str, Annotated[Number, Field(ge=0, le=1e6)]] = "balanced"
    augmentation: Auto | Literal["none"] | dict[str, bool | dict[str, Any]] = "auto"
    precision: Literal["auto", "f32", "bf16", "fp16"] = "auto"
    accumulate: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    clip: Annotated[Number, Field(gt=0)] | None = 12.0
    ema: Auto | Annotated[Number, Field(ge=0, lt=1)] = "auto"
    compile: Auto | bool = "auto"
    tensorboard: bool = False
    validate_every: Auto | Annotated[StrictInt, Field(ge=1)] = "auto"
    validation_cases: Auto | Annotated[StrictInt, Field(ge=0)] = "auto"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**31)] = 0
    folds: Annotated[StrictInt, Field(ge=2, le=1000)] = 5
    fold: Annotated[int | str, BeforeValidator(_fold)] = 0
    init: Path | None = None

    @model_validator(mode="after")
    def _some_length(self) -> "TrainConfig":
        nothing_asked = not ({"budget", "steps", "epochs"} & {n for n in self.model_fields_set if getattr(self, n)})
        if nothing_asked and self.model_fields_set & {"budget", "steps", "epochs"}:
            raise ValueError("budget, steps and epochs are all null; set one, such as `budget: 8h` or `epochs: 100`")
        if isinstance(self.fold, int) and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist among {self.folds} folds (0 to {self.folds - 1})")
        return self


class Config(_Section):
    """A whole config; ``folder`` is where relative paths start (not part of the YAML)."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w][\w.+ -]*$")] = "medseg"
    data: DataConfig
    labels: dict[str, LabelEntry]
    regions: dict[str, tuple[str, ...]] = {}
    ignore: StrictInt | None = None
    modality: Literal["CT", "MR", "other"]
    plan: PlanConfig = PlanConfig()
    train: TrainConfig = TrainConfig()
    inference: InferenceConfig = InferenceConfig()
    device: Annotated[str, BeforeValidator(_device)] = "auto"
    output: Path | None = None
    licence: Annotated[str, Field(min_length=1, max_length=200)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _label_names_are_text(cls, value: Any) -> Any:
        labels = value.get("labels") if isinstance(value, dict) else None
        for name in labels if isinstance(labels, dict) else ():
            if not isinstance(name, str):
                raise ValueError(
                    f"labels: the name {name!r} is not text; YAML reads yes, no, on, off and numbers so: quote it"
                )
        return value

    @model_validator(mode="after")
    def _labels_make_sense(self) -> "Config":
        try:
            names = self.structure_labels.names
        except ConfigError as error:
            raise ValueError(str(error)) from error
        sampling = self.train.sampling
        for name in sampling if isinstance(sampling, dict) else ():
            if name not in names:
                raise ValueError(f"train.sampling: {name!r} is no structure; choose from {', '.join(names)}")
        for name in self.inference.postprocess:
            if name not in (*names, EVERY):
                raise ValueError(
                    f"inference.postprocess: {name!r} is no structure; choose from {', '.join(names)}, or {EVERY}"
                )
        return self

    @property
    def structure_labels(self) -> Labels:
        return labels_of(self.labels, self.regions, self.ignore)


def find_config(name: Path) -> Path:
    """``name`` as given, else in ``./configs/``, with or without ``.yaml``. Raises ConfigError naming the places."""
    places = [
        name,
        Path("configs") / name,
        name.with_name(name.name + ".yaml"),
        Path("configs") / (name.name + ".yaml"),
    ]
    for place in places:
        if place.is_file():
            return place
    there = ", ".join(sorted(p.name for p in Path("configs").glob("*.yaml"))) or "none"
    raise ConfigError(f"config {name} does not exist, nor does configs/{name} (configs found: {there})")


def load_config(path: Path | str, overrides: dict[str, str] | None = None) -> Config:
    """Read and check a YAML config; ``overrides`` are ``{"train.budget": "20m"}``, typed by the schema.

    Paths inside the file start at its folder, paths in ``overrides`` at the current one. Raises ConfigError with the line.
    """
    return config_from(*_read(path, overrides))


def load_despite_labels(path: Path | str, overrides: dict[str, str] | None = None) -> tuple[Config, ConfigError | None]:
    """``load_config``, and ``despite_labels`` where the labels alone are wrong."""
    return despite_labels(*_read(path, overrides))


def _read(path: Path | str, overrides: dict[str, str] | None) -> tuple[dict[str, Any], str, Document]:
    path = find_config(Path(path))
    document = parse_yaml(path)
    content = document.content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys to values, got a {type(content).__name__}")
    resolve_paths(content, path.absolute().parent)
    return (
        override(content, overrides or {}),
        str(path),
        replace(document, overridden=frozenset(overrides or {})),
    )


def config_from(content: dict[str, Any], source: str = "config", document: Document | None = None) -> Config:
    """A checked config from a mapping. Raises ConfigError listing every problem, with lines where a document is given."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(problems(error, Config, document))) from None


def despite_labels(
    content: dict[str, Any], source: str = "config", document: Document | None = None
) -> tuple[Config, ConfigError | None]:
    """``config_from``; where nothing but the labels is missing or wrong, what is sound of them, and the error it would raise."""
    try:
        return config_from(content, source, document), None
    except ConfigError as error:
        try:
            return config_from({**content, "labels": _sound(content.get("labels"))}, source, document), error
        except ConfigError:
            raise error from None


def _sound(labels: Any) -> dict[str, int]:
    """Of raw ``labels``, the names that are text with a value that only they have."""
    given = labels if isinstance(labels, dict) else {}
    values = [value for value in given.values() if type(value) is int]
    kept = {
        name: value
        for name, value in given.items()
        if isinstance(name, str) and name.isprintable() and name.strip() and type(value) is int
        if 0 < value <= 65535 and values.count(value) == 1 and name != "background"
    }
    return {"background": 0, **(kept or {"structure_1": 1})}


def override(content: dict[str, Any], overrides: dict[str, str]) -> dict[str, Any]:
    """A copy of a raw config with ``overrides`` (``{"train.budget": "20m"}``) set, each read as YAML would."""
    changed = deepcopy(content)
    for key, text in overrides.items():
        _set(changed, key, text)
    return changed


def resolve_paths(content: dict[str, Any], folder: Path) -> None:
    """Make the relative paths of a raw config absolute, in place."""
    for section, keys in ((content.get("data"), DATA_PATHS), (content.get("train"), ("init",)), (content, ("output",))):
        if isinstance(section, dict):
            for key in keys:
                if key in section:
                    section[key] = _absolute(section[key], folder, key)


def _absolute(value: Any, folder: Path, key: str) -> Any:
    """``value``, a path or a mapping of names to paths, starting at ``folder``; anything else as it is."""
    if isinstance(value, dict):
        return {name: _absolute(path, folder, key) for name, path in value.items()}
    return str(folder / _path(value, key)) if isinstance(value, str) else value


def _set(content: dict[str, Any], key: str, text: str) -> None:
    *sections, last = key.split(".")
    target = content
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {key}={text}: {section} is not a section")
    value = parse_scalar(text)
    if value is not None and key in ("output", "train.init", *(f"data.{name}" for name in DATA_PATHS)):
        value = _absolute(value if isinstance(value, dict) else text, Path.cwd(), f"--set {key}")
    target[last] = value


def _path(text: str, key: str) -> Path:
    """``text`` as a path, a leading ``~`` as the home folder. Raises ConfigError for what cannot be one."""
    try:
        if "\0" in text:
            raise ValueError("it holds a null character")
        return Path(text).expanduser()
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{key}: {text!r} is no path: {str(error).rstrip('.')}") from None
