"""What mirroring costs a short training: the same steps with patches mirrored along no axis, left-right, or every axis.

    python benchmarks/mirroring.py --config configs/hippocampus.yaml --root ../shared/data/Task04_Hippocampus --steps 600

Everything else is equal: network, steps, seed, cases. Prints one table of Dice on whole validation volumes.
"""

import argparse
import tempfile
import time
from pathlib import Path

from medseg.training import fit
from medseg.workflows.train import train

AXES = {"none": (), "left-right": (0,), "every axis": (0, 1, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="dataset in the msd layout")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = {
        "data.root": str(options.root),
        "train.steps": str(options.steps),
        "train.seed": str(options.seed),
        "plan.architecture": "{name: unet, features: [16, 32, 64, 128]}",
    }
    print("| mirrored | steps | seconds | validation Dice |")
    print("|---|---|---|---|", flush=True)
    for name, axes in AXES.items():
        fit._mirror_axes = lambda modality, patch, axes=axes: axes
        with tempfile.TemporaryDirectory(prefix="medseg-mirroring-") as folder:
            started = time.monotonic()
            dice = train(options.config, overrides=settings, output=Path(folder) / "run").dice
            seconds = time.monotonic() - started
        each = ", ".join(f"{structure} {value:.4f}" for structure, value in dice.items())
        print(
            f"| {name} | {options.steps} | {seconds:.0f} | {sum(dice.values()) / len(dice):.4f} ({each}) |", flush=True
        )


if __name__ == "__main__":
    main()
