"""The Decathlon's dataset of `tiny_dataset` moved into every other layout: the same scans under other names."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def listed(root: Path) -> list[tuple[str, Path, Path]]:
    """Id, image and label of each case that dataset.json lists, whether the files are there or not."""
    entries = json.loads((root / "dataset.json").read_text())["training"]
    return [(stem(root / e["image"]), root / e["image"], root / e["label"]) for e in entries]


def stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.exists():
        source.rename(target)


def msd(root: Path) -> dict[str, Any]:
    return {"layout": "msd", "root": str(root)}


def nnunet(root: Path) -> dict[str, Any]:
    cases = listed(root)
    for case, image, _ in cases:
        move(image, image.with_name(f"{case}_0000{image.name.removeprefix(case)}"))
    labels = {name: int(value) for value, name in json.loads((root / "dataset.json").read_text())["labels"].items()}
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": len(cases), "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return {"layout": "nnunet", "root": str(root)}


def folder(root: Path) -> dict[str, Any]:
    return {"layout": "folder", "images": str(root / "imagesTr"), "labels": str(root / "labelsTr")}


def csv_table(root: Path) -> dict[str, Any]:
    rows = [(case, image.relative_to(root), label.relative_to(root)) for case, image, label in listed(root)]
    with (root / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("case", "image", "label"), *rows])
    return {"layout": "csv", "table": str(root / "cases.csv")}


def bids(root: Path) -> dict[str, Any]:
    for case, image, label in listed(root):
        name = "sub-" + re.sub("_", "", case)
        move(image, root / name / "anat" / f"{name}_T1w.nii.gz")
        move(label, root / "derivatives" / "manual" / name / "anat" / f"{name}_desc-expert_dseg.nii.gz")
    return {"layout": "bids", "root": str(root), "channels": ["T1w"]}


WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "msd": msd,
    "nnunet": nnunet,
    "folder": folder,
    "csv": csv_table,
    "bids": bids,
}
