"""A scan unlike the training's, and left and right exchanged, are reasons to review; the training's own cases are none."""

from dataclasses import replace

import numpy as np
import pytest

from medseg.core.config_data import DataConfig
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.data.check import as_label, check_dataset
from medseg.data.fingerprint import fingerprint
from medseg.data.layouts import list_cases
from medseg.inference.review import reasons
from medseg.io.reading import read_volumes
from tests.data import tiny_dataset
from tests.models.tiny_model import OBLIQUE, tiny_plan

SIDES = {"background": 0, "kidney_right": 1, "kidney_left": 2, "liver": 3}
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """The fingerprint of six tiny CT cases, and each case's scan with its reference."""
    made = tiny_dataset.Tiny(tmp_path_factory.mktemp("training"))
    for n in range(6):
        image, label = tiny_dataset.pair(n)
        aside = np.roll(label == 2, 2, axis=0)  # the tumour 3 mm farther to the right
        label = np.where(aside, 2, np.minimum(label, 1))
        made.add(f"case_{n}", image, label.astype(np.uint8))
    root = made.finish()
    labels = Labels.from_mapping(tiny_dataset.LABELS)
    cases = list_cases(DataConfig(root=root), labels)
    seen = fingerprint(check_dataset(cases, labels))
    volumes = [read_volumes(case.images) for case in cases]
    maps = [as_label(case, labels, volume.geometry) for case, volume in zip(cases, volumes, strict=True)]
    return seen, [(volume, replace(one, labels=labels)) for volume, one in zip(volumes, maps, strict=True)]


def found(volume, label_map, seen):
    return reasons(volume, label_map, label_map.volumes_ml(), tiny_plan(modality="CT"), seen)


def on(geometry, volume, label_map):
    return Volume(volume.data, geometry), replace(label_map, geometry=geometry)


def test_the_cases_of_the_training_are_none_in_any_storage_order(training):
    seen, cases = training
    for n, (volume, label_map) in enumerate(cases):
        assert found(volume, label_map, seen) == ()
        for order in all_storage_orders()[n::6]:
            assert found(volume.reordered(order), label_map.reordered(order), seen) == ()


def test_a_header_whose_spacings_are_shuffled_is_one(training):
    seen, cases = training
    volume, label_map = cases[0]
    affine = volume.geometry.affine @ np.diag([2 / 1.5, 1.5 / 1.25, 1.25 / 2, 1.0])
    told = found(*on(Geometry(volume.geometry.shape, affine), volume, label_map), seen)
    assert "spacing foot to head is 1.25 mm; training had 2 mm" in told
    assert "spacing left to right is 2 mm; training had 1.5 mm" in told


def test_a_header_that_is_flipped_or_turned_is_one_by_how_structures_lie(training):
    """The tumour lies four voxels of 1.5 mm to the right of the liver's middle, and more of the middle of what it leaves."""
    seen, cases = training
    (known,) = (one for one in seen.arrangement if one.axis == 0)
    assert (known.lower, known.upper) == ("liver", "tumour")
    assert 5 < known.gap_mm < 9
    volume, label_map = cases[0]
    flipped = Geometry(volume.geometry.shape, MIRROR @ volume.geometry.affine)
    (told,) = found(*on(flipped, volume, label_map), seen)
    assert told.startswith("tumour lies to the left of liver, but to the right of it by ")
    assert told.endswith("the scan's left and right may be exchanged")
    turned = Geometry(volume.geometry.shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.geometry.affine)
    assert any("left and right may be exchanged" in reason for reason in found(*on(turned, volume, label_map), seen))


def test_a_header_in_centimetres_is_one_by_spacing_field_of_view_and_volume(training):
    seen, cases = training
    volume, label_map = cases[0]
    small = Geometry(volume.geometry.shape, volume.geometry.affine @ np.diag([0.1, 0.1, 0.1, 1.0]))
    told = found(*on(small, volume, label_map), seen)
    assert sum("spacing" in reason for reason in told) == 3
    assert sum("field of view" in reason for reason in told) == 3
    assert sum("liver has" in reason or "tumour has" in reason for reason in told) == 2


def test_ct_numbers_with_their_offset_left_in_are_one(training):
    seen, cases = training
    volume, label_map = cases[0]
    (told,) = found(Volume(volume.data + np.int16(1024), volume.geometry), label_map, seen)
    middle = np.median(volume.data[0][label_map.data > 0]) + 1024
    assert told.startswith(f"the median intensity inside the structures found is {middle:.0f}; training had")


def test_a_structure_that_all_training_cases_held_is_one_where_it_is_missing(training):
    seen, cases = training
    volume, label_map = cases[0]
    without = replace(label_map, data=np.where(label_map.data == 2, 0, label_map.data))
    assert found(volume, without, seen) == ("tumour was not found, but every one of the 6 training cases held it",)
    few = seen.model_copy(update={"cases_per_structure": {"liver": 6, "tumour": 5}})
    assert found(volume, without, few) == ()


def test_a_volume_cut_by_the_border_is_none_and_a_whole_one_too_large_is(training):
    seen, cases = training
    volume, label_map = cases[0]
    data = np.zeros_like(label_map.data)
    data[1:-1, 1:-1, 1:-1] = 1
    data[12, 10, 8] = 2
    told = found(volume, replace(label_map, data=data), seen)
    low, high = seen.volumes_ml["liver"]
    assert any(reason.endswith(f"training had {low:.3g} to {high:.3g} mL") and "liver has" in reason for reason in told)
    data[0] = 1
    assert not any("liver has" in reason for reason in found(volume, replace(label_map, data=data), seen))


def test_left_lying_right_of_its_partner_is_one_wherever_it_is_stored():
    labels = Labels.from_mapping(SIDES)
    data = np.zeros((14, 12, 10), np.uint8)
    data[2:4, 3:6, 3:6] = 2  # i runs to the right in RAS: the left kidney lies left
    data[10:12, 3:6, 3:6] = 1
    data[5:9, 3:9, 3:9] = 3
    plan = tiny_plan(labels=SIDES)
    for affine, told in ((OBLIQUE, False), (OBLIQUE @ MIRROR, True)):
        geometry = Geometry(data.shape, affine)
        label_map, volume = LabelMap(data, geometry, labels), Volume(data[None].astype(np.int16), geometry)
        for order in all_storage_orders()[::5]:
            stored = label_map.reordered(order)
            answer = reasons(volume.reordered(order), stored, stored.volumes_ml(), plan, None)
            expected = ("kidney_left lies to the right of kidney_right: the scan's left and right may be exchanged",)
            assert answer == (expected if told else ())
