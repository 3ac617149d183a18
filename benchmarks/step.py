"""What a training step costs beside the network: medseg's step against the plain torch one, and where data comes from.

    python benchmarks/step.py

One process, f32, one thread, one patch of 64x64x48 voxels, 6 classes, deep supervision, AdamW. `plain torch` is forward,
loss, backward, update on tensors that are there; `medseg` is the step of `medseg train` on the same batch without loading
and augmentation: it also clips the gradient, keeps the running mean, sets the learning rate and goes through Fabric.
Loader and augmentation are timed apart. All take turns, round by round, in changing order; CPU seconds, median over rounds;
the ratio is the median of the ratios of each round. Prints one table. `--networks` prints the table by width and precision.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medseg.core.case import Case
from medseg.core.component import Component
from medseg.core.geometry import Geometry
from medseg.core.plan import Intensity, Plan
from medseg.core.volume import LabelMap, Volume
from medseg.data.augment import augment, extent_for, recipe
from medseg.data.loader import Batch, load_batch
from medseg.data.store import StoredCase, build_store
from medseg.losses.deep_supervision import deep_supervision
from medseg.losses.dice_ce import dice_ce
from medseg.models.bundle import network_for
from medseg.models.unet import unet
from medseg.training import step as medseg_step
from medseg.training.optimizers import adamw

PATCH, CLASSES, STAGES = (64, 64, 48), 6, 4
VARIANTS = [(32, 2, "bf16"), (16, 2, "f32"), (16, 2, "bf16"), (16, 1, "f32"), (16, 1, "bf16")]


def architecture(features: int, convolutions: int) -> dict[str, object]:
    """Options of a U-Net of four stages with so many convolutions in its first stage and its last."""
    return {
        "features": [features * 2**s for s in range(STAGES)],
        "kernel_sizes": [[3] * 3] * STAGES,
        "strides": [[1] * 3] + [[2] * 3] * (STAGES - 1),
        "convs_per_stage": [convolutions] + [2] * (STAGES - 1),
        "decoder_convs_per_stage": [2] * (STAGES - 2) + [convolutions],
    }


def plan_for(features: int) -> Plan:
    """A plan as `medseg train` makes it for CT, its augmentation included."""
    labels = {"background": 0, **{f"structure_{n}": n for n in range(1, CLASSES)}}
    return Plan(
        dimensions=3,
        slice_axis=None,
        spacing_mm=(1.5, 1.5, 1.5),
        patch_size=PATCH,
        batch_size=1,
        architecture=Component(name="unet", options=architecture(features, 1)),
        channels=1,
        labels=labels,
        modality="CT",
        intensity=(Intensity(scheme=Component(name="z_score")),),
        loss=Component(name="dice_ce"),
        optimizer=Component(name="adamw"),
        schedule=Component(name="warmup_cosine"),
        learning_rate=2e-3,
        steps=1000,
        validate_every=100,
        validation_cases=0,
        ema=0.99,
        foreground_fraction=0.5,
        mirror_axes=(),
        augmentation=recipe(),
        precision="f32",
        seed=0,
        reasons={},
    )


def stored_cases(folder: Path, plan: Plan, count: int = 4) -> list[StoredCase]:
    """Cases of 128x128x96 voxels of noise with a box of each structure."""
    grid = Geometry((128, 128, 96), np.eye(4))

    def load(case: Case) -> tuple[Volume, LabelMap]:
        label = np.zeros(grid.shape, np.uint8)
        for n in range(1, CLASSES):
            label[20 * n : 20 * n + 15, 30:90, 20:70] = n
        image = np.random.default_rng(int(case.id)).normal(size=(1, *grid.shape)).astype(np.float32)
        return Volume(image, grid), LabelMap(label, grid)

    return build_store(folder, [Case(str(n), str(n), (), Path("label.nii")) for n in range(count)], plan, load)


def centre(images: Tensor, references: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    """The patch in the middle of what was loaded, where augmentation would be."""
    cut = tuple(slice((n - p) // 2, (n - p) // 2 + p) for n, p in zip(images.shape[2:], PATCH, strict=True))
    return images[(..., *cut)].contiguous(), references[(slice(None), *cut)].to(torch.int64)


def plain_step(plan: Plan, batch: Batch) -> Callable[[], None]:
    """Forward, loss, backward and update in torch alone."""
    torch.manual_seed(0)
    net = network_for(plan, deep_supervision=True).train()
    optimizer = adamw(net.parameters(), 1e-3)
    loss = deep_supervision(dice_ce())
    images, target = centre(torch.from_numpy(batch.images), torch.from_numpy(batch.references))

    def run() -> None:
        value = loss(net(images), target)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        float(value)

    return run


def medseg_steps(plan: Plan, stored: list[StoredCase], batches: list[Batch]) -> Callable[[], None]:
    """The step of `medseg train`, fed with the same patches."""
    medseg_step.augment = centre
    stepper = medseg_step.Stepper(plan, stored, torch.device("cpu"))
    steps = iter(range(10**9))
    return lambda: float(stepper.run(next(steps), batches)) and None


def overhead(rounds: int, features: int) -> None:
    """The table: whole step against the plain one, loader and augmentation apart."""
    with tempfile.TemporaryDirectory() as place:
        plan = plan_for(features)
        stored = stored_cases(Path(place), plan)
        extent = extent_for(plan)
        batch = load_batch(stored, plan, 0, extent)
        steps = iter(range(10**9))

        def augmented() -> None:
            images, references = torch.from_numpy(batch.images), torch.from_numpy(batch.references)
            with torch.no_grad():
                augment(images, references, plan, next(steps), range(CLASSES))

        parts = {
            "plain torch": plain_step(plan, batch),
            "medseg": medseg_steps(plan, stored, [batch]),
            "loader": lambda: load_batch(stored, plan, next(steps), extent),
            "augmentation": augmented,
        }
        took: dict[str, list[float]] = {name: [] for name in parts}
        order = random.Random(0)
        for turn in range(rounds + 1):
            for name in order.sample(list(parts), len(parts)):
                started = time.process_time()
                parts[name]()
                if turn:  # the first makes ready
                    took[name].append(time.process_time() - started)
    print(f"{features} features, {rounds} rounds")
    print("| part of a step | CPU ms, median | to plain torch, median of rounds |\n|---|---|---|")
    for name, times in took.items():
        ratio = statistics.median(t / p for t, p in zip(times, took["plain torch"], strict=True))
        print(f"| {name} | {1e3 * statistics.median(times):.1f} | {ratio:.3f} |")


def network(features: int, convolutions: int) -> nn.Module:
    """A U-Net with so many convolutions in its first stage and its last."""
    options = architecture(features, convolutions)
    return unet(in_channels=1, out_channels=CLASSES, dimensions=3, deep_supervision=True, **options)


def one_step(net: nn.Module, optimizer: torch.optim.Optimizer, precision: str) -> float:
    """CPU seconds of one step on random voxels."""
    loss = deep_supervision(dice_ce())
    images, target = torch.randn(1, 1, *PATCH), torch.randint(0, CLASSES, (1, *PATCH))
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        value = loss(net(images), target)
    optimizer.zero_grad()
    value.backward()
    optimizer.step()
    return time.process_time() - started


def networks(rounds: int) -> None:
    """The table of forward, backward and update by width, convolutions at full resolution and precision."""
    nets = [network(features, convolutions) for features, convolutions, _ in VARIANTS]
    optimizers = [torch.optim.AdamW(net.parameters(), fused=True) for net in nets]
    best = [float("inf")] * len(VARIANTS)
    for _ in range(rounds):
        for n, (net, optimizer, variant) in enumerate(zip(nets, optimizers, VARIANTS, strict=True)):
            best[n] = min(best[n], one_step(net, optimizer, variant[2]))
    print("| first stage | convolutions at full resolution | precision | CPU s a patch |")
    print("|---|---|---|---|")
    for (features, convolutions, precision), seconds in zip(VARIANTS, best, strict=True):
        print(f"| {features} features | {convolutions} and {convolutions} | {precision} | {seconds:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--networks", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks(min(options.rounds, 4)) if options.networks else overhead(options.rounds, options.features)


if __name__ == "__main__":
    main()
