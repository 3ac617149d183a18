"""One training step, and what it owns: network, optimizer, schedule and running mean."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medseg.core.component import build
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.data.augment import augment, extent_for
from medseg.data.loader import Batch, load_batch
from medseg.data.store import StoredCase
from medseg.losses import LOSSES
from medseg.losses.deep_supervision import deep_supervision
from medseg.models.bundle import network_for, weights_of
from medseg.training.ema import Ema
from medseg.training.optimizers import OPTIMIZERS, SCHEDULES

GRADIENT_NORM = 12.0  # Isensee 2021, doi:10.1038/s41592-020-01008-z


class Stepper:
    """Owns the state of a training on ``device``; ``load(step)`` and ``run(step, batch)`` depend on the step alone."""

    def __init__(self, plan: Plan, stored: Sequence[StoredCase], device: torch.device) -> None:
        self.plan, self.stored, self.device = plan, stored, device
        self._extent = extent_for(plan)
        self._swaps = Labels.from_mapping(plan.labels).mirror_swaps
        torch.manual_seed(plan.seed)
        network = network_for(plan, deep_supervision=True)
        self.network = weights_of(network)
        optimizer = build("optimizer", OPTIMIZERS, plan.optimizer, network.parameters(), plan.learning_rate)
        self.schedule = build("schedule", SCHEDULES, plan.schedule, plan.steps)
        self._loss = deep_supervision(build("loss", LOSSES, plan.loss))
        self.fabric = make_fabric(device, plan.precision)
        self._forward, self.optimizer = self.fabric.setup(network, optimizer)
        self.ema = Ema(self.network, plan.ema)

    def load(self, step: int) -> Batch:
        """The batch of ``step``, on the CPU."""
        return load_batch(self.stored, self.plan, step, self._extent)

    def run(self, step: int, batch: Batch) -> Tensor:
        """Augment, forward, backward, update; the loss (a scalar on the device, not waited for)."""
        images = torch.from_numpy(batch.images).to(self.device, non_blocking=True)
        references = torch.from_numpy(batch.references).to(self.device, non_blocking=True)
        with torch.no_grad():
            images, references = augment(images, references, self.plan, step, self._swaps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * self.schedule(step)
        self._forward.train()
        loss: Tensor = self._loss(self._forward(images), references)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self._forward, self.optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.network, step)
        return loss.detach()


def make_fabric(device: torch.device, precision: str) -> Any:
    """Lightning Fabric for one device in ``f32`` or ``bf16`` (autocast)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric's hints about other launchers
        from lightning.fabric import Fabric

        for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they announce each precision

        accelerator = "cuda" if device.type == "cuda" else "cpu"
        devices: Any = [device.index or 0] if device.type == "cuda" else 1
        return Fabric(
            accelerator=accelerator, devices=devices, precision="bf16-mixed" if precision == "bf16" else "32-true"
        )
