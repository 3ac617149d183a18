"""In which floating-point type a network computes, and what the shorter one costs in Dice, measured model by model."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from medseg.core.errors import ConfigError, ResourceError
from medseg.inference.device import bf16_pays
from medseg.models.how_to_run import Bf16DiceLoss, HowToRun

Precision = Literal["f32", "bf16", "fp16"]
F32_ALONE = ("onnxruntime",)  # on a CPU it has no convolution in anything shorter


def precision_for(asked: str, device: torch.device, backend: str, wishes: HowToRun) -> Precision:
    """What ``asked`` means there: ``auto`` is fp16 on a GPU and f32 on a CPU.

    On a CPU with arithmetic for it ``auto`` is bf16, where the model folder has measured on this backend that no structure
    loses more than a Dice of 0.001. Raises ConfigError for an unknown word, for fp16 on a CPU and for what the
    backend does not have, ResourceError for bf16 on a device that does not have it.
    """
    if asked == "auto":
        if device.type == "cuda":
            return "fp16"
        loss = wishes.bf16_dice_loss
        allowed = loss is not None and loss.backend == backend and loss.chosen and backend not in F32_ALONE
        return "bf16" if allowed and bf16_pays(device) else "f32"
    for known in get_args(Precision):
        if asked == known:
            precision: Precision = known
            break
    else:
        raise ConfigError(f"precision {asked!r} is unknown; choose auto, {', '.join(get_args(Precision))}")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a CUDA GPU, and this device is the CPU; use auto, f32 or bf16")
    if precision != "f32" and backend in F32_ALONE:
        raise ConfigError(
            f"precision {precision}: backend {backend} computes in f32 alone; use auto or f32, or another --backend"
        )
    if precision == "bf16" and not bf16_pays(device):
        raise ResourceError(f"precision bf16: this device ({device}) has no arithmetic for it; use auto or f32")
    return precision


def bf16_dice_loss(
    f32: npt.NDArray[np.float64], bf16: npt.NDArray[np.float64], *, structures: Sequence[str], backend: str
) -> Bf16DiceLoss | None:
    """Dice in f32 less Dice in bf16, for ``inference.bf16_dice_loss`` of a model folder; None where no Dice is defined.

    ``f32`` and ``bf16`` hold the Dice (cases, structures) of the same cases, NaN where it is undefined: in f32 such a value
    does not count, and in bf16 alone it counts as 0. The mean is over the structures, each with the mean over its cases.
    """
    counts = ~np.isnan(f32)
    known = counts.any(axis=0)
    if not known.any():
        return None
    lost = np.where(counts, f32 - np.nan_to_num(bf16, nan=0.0), 0.0).sum(axis=0)
    means = np.where(known, lost / np.maximum(counts.sum(axis=0), 1), -np.inf)
    worst = int(np.argmax(means))
    return Bf16DiceLoss(
        mean=float(means[known].mean()),
        largest=float(means[worst]),
        structure=structures[worst],
        cases=int(counts.any(axis=1).sum()),
        backend=backend,
    )
