"""A small untrained network in a whole model folder, and the scans to run it on: made in milliseconds, seeded."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from medseg.core.plan import Plan
from medseg.models.bundle import network_for, save_model, weights_of
from medseg.models.card import model_readme
from medseg.models.model_json import FORMAT_VERSION, ModelCard

LABELS = {"background": 0, "liver": 1, "tumour": 2}
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.2, -0.15, 0.1) @ np.diag([1.0, 1.5, 2.0]), [12.0, -30.0, 7.5]
)


def tiny_plan(**changes: Any) -> Plan:
    """A 3D plan with 8 x 8 x 8 patches and two resolution stages; ``changes`` replace any of its keys."""
    content: dict[str, Any] = {
        "dimensions": 3,
        "slice_axis": None,
        "spacing_mm": [1.0, 1.5, 2.0],
        "patch_size": [8, 8, 8],
        "batch_size": 1,
        "architecture": {
            "name": "unet",
            "options": {
                "features": [4, 8],
                "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
                "strides": [[1, 1, 1], [2, 2, 2]],
                "convs_per_stage": [1, 1],
                "decoder_convs_per_stage": [1],
            },
        },
        "channels": 1,
        "labels": LABELS,
        "modality": "MR",
        "intensity": [{"scheme": "z_score"}],
        "loss": "dice_ce",
        "optimizer": "adamw",
        "schedule": "poly",
        "learning_rate": 1e-3,
        "steps": 10,
        "validate_every": 10,
        "validation_cases": 1,
        "ema": 0.99,
        "foreground_fraction": 0.33,
        "mirror_axes": [0, 1, 2],
        "precision": "f32",
        "seed": 0,
        "reasons": {},
    }
    return Plan.model_validate(content | changes)


def tiny_states(plan: Plan, folds: int = 1) -> dict[str, dict[str, torch.Tensor]]:
    """A fresh network's weights, the last bias set so that each structure wins somewhere."""
    states = {}
    for fold in range(folds):
        torch.manual_seed(fold)
        network = network_for(plan).eval()
        with torch.inference_mode():
            logits = network(torch.randn(4, plan.channels, *plan.patch_size))
        state = {key: value.clone() for key, value in weights_of(network).state_dict().items()}
        state["decoder.seg_layers.0.bias"] -= logits.mean(dim=(0, 2, 3, 4))
        states[f"fold_{fold}"] = state
    return states


def tiny_model(
    folder: Path,
    *,
    plan: Plan | None = None,
    folds: int = 1,
    states: dict[str, dict[str, torch.Tensor]] | None = None,
    **card: Any,
) -> Path:
    """A model folder as training writes it, of fresh weights or of ``states``."""
    plan = plan or tiny_plan()
    made = ModelCard(
        **{
            "format_version": FORMAT_VERSION,
            "name": "tiny",
            "created": "2026-01-01T00:00:00.000000+00:00",
            "plan": plan,
            "labels": plan.labels,
            "weights": {},
        }
        | card
    )
    save_model(folder, made, states or tiny_states(plan, folds), model_readme(made))
    return folder


def texture(shape: tuple[int, int, int] = (14, 12, 10), seed: int = 0) -> np.ndarray:
    """Smooth int16 intensities, so that neighbouring voxels have like labels."""
    coarse = np.random.default_rng(seed).normal(size=[n // 2 + 1 for n in shape])
    fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: shape[0], : shape[1], : shape[2]]
    return (300 * fine).astype(np.int16)


def write_scan(path: Path, data: np.ndarray | None = None, affine: np.ndarray = OBLIQUE) -> Path:
    """A NIfTI by nibabel, in millimetres; by its suffix one file or a pair."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = nib.Nifti1Pair if path.suffix == ".hdr" else nib.Nifti1Image
    image = kind(texture() if data is None else data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path
