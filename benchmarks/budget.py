"""What a training budget buys: Dice on whole validation volumes, and the same figure again from infer and evaluate.

    python benchmarks/budget.py --config configs/hippocampus.yaml --root ../shared/data/Task04_Hippocampus 5m 20m

For each budget: train fold 0, then segment the validation images with `medseg infer` and score them with
`medseg evaluate`, each as a user would, in a process of its own. Prints one table.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="dataset in the msd layout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the runs (default: temporary)")
    parser.add_argument("budgets", nargs="+", help="such as 5m 20m")
    options = parser.parse_args()
    place = options.keep or Path(tempfile.mkdtemp(prefix="medseg-budget-"))
    print("| budget | seconds | network | steps | validation Dice | by infer + evaluate | difference |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for budget in options.budgets:
        print(row(options, budget, place / f"{options.config.stem}-{budget}-seed{options.seed}"), flush=True)
    if options.keep is None:
        shutil.rmtree(place)


def row(options: argparse.Namespace, budget: str, folder: Path) -> str:
    """Train, infer and evaluate one budget; a line of the table."""
    run, seen, scores = folder / "run", folder / "predictions", folder / "scores"
    started = time.monotonic()
    settings = {"data.root": options.root, "train.budget": budget, "train.seed": options.seed}
    medseg(
        "train",
        "--config",
        options.config,
        "--output",
        run,
        *(a for s in settings.items() for a in ("--set", "{}={}".format(*s))),
    )
    seconds = time.monotonic() - started
    plan = json.loads((run / "plan.json").read_text())
    held_out = json.loads((run / "splits.json").read_text())[0]["validation"]
    images = [options.root / "imagesTr" / f"{case}.nii.gz" for case in held_out]
    medseg("infer", *images, "--model", run / "model", "--output", seen, "-q")
    references = folder / "references"
    references.mkdir(parents=True)
    for case in held_out:
        shutil.copy(options.root / "labelsTr" / f"{case}.nii.gz", references)
    medseg("evaluate", seen, references, "--labels", options.config, "--output", scores, "-q")
    trained, again = mean_dice(run / "fold_0" / "validation" / "scores.csv"), mean_dice(scores / "scores.csv")
    names = [name for name, value in yaml.safe_load(options.config.read_text())["labels"].items() if value]
    each = ", ".join(f"{name} {trained[name]:.4f}" for name in names)
    mean, mean_again = (sum(found[name] for name in names) / len(names) for found in (trained, again))
    difference = max(abs(trained[name] - again[name]) for name in names)
    network = (
        f"{plan['architecture']['options']['features'][0]} features, batch {plan['batch_size']}, {plan['precision']}"
    )
    return f"| {budget} | {seconds:.0f} | {network} | {plan['steps']} | {mean:.4f} ({each}) | {mean_again:.4f} | {difference:.1e} |"


def medseg(*arguments: object) -> None:
    """Run the command line; its remarks go to stderr."""
    subprocess.run([sys.executable, "-m", "medseg", *map(str, arguments)], check=True, stdout=sys.stderr)


def mean_dice(path: Path) -> dict[str, float]:
    """Mean over cases of the defined Dice of each structure, straight from scores.csv."""
    values: dict[str, list[float]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["metric"] == "dice" and line["value"]:
                values.setdefault(line["structure"], []).append(float(line["value"]))
    return {name: sum(found) / len(found) for name, found in values.items()}


if __name__ == "__main__":
    main()
