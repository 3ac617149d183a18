"""Dice on unseen cases against training minutes: medseg and nnU-Net on the same cases and machine, in turns.

    make bench
    python benchmarks/training.py --root ../shared/data/Task04_Hippocampus --config configs/hippocampus.yaml 5 30

Of a dataset in the msd layout every fourth block of ten neighbouring ids is held out (neighbours may be one person); the rest
is the training data of both. medseg runs `train --fold final --set train.budget=Nm`, whose minutes hold checking,
preprocessing and all else; nnU-Net trains N minutes after its planning and preprocessing, which are not counted. Both then
segment the held-out images and `medseg evaluate` scores them. Prints one table as it goes and draws the figure.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import yaml

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
BLOCK, EVERY = 10, 4


@dataclass(frozen=True)
class Point:
    """One trained model: mean Dice on the unseen cases, over them and the structures."""

    who: str
    minutes: float
    seed: int
    seconds: float
    steps: int
    dice: dict[str, float]

    @property
    def mean(self) -> float:
        return sum(self.dice.values()) / len(self.dice)

    def row(self) -> str:
        each = ", ".join(f"{name} {value:.4f}" for name, value in self.dice.items())
        return f"| {self.who} | {self.minutes:g} | {self.seed} | {self.seconds:.0f} | {self.steps} | {self.mean:.4f} | {each} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="dataset in the msd layout")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("bench-training"), help="runs, predictions, table, figure")
    parser.add_argument("--peer", type=Path, default=Path(".venv-bench/bin/python"), help="python that has nnunetv2")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=["medseg", "nnU-Net"])
    parser.add_argument("--set", action="append", default=[], help="further settings for medseg train")
    parser.add_argument("minutes", type=float, nargs="+")
    options = parser.parse_args()
    prepare(options)
    print("| who | minutes | seed | seconds of training | steps | mean Dice | structures |")
    print("|---|---|---|---|---|---|---|", flush=True)
    points = []
    for minutes in options.minutes:
        for seed in options.seeds:
            for who, train in (("medseg", medseg_point), ("nnU-Net", nnunet_point)):
                if options.only in (None, who):
                    points.append(train(options, minutes, seed))
                    print(points[-1].row(), flush=True)
    draw(points, options.output / "training.png")


def prepare(options: argparse.Namespace) -> None:
    """The training cases in both layouts and the held-out ones, by links; once."""
    place = options.output
    if (place / "held_out.json").exists():
        return
    described = json.loads((options.root / "dataset.json").read_text())
    names = sorted(Path(entry["image"]).name.removesuffix(".nii.gz") for entry in described["training"])
    held_out = [name for n, name in enumerate(names) if n // BLOCK % EVERY == EVERY - 1]
    kept = [name for name in names if name not in held_out]
    raw = place / "raw" / "Dataset004_Bench"
    for name in names:
        image, label = (options.root / part / f"{name}.nii.gz" for part in ("imagesTr", "labelsTr"))
        if name in held_out:
            link(image, place / "images" / f"{name}_0000.nii.gz")
            link(label, place / "references" / f"{name}.nii.gz")
        else:
            for root, ending in ((place / "msd", ""), (raw, "_0000")):
                link(image, root / "imagesTr" / f"{name}{ending}.nii.gz")
                link(label, root / "labelsTr" / f"{name}.nii.gz")
    entries = [{"image": f"imagesTr/{n}.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in kept]
    (place / "msd" / "dataset.json").write_text(json.dumps({**described, "training": entries}))
    labels = {name: int(value) for value, name in described["labels"].items()}
    theirs = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(kept), "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps(theirs))
    if options.only != "medseg":
        peer(options, "prepare", "--raw", place / "raw")
    (place / "held_out.json").write_text(json.dumps(held_out))
    print(f"{len(kept)} cases for training, {len(held_out)} held out", flush=True)


def medseg_point(options: argparse.Namespace, minutes: float, seed: int) -> Point:
    folder = options.output / f"medseg-{minutes:g}m-seed{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    budget = f"{round(minutes * 60)}s"
    settings = [f"data.root={options.output / 'msd'}", f"train.budget={budget}", f"train.seed={seed}", *options.set]
    given = [argument for setting in settings for argument in ("--set", setting)]
    started = time.monotonic()
    run_medseg("train", "--config", options.config, "--fold", "final", "--output", folder / "run", *given)
    seconds = time.monotonic() - started
    images = sorted((options.output / "images").iterdir())
    run_medseg("infer", *images, "--model", folder / "run" / "model", "--output", folder / "seen", "-q")
    for image in images:  # named as the references are
        name = image.name.removesuffix("_0000.nii.gz")
        link(folder / "seen" / f"{name}_0000_seg.nii.gz", folder / "predictions" / f"{name}.nii.gz")
    steps = json.loads((folder / "run" / "plan.json").read_text())["steps"]
    return Point("medseg", minutes, seed, seconds, steps, scored(options, folder))


def nnunet_point(options: argparse.Namespace, minutes: float, seed: int) -> Point:
    run = f"nnunet-{minutes:g}m-seed{seed}"
    folder = options.output / run
    shutil.rmtree(folder, ignore_errors=True)
    facts = json.loads(peer(options, "train", "--run", run, "--minutes", minutes).strip().splitlines()[-1])
    peer(options, "predict", "--run", run, "--images", options.output / "images", "--output", folder / "predictions")
    return Point("nnU-Net", minutes, seed, facts["seconds"], facts["steps"], scored(options, folder))


def scored(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Mean Dice of each structure over the held-out cases, by `medseg evaluate`."""
    references = options.output / "references"
    arguments = (folder / "predictions", references, "--labels", options.config, "--metrics", "dice", "-q")
    run_medseg("evaluate", *arguments, "--output", folder / "scores")
    names = [name for name, value in yaml.safe_load(options.config.read_text())["labels"].items() if value]
    found: dict[str, list[float]] = {name: [] for name in names}
    with (folder / "scores" / "scores.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            if line["metric"] == "dice" and line["value"] and line["structure"] in found:
                found[line["structure"]].append(float(line["value"]))
    return {name: sum(values) / len(values) for name, values in found.items()}


def draw(points: list[Point], path: Path) -> None:
    """Dice against minutes, a line per tool through the means of its seeds."""
    figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for who, marker, colour in (("medseg", "o", "#0072B2"), ("nnU-Net", "s", "#D55E00")):
        own = [point for point in points if point.who == who]
        minutes = sorted({point.minutes for point in own})
        means = [sum(values) / len(values) for m in minutes if (values := [p.mean for p in own if p.minutes == m])]
        axes.plot(minutes, means, color=colour, linestyle="-" if who == "medseg" else "--", label=who)
        axes.scatter([p.minutes for p in own], [p.mean for p in own], marker=marker, color=colour)
    axes.set(xlabel="minutes of training, 2 CPU cores", ylabel="mean Dice, unseen cases", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)


def link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source.resolve())


def run_medseg(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "medseg", *map(str, arguments)], check=True, stdout=sys.stderr)


def peer(options: argparse.Namespace, what: str, *arguments: object) -> str:
    command = [options.peer, HERE / "nnunet_peer.py", what, "--work", options.output / "nnunet", *arguments]
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


if __name__ == "__main__":
    main()
