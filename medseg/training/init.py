"""Fine-tuning: a plan that follows the model it starts from, and the run folder's own copy of the first weights."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from medseg.core.component import Component
from medseg.core.config import Config
from medseg.core.errors import ConfigError, ModelError
from medseg.core.files import write_durable
from medseg.core.plan import Fingerprint, Intensity, Plan
from medseg.data.planning import Frame, Rung, architecture_for, make_frame
from medseg.models.init import Source, first_weights, read_source
from medseg.training.ema import Ema
from medseg.training.fit import draft_plan, max_patch_voxels

FILE = "init.safetensors"


@dataclass(frozen=True, eq=False)
class Start:
    """What ``train.init`` asks for: its weights, and what they say about config and plan."""

    source: Source

    def config(self, config: Config) -> Config:
        """``config`` with the model's architecture and grid where they decide what its weights mean.

        Architecture and its options, dimensions and spacing are the model's, as in nnU-Net's pretraining, and so is the
        patch; a spacing, a patch or an option of the same architecture that the config gives stays. Raises ConfigError
        for other dimensions.
        """
        plan, asked = self.source.plan, config.plan
        if plan is None:
            return config
        if asked.dimensions not in ("auto", plan.dimensions):
            raise ConfigError(f"plan.dimensions is {asked.dimensions}, but {self.source.path} is {plan.dimensions}D")
        given = asked.architecture.options if asked.architecture.name == plan.architecture.name else {}
        options = {**plan.architecture.options, **given}
        options.pop("deep_supervision", None)
        update = {
            "dimensions": plan.dimensions,
            "architecture": Component(name=plan.architecture.name, options=options),
            "spacing_mm": plan.spacing_mm if asked.spacing_mm == "auto" else asked.spacing_mm,
        }
        return config.model_copy(update={"plan": asked.model_copy(update=update)})

    def frame(self, config: Config, frame: Frame) -> Frame:
        """``frame`` with the patch and the slices of the model; of a file, its architecture's width is left to the config."""
        plan = self.source.plan
        if plan is None:
            return frame
        patch = frame.patch_size
        model = f"of the model that training starts from, {self.source.name}"
        reasons = {**frame.reasons, "architecture": model, "dimensions": model}
        if config.plan.patch_size == "auto":
            patch = plan.patch_size
            reasons["patch_size"] = model
        if config.plan.spacing_mm == "auto":
            reasons["spacing_mm"] = model
        flat = [1 if axis == plan.slice_axis else n for axis, n in enumerate(patch)]
        i, j, k = _divided(flat, plan)
        return replace(frame, slice_axis=plan.slice_axis, patch_size=(i, j, k), reasons=reasons)

    def plan(self, draft: Plan, config: Config) -> Plan:
        """``draft`` with the model's intensities, where the config leaves them open and modality and channels agree."""
        before = self.source.plan
        reasons = {**draft.reasons, "init": f"{self.source.name}, sha256 {self.source.sha256}"}
        intensity: tuple[Intensity, ...] = draft.intensity
        if before is not None and config.plan.intensity == "auto":
            if (before.modality, before.channels) == (draft.modality, draft.channels):
                intensity = before.intensity
                reasons["intensity"] = f"of the model that training starts from, {self.source.name}"
            else:
                reasons["intensity"] = (
                    f"measured here: the model that training starts from has {before.channels} channel(s) of "
                    f"{before.modality}, this dataset {draft.channels} of {draft.modality}"
                )
        return draft.model_copy(update={"intensity": intensity, "reasons": reasons})


def starting_point(config: Config, folder: Path | None = None) -> Start | None:
    """What ``train.init`` names; None without it, or where the run in ``folder`` already has its first weights."""
    begun = folder is not None and (folder / "plan.json").is_file() and (folder / FILE).is_file()
    if config.train.init is None or begun:
        return None
    return Start(read_source(config.train.init))


def planned(
    config: Config, measured: Fingerprint, device: torch.device, *, processes: int, start: Start | None
) -> tuple[Config, Frame, Plan]:
    """The config to plan by, its frame and a draft: of ``config`` alone, or as ``start`` changes them."""
    if start is None:
        frame = make_frame(config, measured, max_voxels=max_patch_voxels(device))
        return config, frame, draft_plan(config, measured, frame, device, processes=processes)
    asked = start.config(config)
    frame = start.frame(config, make_frame(asked, measured, max_voxels=max_patch_voxels(device)))
    whole = architecture_for(asked, frame, Rung(32))  # given weights have one width: the ladder has one rung
    asked = asked.model_copy(update={"plan": asked.plan.model_copy(update={"architecture": whole})})
    draft = start.plan(draft_plan(asked, measured, frame, device, processes=processes), config)
    first_weights(draft, start.source)  # fits, or says why not
    return asked, frame, draft


def save_first_weights(folder: Path, plan: Plan, start: Start) -> str:
    """Put the state that training starts with into the run folder, for this and every later start; what was taken."""
    state, taken = first_weights(plan, start.source)
    tensors = {key: value.contiguous() for key, value in state.items()}
    write_durable(folder / FILE, safetensors.torch.save(tensors))
    return f"starting from {start.source.path}: {taken.line()}"


def begin(folder: Path, network: nn.Module, ema: Ema) -> None:
    """Lay the run folder's first weights, where it has any, into ``network`` and its running mean. Raises ModelError."""
    file = folder / FILE
    if not file.is_file():
        return
    try:
        state: dict[str, Tensor] = safetensors.torch.load_file(file)
        network.load_state_dict(state)
        ema.load(network.state_dict())
    except (safetensors.SafetensorError, OSError, RuntimeError, KeyError) as error:
        raise ModelError(f"{file}: the first weights of this run cannot be read: {error}") from None


def _divided(patch: list[int], plan: Plan) -> list[int]:
    """``patch`` rounded up to what the strides of the model's U-Net divide."""
    strides = plan.architecture.options.get("strides", [])
    axes = [axis for axis in range(3) if axis != plan.slice_axis]
    for place, axis in enumerate(axes):
        step = math.prod(row[place] for row in strides)
        patch[axis] = math.ceil(patch[axis] / step) * step
    return patch
