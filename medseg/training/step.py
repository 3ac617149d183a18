"""One training step, and what it owns: network, optimizer, schedule and running mean."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medseg.core.component import build
from medseg.core.errors import ResourceError
from medseg.core.plan import Plan
from medseg.data.augment import augment, extent_for, sides_changed
from medseg.data.loader import Batch, load_batch
from medseg.data.store import StoredCase
from medseg.losses import LOSSES
from medseg.losses.deep_supervision import deep_supervision
from medseg.models.architectures import supervision_weights
from medseg.models.bundle import network_for, weights_of
from medseg.training.ema import Ema
from medseg.training.fabric import make_fabric
from medseg.training.optimizers import OPTIMIZERS, SCHEDULES, never_fused
from medseg.training.team import ALONE, Team


class Objective(nn.Module):
    """From images and references to the loss, in float32 whatever the network computes in.

    One module, so that the processes of a team see which parameters a loss needs, and torch.compile sees it whole.
    """

    def __init__(self, network: nn.Module, loss: Callable[[Any, Tensor, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, images: Tensor, references: Tensor, annotated: Tensor | None = None) -> Tensor:
        logits = self.network(images)
        with torch.autocast(images.device.type, enabled=False):
            whole = logits.float() if isinstance(logits, Tensor) else [one.float() for one in logits]
            return self.loss(whole, references, annotated)


class Stepper:
    """Owns the state of a training on ``device``; ``load(step)`` and ``run(step, batches)`` depend on the step alone.

    Within a ``team`` every process has the same state and takes its own part of each step.
    """

    def __init__(self, plan: Plan, stored: Sequence[StoredCase], device: torch.device, team: Team = ALONE) -> None:
        self.plan, self.stored, self.device = plan, stored, device
        self._parts = [n * plan.processes + team.rank for n in range(plan.accumulate)]
        self._extent = extent_for(plan)
        self._labels = plan.structure_labels
        torch.manual_seed(plan.seed)
        network = network_for(plan, deep_supervision=True)
        self.network = weights_of(network)
        optimizer = build("optimizer", OPTIMIZERS, plan.optimizer, network.parameters(), plan.learning_rate)
        if plan.precision == "fp16":
            never_fused(optimizer)
        self.schedule = build("schedule", SCHEDULES, plan.schedule, plan.steps)
        loss = build("loss", LOSSES, plan.loss, self._labels)
        objective = Objective(network, deep_supervision(loss, supervision_weights(network)))
        self.fabric = make_fabric(device, plan.precision, team)
        whole = torch.compile(objective) if plan.compile else objective
        self._objective, self.optimizer = self.fabric.setup(whole, optimizer)
        self.ema = Ema(self.network, plan.ema)

    def load(self, step: int) -> list[Batch]:
        """The batches of ``step`` on the CPU, one for each pass."""
        return [load_batch(self.stored, self.plan, step, self._extent, part=part) for part in self._parts]

    def run(self, step: int, batches: Sequence[Batch]) -> Tensor:
        """Augment, forward and backward each batch, then update; the mean loss (a scalar on the device, not waited for)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * self.schedule(step)
        self._objective.train()
        try:
            losses = [self._pass(step, part, batch) for part, batch in zip(self._parts, batches, strict=True)]
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            first = str(error).strip().splitlines()[0]
            raise ResourceError(f"torch.compile fails on this machine ({first}); set train.compile to false") from error
        if self.plan.clip is not None:
            self.fabric.clip_gradients(
                self._objective, self.optimizer, max_norm=self.plan.clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.network, step)
        return torch.stack(losses).mean() if len(losses) > 1 else losses[0]

    def _pass(self, step: int, part: int, batch: Batch) -> Tensor:
        """The loss of one batch, whose gradient is added; the processes share theirs after the last."""
        images = torch.from_numpy(batch.images).to(self.device, non_blocking=True)
        references = torch.from_numpy(batch.references).to(self.device, non_blocking=True)
        with torch.no_grad():
            draw = step * self.plan.accumulate * self.plan.processes + part
            images, references = augment(images, references, self.plan, draw, self._labels.mirror_swaps)
        annotated = None if batch.annotated is None else self._annotated(batch.annotated, draw).to(self.device)
        with self.fabric.no_backward_sync(self._objective, enabled=part != self._parts[-1]):
            loss: Tensor = self._objective(images, references, annotated)
            self.fabric.backward(loss / len(self._parts) if len(self._parts) > 1 else loss)
        return loss.detach()

    def _annotated(self, annotated: npt.NDArray[np.bool_], draw: int) -> Tensor:
        """The structures (B, channels) that each patch annotates once ``augment`` has mirrored it."""
        other_side = annotated[:, list(self._labels.mirror_swaps)]
        changed = sides_changed(self.plan, draw, len(annotated))
        return torch.from_numpy(np.where(changed[:, None], other_side, annotated))

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must hold beside tensors: the loss scale of fp16."""
        scale = self.fabric.strategy.precision.state_dict()
        return {"loss_scale": scale} if scale else {}

    def take(self, facts: dict[str, Any]) -> None:
        """Go on with the ``facts`` of a checkpoint."""
        if "loss_scale" in facts:
            self.fabric.strategy.precision.load_state_dict(facts["loss_scale"])
