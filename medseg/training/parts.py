"""Every part that a config names, built once before any work, so that a wrong option never leaves half a run behind."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from medseg.core.component import Component, build, find
from medseg.core.config import Config
from medseg.core.errors import ConfigError, MedsegError
from medseg.core.plan import Plan
from medseg.data.augment import augmentation_for
from medseg.data.intensity import INTENSITIES
from medseg.inference.postprocess import steps_of
from medseg.inference.refine import refinement_of
from medseg.losses import LOSSES
from medseg.models.architectures import ARCHITECTURES
from medseg.models.bundle import network_for
from medseg.training.optimizers import OPTIMIZERS, SCHEDULES


def require_parts(config: Config, device: torch.device) -> None:
    """Raise ConfigError where a name or option of architecture, loss, optimizer, augmentation or post-processing is wrong,
    or where what is asked for is not here. Needs no data.
    """
    if config.train.precision == "fp16" and device.type == "cpu":
        raise ConfigError("train.precision fp16 needs a CUDA GPU, and this device is the CPU; use auto, f32 or bf16")
    if config.train.tensorboard and find_spec("tensorboard") is None:
        raise ConfigError(
            "train.tensorboard needs the package tensorboard: pip install 'medseg[track]', or set it to false"
        )
    find("architecture", ARCHITECTURES, config.plan.architecture.name)
    _built("train.loss", config.train.loss, lambda part: build("loss", LOSSES, part, config.structure_labels))
    augmentation_for(config)
    steps_of(config.inference.postprocess, config.structure_labels)
    if config.inference.refine is not None:
        refinement_of(config.inference.refine)
    if config.train.schedule != "auto":
        _built("train.schedule", config.train.schedule, lambda part: build("schedule", SCHEDULES, part, 100))
    asked = config.plan.intensity
    for scheme in () if asked == "auto" else asked if isinstance(asked, tuple) else (asked,):
        if scheme.name != "ct_window":  # what it leaves open is measured
            _built("plan.intensity", scheme, lambda part: build("intensity", INTENSITIES, part))
    if config.train.optimizer != "auto":
        weights = [torch.nn.Parameter(torch.zeros(1))]
        _built(
            "train.optimizer", config.train.optimizer, lambda part: build("optimizer", OPTIMIZERS, part, weights, 1e-3)
        )


def require_network(plan: Plan) -> None:
    """Raise ConfigError where the plan's network cannot be built. Takes no memory."""

    def on_no_device(part: Component) -> Any:
        with torch.device("meta"):
            return network_for(plan)

    _built("plan.architecture", plan.architecture, on_no_device)


def _built(key: str, part: Component, make: Callable[[Component], Any]) -> None:
    try:
        make(part)
    except MedsegError as error:
        raise ConfigError(f"{key}: {error}") from None
    except Exception as error:  # an option may be of any type: what torch says about it is the best there is
        raise ConfigError(f"{key}: {part.name} cannot be built with {part.options}: {error}") from None
