"""How a model is run: what the user asked for, else what the model folder wishes, else what is usual."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Protocol, get_args

from medseg.core.component import Component
from medseg.core.config_inference import postprocess_of, refine_of
from medseg.core.errors import ConfigError, ModelError
from medseg.core.plan import Plan
from medseg.inference.postprocess import steps_of
from medseg.inference.refine import refinement_of

Accumulators = Literal["auto", "f32", "f16", "nnunet"]
Ensemble = Literal["probabilities", "logits"]
MirroredLabels = Literal["swapped", "kept"]
AXIS_WORDS = {
    **{"i": 0, "left-right": 0, "lr": 0},
    **{"j": 1, "front-back": 1, "ap": 1},
    **{"k": 2, "head-feet": 2, "si": 2},
}


@dataclass(frozen=True)
class InferenceSettings:
    """Every decision of an inference that changes its result, its time or its memory. Raises ConfigError for a bad value.

    ``overlap``: share of a window (0 to 0.9) that its neighbour covers, too, at least. ``mirror``: axes of the plan's grid
    (RAS: 0 left-right, 1 front-back, 2 head-feet); outputs are averaged over all their combinations. ``mirror_labels``:
    whether the model calls a mirrored left kidney the right one (``swapped``), or was trained to call it the left one still.
    ``batch``: windows in one forward pass at most. ``max_memory``: bytes that the whole process may hold; None: any.
    ``accumulators``: the type in which windows are blended; ``auto`` is f32 unless ``max_memory`` needs f16; ``nnunet`` is f16
    with the roundings of nnU-Net's predictor, so that close calls, too, come out as there.
    ``ensemble``: what is averaged over folds. ``folds``: the names of those that run, in order; all where none is named.
    ``refine``: an entry of ``refine.REFINEMENTS``, which uses the scan's intensities. ``postprocess``: for each structure
    the steps that its mask still needs after it. ``roi``: look first, and run these windows in a box around what is seen
    alone; see ``inference.roi``. ``backend``, ``precision``: see ``inference.backends.start``; of a loaded model those that
    ``auto`` came to.
    """

    overlap: float = 0.5
    mirror: tuple[int, ...] = ()
    mirror_labels: MirroredLabels = "swapped"
    batch: int = 1
    max_memory: int | None = None
    accumulators: Accumulators = "auto"
    ensemble: Ensemble = "probabilities"
    folds: tuple[str, ...] = ()
    refine: Component | None = field(default=None, hash=False)
    postprocess: dict[str, tuple[Component, ...]] = field(default_factory=dict, hash=False)
    roi: bool = False
    backend: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        _check_range("overlap", self.overlap, 0, 0.9, "a share of a window, such as 0.5 or 0.25")
        _check_range("batch", self.batch, 1, 4096, "a number of windows")
        _check_choice("mirror_labels", self.mirror_labels, get_args(MirroredLabels))
        _check_choice("accumulators", self.accumulators, get_args(Accumulators))
        _check_choice("ensemble", self.ensemble, get_args(Ensemble))
        if not isinstance(self.roi, bool):
            raise ConfigError(f"roi {self.roi!r}: give True or False")
        if self.roi and self.refine is not None:
            raise ConfigError(
                "roi: a refinement needs the whole scan's probabilities; take --no-roi, or leave it out (--refine none)"
            )
        if sorted(set(self.mirror)) != list(self.mirror) or not {*self.mirror} <= {0, 1, 2}:
            raise ConfigError(f"mirror {self.mirror}: give axes in order and once each, such as (0, 1, 2)")
        for name in ("batch", "max_memory"):
            if not isinstance(value := getattr(self, name), int | None):
                raise ConfigError(f"{name} {value!r}: give a whole number (of max_memory: bytes, such as 4 * 2**30)")
        if self.max_memory is not None and self.max_memory <= 0:
            raise ConfigError(f"max_memory {self.max_memory}: give a number of bytes above 0, such as 4 * 2**30")

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON holds them: equal settings, equal text.

        >>> InferenceSettings(mirror=(0, 1)).as_json()["mirror"]
        [0, 1]
        """
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        steps = {name: [step.model_dump() for step in steps] for name, steps in self.postprocess.items()}
        return plain | {"refine": self.refine and self.refine.model_dump(), "postprocess": steps}


