"""What a plan will cost: memory from the network's own tensors, time from steps that were made."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.core.config import Config
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.data.store import build_store
from medseg.data.transforms import loading
from medseg.models.bundle import network_for
from medseg.training.fit import Timing, fitted_plan
from medseg.training.prepare import Prepared
from medseg.training.validation import seconds_per_case

TIMED_CASES = 4  # are preprocessed to measure with
# Fitted to peaks of 8 trainings on a CPU (2D and 3D, 16 and 32 features, batch 1 to 9, f32 and bf16), all met within 14 %.
LIBRARIES = 470 * 2**20  # bytes of a process that has imported all it needs to train, CPU only
WORKSPACE = 100 * 2**20
WEIGHT_COPIES = 5  # weights, gradient, two moments, running mean
ACTIVATION_COPIES = 1.6  # outputs kept for the backward pass, and the gradients on their way
LOGIT_COPIES = 5  # of float32, in the loss


def step_bytes(plan: Plan) -> int:
    """Peak bytes of a training step of ``plan``: on a CPU of the whole process, on a GPU of its memory.

    The network is built and run without data, which takes no memory.
    """
    with torch.device("meta"):
        network = network_for(plan, deep_supervision=True).train()
    outputs: list[int] = []

    def seen(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            outputs.append(output.numel())

    for module in network.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(seen)
    with torch.device("meta"):
        network(torch.empty(plan.batch_size, plan.channels, *plan.patch_size))
    width = 4 if plan.precision == "f32" else 2
    voxels = plan.batch_size * len(plan.labels)
    for size in plan.patch_size:
        voxels *= size
    weights = sum(parameter.numel() for parameter in network.parameters())
    tensors = 4 * WEIGHT_COPIES * weights + ACTIVATION_COPIES * width * sum(outputs) + 4 * LOGIT_COPIES * voxels
    return int(tensors) + WORKSPACE


@dataclass(frozen=True)
class Timed:
    """The plan that training would make here, and the seconds behind it: of preprocessing all cases, a step, a validation case."""

    plan: Plan
    preprocessing: float
    step: float
    case: float


def timed_plan(config: Config, prepared: Prepared, *, seconds_before: float, progress: Progress = silent) -> Timed:
    """Measure steps as training does, on a few cases that are preprocessed into a temporary folder, gone afterwards.

    ``seconds_before`` went into checking the dataset, which is part of a budget.
    """
    few = prepared.training[:: max(1, len(prepared.training) // TIMED_CASES)][:TIMED_CASES]
    timings: list[Timing] = []
    with tempfile.TemporaryDirectory(prefix="medseg-plan-") as folder:
        begun = time.monotonic()
        stored = build_store(Path(folder), few, prepared.draft, loading(prepared.draft), progress=progress)
        done = time.monotonic()
        preprocessing = (done - begun) / len(few) * len(prepared.cases)
        plan = fitted_plan(
            prepared.draft,
            config,
            prepared.frame,
            [stored[n % len(stored)] for n in range(len(prepared.training))],
            prepared.device,
            elapsed=lambda: seconds_before + preprocessing + time.monotonic() - done,
            validation_cases=len(prepared.held_out),
            case_seconds=lambda rung: seconds_per_case(prepared.held_out, rung, prepared.device),
            timed=timings.append,
        )
    taken = timings[-1]
    return Timed(plan, preprocessing, taken.step, taken.case)
