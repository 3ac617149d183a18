"""Several folds as one: a wrapper of Predicts."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medseg.inference.settings import Ensemble
from medseg.inference.stream import Predict

Outputs = Literal["logits", "probabilities"]


def outputs_of(folds: int, ensemble: Ensemble) -> Outputs:
    """What an ensemble gives: a single fold gives its logits, whatever is averaged."""
    return ensemble if folds > 1 else "logits"


def ensembled(predicts: Sequence[Predict], outputs: Outputs, *, regions: bool) -> Predict:
    """The mean of what the folds give, one after the other: two folds' outputs are held, however many there are.

    Probabilities are softmax over the structures, which exclude each other, or sigmoid of each of the ``regions``.
    """

    def output(predict: Predict, patches: Tensor) -> Tensor:
        logits = predict(patches)
        if outputs == "logits":
            return logits
        return torch.sigmoid(logits) if regions else torch.softmax(logits, dim=1)

    def mean(patches: Tensor) -> Tensor:
        total = output(predicts[0], patches).clone()
        for predict in predicts[1:]:
            total += output(predict, patches)
        return total.div_(len(predicts))

    return predicts[0] if len(predicts) == 1 and outputs == "logits" else mean


def as_probabilities(logits: Tensor, *, regions: bool) -> Tensor:
    """Blended ``logits`` (K, I, J, K) made probabilities in place, plane by plane."""
    for plane in logits.unbind(1):
        plane.copy_(torch.sigmoid(plane) if regions else torch.softmax(plane, dim=0))
    return logits