@dataclass(frozen=True)
class InferenceOptions:
    """What the user asks for; None: as the model wishes, else as is usual. See ``InferenceSettings``.

    ``mirror``: axes, their words (see ``AXIS_WORDS``) with commas between, ``off``, or ``auto``: the axes that the model's
    training mirrored. ``folds``: ``all``, or some with commas between, such as ``0,1``. ``refine``: an entry of
    REFINEMENTS, or one called ``none``. ``preset``: one of those that
    ``medseg tune`` measured; it goes before the model's other wishes. ``refine`` and ``postprocess`` may be given as a config
    writes them, such as ``{"liver": "fill_holes"}``. Raises ConfigError for what is of another type.
    """

    overlap: float | None = None
    mirror: str | tuple[int, ...] | None = None
    batch: int | None = None
    max_memory: int | None = None
    accumulators: Accumulators | None = None
    ensemble: Ensemble | None = None
    folds: str | tuple[str | int, ...] | None = None
    postprocess: dict[str, tuple[Component, ...]] | None = None
    roi: bool | None = None
    preset: str | None = None
    backend: str | None = None
    precision: str | None = None
    refine: Component | None = None

    def __post_init__(self) -> None:
        for name in ("accumulators", "ensemble", "preset", "backend", "precision"):
            if not isinstance(value := getattr(self, name), str | None):
                raise ConfigError(f"{name} {value!r}: give a name in quotes")
        if not _is_some(self.mirror, int):
            raise ConfigError(f"mirror {self.mirror!r}: give off, auto, axes such as 'i,j', or numbers such as (0, 1)")
        if not _is_some(self.folds, str | int) or self.folds in ((), []):
            raise ConfigError(f"folds {self.folds!r}: give numbers such as '0', '0,1' or (0, 1), or all")
        if self.postprocess is not None:
            object.__setattr__(self, "postprocess", postprocess_of(self.postprocess))
        if self.refine is not None:
            object.__setattr__(self, "refine", refine_of(self.refine))

    def as_json(self) -> dict[str, Any]:
        """The options as JSON holds them."""
        found = asdict(self) | {"refine": self.refine and self.refine.model_dump()}
        if self.postprocess is not None:
            found["postprocess"] = {n: [step.model_dump() for step in some] for n, some in self.postprocess.items()}
        return found

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "InferenceOptions":
        """The inverse of ``as_json``."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        if (steps := plain.get("postprocess")) is not None:
            plain["postprocess"] = {name: tuple(map(Component.model_validate, some)) for name, some in steps.items()}
        if (refine := plain.get("refine")) is not None:
            plain["refine"] = Component.model_validate(refine)
        return cls(**plain)


class Wishes(Protocol):
    """The section ``inference`` of a model folder, seen from here: attributes named as the fields of the settings."""


def settings_for(
    options: InferenceOptions, wishes: Wishes, plan: Plan, *, weights: Sequence[str] = ()
) -> InferenceSettings:
    """The settings to run a model of ``plan`` with: asked for, else wished by its folder, else usual.

    ``weights``: the files of its folds. Raises ConfigError for a bad value, a fold that there is not, an unknown refinement
    or step of post-processing, and for mirroring left and right where a structure of one side has no partner.
    """
    found: dict[str, Any] = {}
    preset = None if options.preset is None else preset_of(wishes, options.preset)
    for known in fields(InferenceSettings):
        for source in (options, preset, wishes):
            value = getattr(source, known.name, None)
            if value is not None and known.name not in found:
                found[known.name] = value
    if "refine" in found:
        found["refine"] = refinement_of(found["refine"])
    if "postprocess" in found:
        found["postprocess"] = steps_of(found["postprocess"], plan.structure_labels)
    if "mirror" in found:
        found["mirror"] = mirror_axes(found["mirror"], plan)
    if "folds" in found:
        found["folds"] = chosen_folds(found["folds"], weights)
    settings = InferenceSettings(**found)
    if 0 in settings.mirror and settings.mirror_labels == "swapped":
        try:
            _ = plan.structure_labels.output_swaps
        except ConfigError as error:
            raise ConfigError(f"mirror: axis 0 (i) turns left into right, and {error}; leave axis 0 out") from None
    return settings


def settings_of(
    options: InferenceOptions, wishes: Wishes, plan: Plan, *, weights: Sequence[str], file: str
) -> InferenceSettings:
    """``settings_for`` a model of the model.json ``file``. Raises ModelError where it is its own wishes that cannot be met."""
    try:
        return settings_for(options, wishes, plan, weights=weights)
    except ConfigError:
        try:
            settings_for(InferenceOptions(), wishes, plan, weights=weights)
        except ConfigError as error:
            raise ModelError(f"{file}: inference: {error}") from None
        raise


def preset_of(wishes: Wishes, name: str) -> Any:
    """The preset ``name`` of a model folder. Raises ConfigError where it has none of that name."""
    presets: dict[str, Any] = getattr(wishes, "presets", {})
    if name not in presets:
        there = (
            f"it has {', '.join(presets)}" if presets else "it has none; `medseg tune MODEL` measures and writes them"
        )
        raise ConfigError(f"preset {name!r} is not in this model folder; {there}")
    return presets[name]


def chosen_folds(asked: str | Sequence[str | int], weights: Sequence[str]) -> tuple[str, ...]:
    """The names of the folds that ``asked`` means, of those in the files ``weights``, in order; none for all of them.

    Raises ConfigError for one that is not there.

    >>> chosen_folds("1, 0", ["fold_0.safetensors", "fold_1.safetensors", "fold_2.safetensors"])
    ('fold_0', 'fold_1')
    """
    there = sorted(name.removesuffix(".safetensors") for name in weights)
    words = [str(word).strip() for word in (asked.split(",") if isinstance(asked, str) else asked)]
    if words == ["all"]:
        return ()
    names = {word if word in there else f"fold_{word}": word for word in words}
    if unknown := [word for name, word in names.items() if name not in there]:
        known = ", ".join(name.removeprefix("fold_") for name in there)
        raise ConfigError(
            f"folds: {unknown[0]!r} is none of this model's, which are {known}; give some of them, or all"
        )
    return () if set(names) == set(there) else tuple(sorted(names))


def mirror_axes(asked: str | Sequence[int], plan: Plan) -> tuple[int, ...]:
    """Axes in order. Raises ConfigError for a word that names none.

    A 2D model's slice axis is left out: mirroring a single slice changes nothing.
    """
    if asked == "auto":
        axes: Sequence[int] = plan.mirror_axes
    elif asked == "off":
        axes = ()
    elif isinstance(asked, str):
        words = [word.strip().lower() for word in asked.split(",")]
        unknown = [word for word in words if word not in AXIS_WORDS]
        if unknown:
            raise ConfigError(
                f"mirror: {unknown[0]!r} is no axis; choose off, auto, or some of i, j, k with commas between "
                "(left-right, front-back, head-feet)"
            )
        axes = [AXIS_WORDS[word] for word in words]
    else:
        axes = asked
    return tuple(sorted({*axes} - {plan.slice_axis}))


def bytes_of(text: str) -> int:
    """The bytes that ``text`` names, in units of 1024. Raises ConfigError.

    >>> bytes_of("4G"), bytes_of("512 MiB"), bytes_of("1.5gb")
    (4294967296, 536870912, 1610612736)
    """
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*([KMGT])(?:i?B)?\s*", text, re.IGNORECASE)
    if not found or not float(found[1]):
        raise ConfigError(f"max-memory {text!r} is no amount of memory; give a number and K, M, G or T, such as 4G")
    return int(float(found[1]) * 1024 ** (" KMGT".index(found[2].upper())))


def _is_some(value: object, kind: type | UnionType) -> bool:
    """Whether ``value`` is nothing, a text, or a list of this ``kind``."""
    if isinstance(value, list | tuple):
        return all(isinstance(one, kind) and not isinstance(one, bool) for one in value)
    return isinstance(value, str | None)


def _check_range(name: str, value: float, lowest: float, highest: float, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} {value!r} is no number; give {what}")
    if not lowest <= value <= highest:
        raise ConfigError(f"{name} {value}: give {what}, from {lowest} to {highest}")


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ConfigError(f"{name} {value!r} is unknown; choose one of {', '.join(choices)}")
