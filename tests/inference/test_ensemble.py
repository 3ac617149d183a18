"""Folds averaged: probabilities or logits, by hand; what a region's border then is."""

import math

import numpy as np
import pytest
import torch

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.inference.ensemble import ensembled, outputs_of
from medseg.inference.segment import segment
from tests.models.tiny_model import OBLIQUE, tiny_plan


def constant(*logits: float):
    return lambda patches: torch.tensor(logits).view(1, -1, 1, 1, 1).expand(len(patches), -1, *patches.shape[2:])


def test_probabilities_are_averaged_after_softmax_and_logits_before():
    folds = [constant(1.0, 3.0), constant(2.0, -1.0)]
    patch = torch.zeros(1, 1, 2, 2, 2)
    first, second = (1 / (1 + math.exp(difference)) for difference in (-2.0, 3.0))
    mean = ensembled(folds, "probabilities", regions=False)(patch)[0, :, 0, 0, 0]
    torch.testing.assert_close(mean, torch.tensor([1 - (first + second) / 2, (first + second) / 2]))
    assert ensembled(folds, "logits", regions=False)(patch)[0, :, 0, 0, 0].tolist() == [1.5, 1.0]


def test_regions_are_averaged_one_by_one():
    mean = ensembled([constant(0.0, 3.0), constant(2.0, -1.0)], "probabilities", regions=True)(
        torch.zeros(1, 1, 1, 1, 1)
    )
    wanted = [(sum(1 / (1 + math.exp(-x)) for x in pair)) / 2 for pair in ((0.0, 2.0), (3.0, -1.0))]
    torch.testing.assert_close(mean.flatten(), torch.tensor(wanted))


def test_one_fold_is_itself():
    fold = constant(1.0, 2.0)
    assert outputs_of(1, "probabilities") == "logits"
    assert ensembled([fold], "logits", regions=False) is fold


@pytest.mark.parametrize(
    ("ensemble", "folds", "found"),
    [
        ("logits", [1.5, -1.0, -0.4], 4),
        ("probabilities", [3.0, -1.0, -1.0], 0),
        ("probabilities", [3.0, -1.0, -0.5], 4),
    ],
)
def test_a_region_begins_at_a_mean_probability_of_one_half_or_a_mean_logit_of_0(ensemble, folds, found):
    """sigmoid of 3, -1, -1: 0.95, 0.27, 0.27, mean 0.497, though the mean logit is 0.33; of 3, -1, -0.5: 0.533."""
    plan = tiny_plan(labels={"background": 0, "liver": 4}, regions=[{"name": "whole", "structures": ["liver"]}])
    predict = ensembled([constant(logit) for logit in folds], ensemble, regions=True)
    volume = Volume(np.zeros((1, 9, 10, 11), np.float32), Geometry((9, 10, 11), OBLIQUE))
    label_map = segment(volume, plan, predict, outputs=ensemble).label_map
    assert np.unique(label_map.data).tolist() == [found]
