"""A dataset of a few scans of 24 x 20 x 16 voxels in the layout of the Decathlon, by nibabel: quick to make and to train on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.data.laid_out import WAYS

SHAPE = (24, 20, 16)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.15, -0.1, 0.2) @ np.diag([1.5, 1.25, 2.0]), [-31.0, 17.5, 240.25]
)
LABELS = {"background": 0, "liver": 1, "tumour": 2}


def pair(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A liver of 7 x 6 x 5 voxels' half axes with a tumour in it, about the middle: int16 HU and uint8 labels."""
    random = np.random.default_rng(n)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    centre = np.array(SHAPE) / 2 + random.uniform(-2, 2, 3)
    label = (np.linalg.norm((index - centre) / [7, 6, 5], axis=-1) < 1).astype(np.uint8)
    label[np.linalg.norm(index - centre - [2, 0, 1], axis=-1) < 2.2] = 2
    image = random.normal(0, 15, SHAPE) + np.array([-50, 60, 140])[label]
    return image.astype(np.int16), label


@dataclass
class Tiny:
    """The folder and what dataset.json will list; change the files, then ``finish``."""

    root: Path
    cases: list[dict[str, str]] = field(default_factory=list)

    def image(self, n: int = 0) -> Path:
        return self.root / self.cases[n]["image"]

    def label(self, n: int = 0) -> Path:
        return self.root / self.cases[n]["label"]

    def add(self, name: str, image: np.ndarray, label: np.ndarray) -> None:
        self.cases.append({"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"})
        save(self.image(-1), image)
        save(self.label(-1), label)

    def finish(self) -> Path:
        content = {"name": "tiny", "labels": {str(v): k for k, v in LABELS.items()}, "training": self.cases}
        (self.root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
        return self.root


def tiny(root: Path, cases: int = 4) -> Tiny:
    made = Tiny(root)
    for n in range(cases):
        made.add(f"case_{n:02d}", *pair(n))
    return made


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def config(root: Path, *, layout: str = "msd", **sections: dict[str, Any]) -> dict[str, Any]:
    """A raw config for two quick steps of a small network on the CPU; ``sections`` are merged into its own.

    The files that `Tiny` wrote into ``root`` are moved to where ``layout`` looks for them.
    """
    content: dict[str, Any] = {
        "name": "tiny",
        "data": WAYS[layout](root),
        "labels": dict(LABELS),
        "modality": "CT",
        "plan": {"patch_size": [16, 16, 16], "architecture": {"name": "unet", "features": [4, 6, 8]}},
        "train": {"steps": 2, "folds": 2},
        "device": "cpu",
    }
    for name, section in sections.items():
        content[name] = {**content[name], **section} if isinstance(section, dict) and name != "labels" else section
    return content
