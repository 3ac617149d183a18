"""Regions in inference: thresholded one by one, written in their order, on the scan's grid."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.inference.decide import regions_in_order
from medseg.inference.restore import restore
from medseg.inference.segment import segment
from tests.inference.test_restore import cut
from tests.models.tiny_model import OBLIQUE, tiny_plan

LABELS = {"background": 0, "liver": 4, "tumour": 9, "spleen": 2}
REGIONS = [
    {"name": "whole", "structures": ["liver", "tumour"]},
    {"name": "tumour", "structures": ["tumour"]},
    {"name": "spleen", "structures": ["spleen"]},
]
BRIGHT = {"intensity": [{"scheme": {"name": "ct_window", "lower": -1e9, "upper": 1e9, "mean": 0.0, "sd": 1.0}}]}


@pytest.mark.parametrize("target", [(14, 11, 9), (7, 9, 5), (20, 30, 8)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slab_by_slab_is_thresholding_everything_at_once(target, axis):
    torch.manual_seed(0)
    logits = torch.randn(3, 14, 11, 9)
    ours = restore(
        cut(logits, axis, [3, 1, 4]),
        source=(14, 11, 9),
        target=target,
        axis=axis,
        dtype=np.uint8,
        decide=regions_in_order((2, 3, 1)),
    )
    at_target = interpolate(logits[None].double(), size=target, mode="trilinear", align_corners=False)[0].numpy()
    wanted = np.zeros(target, np.uint8)
    for value, channel in zip(at_target, (2, 3, 1), strict=True):
        wanted[value > 0] = channel
    clear = (np.abs(at_target) > 1e-4).all(axis=0)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(ours[clear], wanted[clear])


def test_a_tumour_in_a_liver_is_written_over_it_and_a_tumour_elsewhere_stays():
    data = np.zeros((16, 12, 10), np.float32)
    data[2:10, 2:10, 2:8] = 1  # liver
    data[4:7, 4:7, 4:6] = 2  # tumour in it
    data[12:14, 2:5, 2:5] = 3  # spleen
    plan = tiny_plan(spacing_mm=[1.0, 1.5, 2.0], labels=LABELS, regions=REGIONS, **BRIGHT)

    def predict(patches: torch.Tensor) -> torch.Tensor:
        one = patches[:, 0]
        spleen = (one > 2.5).float()
        return torch.stack([(one > 0.5).float() - spleen, ((one - 2).abs() < 0.5).float(), spleen], dim=1) * 8 - 4

    found = segment(Volume(data[None], Geometry(data.shape, OBLIQUE)), plan, predict).label_map
    np.testing.assert_array_equal(found.data, np.array([0, 4, 9, 2])[data.astype(int)])
    assert found.labels is not None
    assert found.labels.mapping() == {"background": 0, "spleen": 2, "liver": 4, "tumour": 9}
