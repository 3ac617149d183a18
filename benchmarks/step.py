"""CPU seconds of a training step (forward, backward, update) by width, convolutions at full resolution and precision.

    python benchmarks/step.py

One thread, one patch of 64x64x48 voxels, 6 classes, deep supervision. The networks take turns; the quickest of
`--rounds` is kept. Prints one table.
"""

import argparse
import time

import torch
from torch import nn

from medseg.losses.deep_supervision import deep_supervision
from medseg.losses.dice_ce import dice_ce
from medseg.models.unet import unet

PATCH, CLASSES, STAGES = (64, 64, 48), 6, 4
VARIANTS = [(32, 2, "bf16"), (16, 2, "f32"), (16, 2, "bf16"), (16, 1, "f32"), (16, 1, "bf16")]


def network(features: int, convolutions: int) -> nn.Module:
    """A U-Net of four stages with so many convolutions in its first stage and its last."""
    return unet(
        in_channels=1,
        out_channels=CLASSES,
        dimensions=3,
        features=[features * 2**s for s in range(STAGES)],
        kernel_sizes=[[3] * 3] * STAGES,
        strides=[[1] * 3] + [[2] * 3] * (STAGES - 1),
        convs_per_stage=[convolutions] + [2] * (STAGES - 1),
        decoder_convs_per_stage=[2] * (STAGES - 2) + [convolutions],
        deep_supervision=True,
    )


def step(net: nn.Module, optimizer: torch.optim.Optimizer, precision: str) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    networks = [network(features, convolutions) for features, convolutions, _ in VARIANTS]
    optimizers = [torch.optim.AdamW(net.parameters(), fused=True) for net in networks]
    best = [float("inf")] * len(VARIANTS)
    for _ in range(rounds):
        for n, (net, optimizer, variant) in enumerate(zip(networks, optimizers, VARIANTS, strict=True)):
            best[n] = min(best[n], step(net, optimizer, variant[2]))
    print("| first stage | convolutions at full resolution | precision | CPU s a patch |")
    print("|---|---|---|---|")
    for (features, convolutions, precision), seconds in zip(VARIANTS, best, strict=True):
        print(f"| {features} features | {convolutions} and {convolutions} | {precision} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
