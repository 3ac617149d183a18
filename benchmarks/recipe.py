"""What each part of the training recipe is worth: the same steps with one part changed at a time.

    python benchmarks/recipe.py --config configs/hippocampus.yaml --root ../shared/data/Task04_Hippocampus --steps 300

Network, steps, seed and cases are equal. Prints one table of Dice on whole validation volumes; `--only` picks rows.
"""

import argparse
import tempfile
import time
from pathlib import Path

from medseg.workflows.train import train

VARIANTS = {
    "the recipe": {},
    "no running mean of the weights": {"train.ema": "0"},
    "f32 instead of bf16": {"train.precision": "f32"},
    "sgd with momentum, poly": {"train.optimizer": "sgd"},
    "adam instead of adamw": {"train.optimizer": "adam"},
    "no warm-up": {"train.schedule": "cosine"},
    "no augmentation": {"train.augmentation": "none"},
    "elastic deformation, too": {"train.augmentation": "{elastic: true}"},
    "every third patch on a structure, not every second": {"train.foreground_fraction": "0.33"},
    "dice alone": {"train.loss": "dice"},
    "cross-entropy alone": {"train.loss": "ce"},
    "dice over the batch": {"train.loss": "{name: dice_ce, batch_dice: true}"},
    "mirrored left-right": {"plan.mirror_axes": "[0]"},
    "mirrored along every axis": {"plan.mirror_axes": "[0, 1, 2]"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="dataset in the msd layout")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=VARIANTS)
    options = parser.parse_args()
    settings = {
        "data.root": str(options.root),
        "train.steps": str(options.steps),
        "train.seed": str(options.seed),
        "train.validate_every": str(options.steps),
        "plan.architecture": "{name: unet, features: [16, 32, 64, 128]}",
    }
    print("| changed | steps | seconds | validation Dice |")
    print("|---|---|---|---|", flush=True)
    for name in options.only or VARIANTS:
        with tempfile.TemporaryDirectory(prefix="medseg-recipe-") as folder:
            started = time.monotonic()
            dice = train(options.config, overrides=settings | VARIANTS[name], output=Path(folder) / "run").dice
            seconds = time.monotonic() - started
        each = ", ".join(f"{structure} {value:.4f}" for structure, value in dice.items())
        mean = sum(dice.values()) / len(dice)
        print(f"| {name} | {options.steps} | {seconds:.0f} | {mean:.4f} ({each}) |", flush=True)


if __name__ == "__main__":
    main()
