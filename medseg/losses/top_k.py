"""Cross-entropy of the hardest voxels alone."""

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.losses.comparison import Loss, comparison


def top_k(labels: Labels | None = None, /, *, percent: float = 10.0) -> Loss:
    """The mean cross-entropy of the ``percent`` of a batch's voxels where it is largest (arXiv:1605.06885).

    At least one voxel counts; of regions, a voxel counts once for each of them. 10 % is nnU-Net's choice. Raises
    ConfigError for a ``percent`` that is not above 0 and at most 100.
    """
    if not 0.0 < percent <= 100.0:
        raise ConfigError(f"top_k: percent is {percent}; expected a number above 0 and up to 100")
    compare = comparison(labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        found = compare(logits, target, annotated)
        losses = -found.log_p_true.flatten()
        if found.counted is not None:
            losses = losses[found.counted.flatten() > 0.0]
        if not len(losses):
            return logits.float().sum() * 0.0
        hardest = torch.topk(losses, max(1, int(len(losses) * percent / 100.0)), sorted=False).values
        return hardest.mean()

    return loss
