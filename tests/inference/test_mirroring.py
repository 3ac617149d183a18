"""Mirrored windows, against numpy's flips done by hand; left stays left."""

from itertools import product

import numpy as np
import pytest
import torch

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import Volume
from medseg.inference.mirroring import mirrored
from medseg.inference.segment import segment
from medseg.inference.settings import InferenceSettings
from tests.models.tiny_model import OBLIQUE, tiny_plan

AS_IT_IS = {"intensity": [{"scheme": {"name": "ct_window", "lower": -1e9, "upper": 1e9, "mean": 0.0, "sd": 1.0}}]}
SIDES = {"background": 0, "kidney_left": 3, "spleen": 5, "kidney_right": 7}


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1), (0, 1, 2)], ids=str)
def test_it_is_the_mean_over_all_flips_with_left_and_right_exchanged(axes):
    place = torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    patches = torch.randn(2, 1, 5, 6, 7, generator=torch.Generator().manual_seed(1))

    def predict(given: torch.Tensor) -> torch.Tensor:
        return given * place

    wanted = np.zeros((2, 4, 5, 6, 7))
    for turned in product([False, True], repeat=len(axes)):
        along = [axis for axis, turn in zip(axes, turned, strict=True) if turn]
        found = np.flip(np.flip(patches.numpy(), [a + 2 for a in along]) * place.numpy(), [a + 2 for a in along])
        wanted += found[:, [0, 3, 2, 1]] if 0 in along else found
    found = mirrored(predict, axes, Labels.from_mapping(SIDES).output_swaps)(patches)
    np.testing.assert_allclose(found, wanted / 2 ** len(axes), atol=1e-5)


def test_a_model_that_knows_left_from_right_still_does():
    """What is bright is the left kidney on the patient's left (low i of RAS), else the right one; a spleen is brighter still."""
    data = np.zeros((32, 20, 12), np.float32)
    data[3:9, 4:9, 3:8] = 1  # right kidney
    data[22:29, 4:9, 3:8] = 1  # left kidney
    data[22:26, 12:16, 3:8] = 2  # spleen
    truth = np.where(data == 2, 5, 0)
    truth[3:9, 4:9, 3:8], truth[22:29, 4:9, 3:8] = 7, 3
    left = OBLIQUE @ np.diag([-1.0, 1.0, 1.0, 1.0])  # i now runs to the patient's left
    plan = tiny_plan(spacing_mm=[1.0, 1.5, 2.0], patch_size=[32, 20, 12], labels=SIDES, **AS_IT_IS)
    side = torch.zeros(32, 1, 1)
    side[16:] = 1  # in RAS storage high i is the patient's right

    def predict(patches: torch.Tensor) -> torch.Tensor:
        one = patches[:, 0]
        kidney = 1 - 2 * (one - 1).abs()
        return torch.stack([0.5 - one, kidney - 4 * side, one - 1.5, kidney - 4 * (1 - side)], dim=1)

    volume = Volume(data[None], Geometry(data.shape, left))
    for axes in ((), (0,), (0, 1, 2)):
        found = segment(volume, plan, predict, settings=InferenceSettings(mirror=axes)).label_map
        np.testing.assert_array_equal(found.data, truth)
    kept = InferenceSettings(mirror=(0,), mirror_labels="kept")
    assert (segment(volume, plan, predict, settings=kept).label_map.data != truth).any()


def test_regions_change_sides_with_their_structures():
    names = {"background": 0, "kidney_left": 1, "kidney_right": 2, "cyst_left": 3, "cyst_right": 4}
    both = {"left": ["kidney_left", "cyst_left"], "right": ["kidney_right", "cyst_right"]}
    cysts = {"cyst_right": ["cyst_right"], "cyst_left": ["cyst_left"]}
    assert Labels.from_mapping(names, both | cysts).output_swaps == (1, 0, 3, 2)
    one = {
        "all": [*names][1:],
        "kidney_right": ["kidney_right"],
        "cysts": ["cyst_left", "cyst_right"],
        "cyst_right": ["cyst_right"],
    }
    with pytest.raises(ConfigError, match="kidney_right, cyst_right has no partner"):
        _ = Labels.from_mapping(names, one).output_swaps
