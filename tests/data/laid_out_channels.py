"""One small dataset of two channels in every layout: the same scans, T2 first and ADC second."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.data.tiny_dataset import LABELS, pair, save


def two_channels(root: Path, cases: int = 3) -> list[str]:
    """``scans/NAME_T2.nii.gz``, ``NAME_ADC`` and ``labels/NAME``, under ids that every layout takes."""
    names = [f"sub-case{n:02d}" for n in range(cases)]
    for n, name in enumerate(names):
        save(root / "scans" / f"{name}_T2.nii.gz", pair(n)[0])
        save(root / "scans" / f"{name}_ADC.nii.gz", pair(n + 50)[0])
        save(root / "labels" / f"{name}.nii.gz", pair(n)[1])
    return names


def move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)


def msd(root: Path, names: list[str]) -> dict[str, Any]:
    """One file of four dimensions, as the Decathlon's BrainTumour and Prostate."""
    listed = []
    for n, name in enumerate(names):
        case = name.removeprefix("sub-")
        save(root / "imagesTr" / f"{case}.nii.gz", np.stack([pair(n)[0], pair(n + 50)[0]], -1))
        move(root / "labels" / f"{name}.nii.gz", root / "labelsTr" / f"{case}.nii.gz")
        listed.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    content = {
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {str(v): k for k, v in LABELS.items()},
        "training": listed,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return {"layout": "msd", "root": str(root)}


def nnunet(root: Path, names: list[str]) -> dict[str, Any]:
    for name in names:
        move(root / "labels" / f"{name}.nii.gz", root / "labelsTr" / f"{name}.nii.gz")
        for number, channel in enumerate(("T2", "ADC")):
            move(root / "scans" / f"{name}_{channel}.nii.gz", root / "imagesTr" / f"{name}_000{number}.nii.gz")
    content = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": LABELS, "numTraining": 3, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return {"layout": "nnunet", "root": str(root)}


def folder(root: Path, names: list[str]) -> dict[str, Any]:
    return {
        "layout": "folder",
        "images": str(root / "scans"),
        "labels": str(root / "labels"),
        "channels": ["T2", "ADC"],
    }


def csv_table(root: Path, names: list[str]) -> dict[str, Any]:
    rows = [(n, f"scans/{n}_ADC.nii.gz", f"scans/{n}_T2.nii.gz", f"labels/{n}.nii.gz") for n in names]
    with (root / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows([("case", "image_ADC", "image_T2", "label"), *rows])
    return {"layout": "csv", "table": str(root / "cases.csv"), "channels": ["T2", "ADC"]}


def bids(root: Path, names: list[str]) -> dict[str, Any]:
    for name in names:
        for channel in ("T2", "ADC"):
            image = f"{name}_{channel}.nii.gz"
            move(root / "scans" / image, root / name / "anat" / image)
        move(root / "labels" / f"{name}.nii.gz", root / "derivatives" / "manual" / name / f"{name}_dseg.nii.gz")
    return {"layout": "bids", "root": str(root), "channels": ["T2", "ADC"]}


TWO_CHANNELS: dict[str, Callable[[Path, list[str]], dict[str, Any]]] = {
    "msd": msd,
    "nnunet": nnunet,
    "folder": folder,
    "csv": csv_table,
    "bids": bids,
}
