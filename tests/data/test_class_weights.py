"""Class weights and sampling weights from the voxels of the training cases, against figures by hand."""

import pytest

from medseg.core.component import Component
from medseg.core.labels import Labels
from medseg.core.plan import Fingerprint
from medseg.data.class_weights import decided_loss, decided_sampling, inverse_frequency

MAPPING = {"background": 0, "liver": 1, "tumour": 2}
REGIONS = {"whole": ["liver", "tumour"], "tumour": ["tumour"]}


def fingerprint(**changes):
    """Two cases of 1000 voxels: 300 of liver in each, 50 of tumour in one of them."""
    content = {
        "cases": 2,
        "channels": 1,
        "median_shape": [10, 10, 10],
        "spacings_mm": [[1.0, 1.0, 1.0]] * 2,
        "shapes": [[10, 10, 10]] * 2,
        "foreground": [],
        "voxels_per_structure": {"liver": 300.0, "tumour": 50.0},
        "cases_per_structure": {"liver": 2, "tumour": 1},
    }
    return Fingerprint.model_validate(content | changes)


def test_each_class_weighs_alike():
    weights = inverse_frequency(Labels.from_mapping(MAPPING), fingerprint())
    assert weights == pytest.approx([2000 / 3 / 1350, 2000 / 3 / 600, 2000 / 3 / 50], rel=1e-5)


def test_ignored_voxels_are_no_background():
    weights = inverse_frequency(Labels.from_mapping(MAPPING, None, 255), fingerprint(ignored_voxels=350))
    assert weights == pytest.approx([1650 / 3 / 1000, 1650 / 3 / 600, 1650 / 3 / 50], rel=1e-5)


def test_a_region_weighs_its_outside():
    weights = inverse_frequency(Labels.from_mapping(MAPPING, REGIONS), fingerprint())
    assert weights == pytest.approx([1350 / 650, 1950 / 50], rel=1e-5)


def test_a_structure_that_is_nowhere_weighs_as_the_rarest():
    nowhere = {
        "voxels_per_structure": {"liver": 300.0, "tumour": 0.0},
        "cases_per_structure": {"liver": 2, "tumour": 0},
    }
    weights = inverse_frequency(Labels.from_mapping(MAPPING), fingerprint(**nowhere))
    assert weights[2] == weights[1] > weights[0]


def test_the_plan_holds_numbers_and_other_losses_stay_as_they_are():
    labels = Labels.from_mapping(MAPPING)
    for asked in (Component(name="weighted_ce"), Component(name="weighted_ce", options={"weights": "auto"})):
        assert decided_loss(asked, labels, fingerprint()).options == {
            "weights": inverse_frequency(labels, fingerprint())
        }
    given = Component(name="weighted_ce", options={"weights": [1.0, 2.0, 3.0]})
    assert decided_loss(given, labels, fingerprint()) == given
    assert decided_loss(Component(name="dice_ce"), labels, fingerprint()) == Component(name="dice_ce")


def test_sampling_becomes_numbers_too():
    assert decided_sampling("balanced", fingerprint()) == {}
    assert decided_sampling("frequency", fingerprint()) == {"liver": 300.0, "tumour": 50.0}
    assert decided_sampling({"tumour": 3.0}, fingerprint()) == {"tumour": 3.0}
