import numpy as np
import pytest

from medseg.core.errors import ConfigError, DataError, GeometryError
from medseg.core.geometry import Geometry
from medseg.core.labels import PALETTE, Labels
from medseg.core.volume import LabelMap, Volume

GAPS = Labels.from_mapping({"air": 0, "tumour": 300, "liver": 2, "spleen": 7})


def test_structures_follow_their_values_and_have_their_own_colours():
    assert GAPS.names == ("liver", "spleen", "tumour")
    assert GAPS.values == (2, 7, 300)
    assert GAPS.background == "air"
    assert [s.colour for s in GAPS.structures] == list(PALETTE[:3])
    assert GAPS.mapping() == {"air": 0, "liver": 2, "spleen": 7, "tumour": 300}


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.float32])
def test_values_with_gaps_become_contiguous_channels_and_come_back(dtype):
    values = np.array([[0, 2, 7], [300, 7, 0]], dtype)
    channels = GAPS.to_channels(values)
    assert channels.dtype == np.uint8
    assert channels.tolist() == [[0, 1, 2], [3, 2, 0]]
    back = GAPS.to_values(channels)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, values)


@pytest.mark.parametrize(("value", "dtype"), [(1, np.uint8), (255, np.uint8), (65535, np.uint16), (-1, np.int8)])
def test_a_value_without_a_name_is_refused_by_name(value, dtype):
    with pytest.raises(DataError, match=f"label value {value} "):
        GAPS.to_channels(np.array([0, value], dtype))


def test_labels_are_written_in_the_smallest_type_that_holds_them():
    assert Labels.from_mapping({"background": 0, "liver": 255}).dtype == np.uint8
    assert Labels.from_mapping({"background": 0, "liver": 256}).dtype == np.uint16


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"a": 1, "b": 2}, "no name holds 0"),
        ({"background": 0}, "only the background"),
        ({}, "no name holds 0"),
        ({"background": 0, "liver": 1, "spleen": 1}, "'liver' and 'spleen' have the same value 1"),
        ({"background": 0, "liver": -1}, "'liver' is -1"),
        ({"background": 0, "liver": 65536}, "65536"),
        ({"background": 0, " ": 1}, "no name"),
        ({"background": 0, "a\nb": 1}, "no name"),
    ],
)
def test_labels_that_make_no_sense_are_refused(mapping, words):
    with pytest.raises(ConfigError, match=words):
        Labels.from_mapping(mapping)


def test_volumes_count_voxels_by_the_determinant():
    affine = np.diag([-2.0, 2.0, 5.0, 1.0])
    affine[0, 2] = 1.0  # a shear keeps the volume
    data = np.zeros((10, 10, 10), np.uint8)
    data[:5, :4, :3] = 2
    data[9] = 7
    found = LabelMap(data, Geometry(data.shape, affine), GAPS).volumes_ml()
    assert found == {"liver": pytest.approx(60 * 0.02), "spleen": pytest.approx(100 * 0.02), "tumour": 0.0}


def test_volumes_of_a_foreign_value_do_not_disturb_the_others():
    data = np.full((2, 3, 4), 65535, np.uint16)
    data[0, 0, 0] = 7
    found = LabelMap(data, Geometry(data.shape, np.eye(4)), GAPS).volumes_ml()
    assert found == {"liver": 0.0, "spleen": pytest.approx(0.001), "tumour": 0.0}


def test_voxels_and_grid_must_agree():
    grid = Geometry((2, 3, 4), np.eye(4))
    with pytest.raises(GeometryError, match=r"\(2, 3, 4\)"):
        Volume(np.zeros((2, 3, 4)), grid)
    with pytest.raises(GeometryError, match=r"\(4, 3, 2\)"):
        LabelMap(np.zeros((4, 3, 2), np.uint8), grid)
    with pytest.raises(GeometryError, match="need labels"):
        LabelMap(np.zeros((2, 3, 4), np.uint8), grid).volumes_ml()


def test_a_volume_shows_what_it_is():
    volume = Volume(np.zeros((1, 2, 3, 4), np.int16), Geometry((2, 3, 4), np.diag([-1, -1, 2.5, 1])))
    assert repr(volume) == "Volume(1 channel(s), int16, Geometry(2x3x4 voxels, 1 x 1 x 2.5 mm, LPS))"
    assert volume.canonical().geometry.orientation == "RAS"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("kidney_left", "kidney_right"),  # TotalSegmentator
        ("left_kidney", "right_kidney"),
        ("Left-Hippocampus", "Right-Hippocampus"),  # FreeSurfer's aseg
        ("ctx-lh-superiorfrontal", "ctx-rh-superiorfrontal"),  # FreeSurfer's aparc
        ("Kidney L", "Kidney R"),
        ("Hippocampus_L", "Hippocampus_R"),  # AAL, in ICBM space
        ("KidneyLeft", "KidneyRight"),
        ("rib_left_1", "rib_right_1"),
    ],
)
def test_left_and_right_are_partners_as_the_field_names_them(left, right):
    labels = Labels.from_mapping({"background": 0, right: 1, "liver": 2, left: 3})
    assert labels.mirror_swaps == (0, 3, 2, 1)
    assert labels.one_sided == ()


def test_a_side_without_its_partner_is_named_and_lumbar_vertebrae_have_no_side():
    names = ["vertebrae_L1", "vertebrae_L5", "atrial_appendage_left", "lung_middle_lobe_right", "liver", "bright_spot"]
    labels = Labels.from_mapping({"background": 0} | {name: n for n, name in enumerate(names, 1)})
    assert labels.mirror_swaps == tuple(range(7))
    assert labels.one_sided == ("atrial_appendage_left", "lung_middle_lobe_right")
