"""The phantoms: known organs in known places, and the mathematics that makes their volumes true."""

import itertools

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.data.phantom import ORIENTATIONS, STRUCTURES, Phantom, make_phantom, threshold_baseline
from medseg.data.phantom_shapes import (
    Shape,
    Warp,
    above,
    blend,
    column,
    ellipsoid,
    ellipsoid_ml,
    grown,
    hoops,
    integrated_ml,
    share_inside,
    turned,
    within,
    without,
)

CASES = 10


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(5, case=case) for case in range(CASES)]


def mask_of(phantom: Phantom, name: str) -> npt.NDArray[np.bool_]:
    return phantom.label_map.data == STRUCTURES["all"][name]


def centre_mm(phantom: Phantom, name: str) -> npt.NDArray[np.float64]:
    """The centroid in RAS+ millimetres, by nibabel."""
    centre = np.argwhere(mask_of(phantom, name)).mean(axis=0)
    return np.asarray(nib.affines.apply_affine(phantom.label_map.geometry.affine, centre))


# Shapes


def test_the_integrated_volume_of_an_ellipsoid_is_the_formula() -> None:
    shape = ellipsoid((3.0, -7.0, 11.0), (30.0, 22.0, 41.0), (20.0, -35.0, 50.0))
    assert integrated_ml(shape) == pytest.approx(4 / 3 * np.pi * 30 * 22 * 41 / 1000, rel=1e-3)
    assert ellipsoid_ml((30.0, 22.0, 41.0)) == pytest.approx(4 / 3 * np.pi * 30 * 22 * 41 / 1000)


def test_the_integrated_volume_of_a_cut_sphere_is_the_cap() -> None:
    ball = ellipsoid((0.0, 0.0, 0.0), (40.0, 40.0, 40.0))
    height = 40.0 - 15.0
    cap = np.pi * height**2 * (3 * 40.0 - height) / 3 / 1000
    assert integrated_ml(within(ball, above(15.0))) == pytest.approx(cap, rel=5e-3)
    assert integrated_ml(without(ball, above(15.0))) == pytest.approx(ellipsoid_ml((40.0, 40.0, 40.0)) - cap, rel=5e-3)


def test_the_integrated_volume_of_two_spheres_in_common_is_the_lens() -> None:
    first, second = ellipsoid((0.0, 0.0, 0.0), (40.0, 40.0, 40.0)), ellipsoid((50.0, 0.0, 0.0), (40.0, 40.0, 40.0))
    lens = np.pi * (80.0 - 50.0) ** 2 * (50.0**2 + 4 * 50.0 * 40.0) / (12 * 50.0) / 1000
    assert integrated_ml(within(first, second)) == pytest.approx(lens, rel=3e-3)


def test_a_column_holds_the_volume_of_its_formula() -> None:
    shape = column((5.0, -3.0), (30.0, 20.0), (-25.0, 35.0))
    assert integrated_ml(shape) == pytest.approx(np.pi * 30 * 20 * 60 / 1000, rel=5e-3)


def test_a_sphere_grown_by_a_margin_is_the_larger_sphere() -> None:
    shape = grown(ellipsoid((0.0, 0.0, 0.0), (30.0, 30.0, 30.0)), 6.0)
    assert integrated_ml(shape) == pytest.approx(ellipsoid_ml((36.0, 36.0, 36.0)), rel=1e-3)


def test_the_distance_to_a_sphere_is_exact_outside_and_inside() -> None:
    points = np.random.default_rng(0).uniform(-60, 60, (3, 500)).astype(np.float32)
    distance = ellipsoid((1.0, 2.0, 3.0), (25.0, 25.0, 25.0), (10.0, 20.0, 30.0)).distance(*points)
    expected = np.linalg.norm(points - np.array([[1.0], [2.0], [3.0]]), axis=0) - 25.0
    np.testing.assert_allclose(distance, expected, atol=1e-3)


def test_an_ellipsoid_holds_the_points_that_its_equation_holds() -> None:
    points = np.random.default_rng(1).uniform(-50, 50, (3, 2000)).astype(np.float32)
    distance = ellipsoid((4.0, 0.0, -5.0), (15.0, 30.0, 40.0), (15.0, 40.0, -70.0)).distance(*points)
    local = turned((15.0, 40.0, -70.0)).T @ (points - np.array([[4.0], [0.0], [-5.0]]))
    equation = ((local / np.array([[15.0], [30.0], [40.0]])) ** 2).sum(axis=0) - 1.0
    clear = np.abs(equation) > 1e-4
    np.testing.assert_array_equal((distance < 0)[clear], (equation < 0)[clear])


@pytest.mark.parametrize(
    "shape",
    [
        ellipsoid((4.0, 0.0, -5.0), (15.0, 30.0, 40.0), (15.0, 40.0, -70.0)),
        blend(ellipsoid((-20.0, 0.0, 0.0), (25.0, 20.0, 20.0)), ellipsoid((20.0, 5.0, 0.0), (25.0, 20.0, 30.0)), 20.0),
        within(column((0.0, 0.0), (30.0, 20.0)), without(above(-20.0), above(25.0))),
    ],
)
def test_nothing_of_a_shape_lies_out_of_its_box(shape: Shape) -> None:
    points = np.random.default_rng(2).uniform(-90, 90, (3, 200_000)).astype(np.float32)
    inside = points[:, shape.distance(*points) < 0]
    assert inside.shape[1] > 1000
    assert (inside.min(axis=1) >= np.array(shape.low) - 1e-3).all()
    assert (inside.max(axis=1) <= np.array(shape.high) + 1e-3).all()


def test_hoops_are_as_thick_as_asked_where_the_ring_is_met() -> None:
    ribs = hoops((0.0, 0.0), (100.0, 70.0), thickness=5.0, pitch=30.0, slope=0.0, lowest=-40.0)
    heights = np.array([-60.0, -40.0, -36.0, -34.0, -10.0, 20.0, 35.0], np.float32)
    x, y = np.full(7, 100.0, np.float32), np.zeros(7, np.float32)
    np.testing.assert_allclose(ribs.distance(x, y, heights), [15.0, -5.0, -1.0, 1.0, -5.0, -5.0, 10.0], atol=1e-3)


def test_bending_keeps_every_volume() -> None:
    waves = np.array([[0.0, 0.05, -0.04], [0.03, 0.0, 0.06], [-0.05, 0.02, 0.0]])
    warp = Warp((5.0, 4.0, 3.0), waves, (0.3, 1.0, 2.0))
    points = np.random.default_rng(3).uniform(-100, 100, (3, 50)).astype(np.float32)
    step = np.float32(0.5)
    columns = []
    for axis in range(3):
        move = np.zeros((3, 1), np.float32)
        move[axis] = step
        columns.append((np.stack(warp(*(points + move))) - np.stack(warp(*(points - move)))) / (2 * step))
    determinants = np.linalg.det(np.stack(columns, axis=-1).transpose(1, 0, 2))
    np.testing.assert_allclose(determinants, 1.0, atol=2e-3)


@pytest.mark.parametrize(
    ("offset", "expected"), [(0.0, 0.5), (1.0, 0.7), (-2.0, 0.1), (2.5, 1.0), (9.0, 1.0), (-9.0, 0.0)]
)
def test_the_share_of_a_voxel_under_a_plane_is_exact(offset: float, expected: float) -> None:
    heights = np.arange(5, dtype=np.float32)[None, None, :] * np.ones((4, 3, 1), np.float32) * 5.0  # slices of 5 mm
    share = share_inside(heights - np.float32(10.0 + offset))
    np.testing.assert_allclose(share[:, :, 2], expected, atol=1e-6)


# Phantoms


def test_the_same_seed_and_case_give_the_same_bytes(phantoms: list[Phantom]) -> None:
    again = make_phantom(5, case=3)
    assert again.volume.data.tobytes() == phantoms[3].volume.data.tobytes()
    assert again.label_map.data.tobytes() == phantoms[3].label_map.data.tobytes()
    assert again.volume.geometry == phantoms[3].volume.geometry
    assert again.true_volumes_ml == phantoms[3].true_volumes_ml


def test_other_seeds_and_cases_give_other_anatomies(phantoms: list[Phantom]) -> None:
    livers = [p.true_volumes_ml["liver"] for p in [*phantoms, make_phantom(6, case=0), make_phantom(0, case=5)]]
    assert len(set(livers)) == CASES + 2
    assert max(livers) > 1.15 * min(livers)


def test_labels_agree_with_the_true_volumes(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        counted = phantom.label_map.volumes_ml()
        assert counted.keys() == phantom.true_volumes_ml.keys()
        for name, truth in phantom.true_volumes_ml.items():
            assert counted[name] == pytest.approx(truth, rel=0.08 if name == "tumour" else 0.02), name


def test_volumes_are_those_of_grown_people(phantoms: list[Phantom]) -> None:
    limits = {
        "liver": (900, 2300),
        "spleen": (80, 400),
        "kidney_left": (80, 260),
        "kidney_right": (80, 260),
        "tumour": (2, 270),
    }
    for phantom in phantoms:
        for name, (low, high) in limits.items():
            assert low < phantom.true_volumes_ml[name] < high, name


def test_the_liver_lies_on_the_patients_right_in_every_storage_order(phantoms: list[Phantom]) -> None:
    for phantom, order in itertools.product(phantoms[:2], all_storage_orders()):
        stored = Phantom(phantom.volume.reordered(order), phantom.label_map.reordered(order), {})
        assert centre_mm(stored, "liver")[0] > 20  # RAS+: x grows to the patient's right
        assert centre_mm(stored, "spleen")[0] < -40


def test_organs_lie_where_they_belong(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        liver, spleen, tumour = (centre_mm(phantom, name) for name in ("liver", "spleen", "tumour"))
        left, right = centre_mm(phantom, "kidney_left"), centre_mm(phantom, "kidney_right")
        assert liver[0] > 20 > -20 > spleen[0]
        assert right[0] > 30
        assert left[0] < -30
        assert max(left[1], right[1]) < liver[1]  # the kidneys lie behind
        assert max(left[2], right[2]) < min(liver[2], spleen[2])  # and lower
        assert np.linalg.norm(tumour - liver) < 110


def test_grids_are_oblique_anisotropic_and_stored_in_several_orders(phantoms: list[Phantom]) -> None:
    assert len({p.volume.geometry.orientation for p in phantoms}) >= 4
    for phantom in phantoms:
        geometry = phantom.volume.geometry
        assert geometry == phantom.label_map.geometry
        assert geometry.orientation == "".join(nib.aff2axcodes(geometry.affine))
        assert geometry.orientation in ORIENTATIONS
        assert max(geometry.spacing_mm) > 1.03 * min(geometry.spacing_mm)
        cosines = np.abs(geometry.affine[:3, :3] / geometry.spacing_mm).max(axis=0)
        assert 0.9 < cosines.min() < 0.9999  # turned, by less than 25 degrees


def test_every_organ_lies_whole_in_the_scan(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        inner = phantom.label_map.data[1:-1, 1:-1, 1:-1]
        assert np.count_nonzero(inner) == np.count_nonzero(phantom.label_map.data)
        i, j, k = phantom.volume.canonical().geometry.shape
        assert 85 <= i <= 125
        assert 60 <= j <= 95
        assert 36 <= k <= 70


def test_scans_are_in_hounsfield_units(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        hounsfield = phantom.volume.data[0]
        assert hounsfield.dtype == np.int16
        assert phantom.label_map.data.dtype == np.uint8
        assert hounsfield.min() >= -1024
        assert hounsfield.max() > 250  # bone
        assert np.mean(hounsfield < -700) > 0.1  # air and lungs
        assert 30 < np.median(hounsfield[mask_of(phantom, "liver")]) < 120


def test_tumours_are_darker_than_the_liver_and_the_spleen_is_not(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        liver, spleen, tumour = (
            float(np.median(phantom.volume.data[0][mask_of(phantom, name)])) for name in ("liver", "spleen", "tumour")
        )
        assert 28 < liver - tumour < 75
        assert abs(liver - spleen) < 20


def test_the_noise_is_that_of_a_scanner(phantoms: list[Phantom]) -> None:
    deviations = []
    for phantom in phantoms:
        core = ndimage.binary_erosion(mask_of(phantom, "liver"), iterations=2)
        deviations.append(float(phantom.volume.data[0][core].std()))
    assert 9 < min(deviations) < max(deviations) < 30


def test_edges_are_soft_from_partial_volume(phantoms: list[Phantom]) -> None:
    # Between liver (above 60 HU) and lung (below -780 HU) there are voxels that are neither.
    for phantom in phantoms:
        hounsfield = phantom.volume.data[0]
        assert np.mean((hounsfield > -650) & (hounsfield < -250)) > 0.005


def test_no_fixed_threshold_finds_the_organs(phantoms: list[Phantom]) -> None:
    baseline = threshold_baseline(phantoms)
    assert baseline.keys() == phantoms[0].true_volumes_ml.keys()
    assert max(baseline.values()) < 0.6


def test_the_threshold_baseline_is_the_best_window_by_hand() -> None:
    hounsfield = np.array([50, 50, 200, 50, -500, -500, -500, 200], np.int16).reshape(1, 2, 2, 2)
    inside = np.array([1, 1, 1, 0, 0, 0, 0, 0], np.uint8).reshape(2, 2, 2)
    geometry = Geometry((2, 2, 2), np.eye(4))
    labels = Labels.from_mapping({"background": 0, "liver": 1})
    phantom = Phantom(Volume(hounsfield, geometry), LabelMap(inside, geometry, labels), {})
    # [50, 200] holds all 3 and 2 others: 2*3/(5+3) = 0.75. [50] holds 2 and 1 other: 2*2/(3+3) = 0.67.
    assert threshold_baseline([phantom]) == {"liver": pytest.approx(0.75)}
    apart = Phantom(Volume(np.where(inside, 40, 90).astype(np.int16)[None], geometry), phantom.label_map, {})
    assert threshold_baseline([apart]) == {"liver": pytest.approx(1.0)}
    # One window for both: [40, 52) scores 1 and 2*2/(3+3); [40, 204) only 6/11 and 0.75.
    assert threshold_baseline([apart, phantom]) == {"liver": pytest.approx((1 + 2 / 3) / 2)}


def test_the_threshold_baseline_needs_a_phantom() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        threshold_baseline([])


def test_fewer_labels_change_the_label_map_and_not_the_scan(phantoms: list[Phantom]) -> None:
    liver = make_phantom(5, case=0, structures="liver")
    np.testing.assert_array_equal(liver.volume.data, phantoms[0].volume.data)
    full = phantoms[0].label_map.data
    np.testing.assert_array_equal(liver.label_map.data, np.where(full <= 2, full, 0))
    assert liver.label_map.labels is not None
    assert liver.label_map.labels.mapping() == {"background": 0, "liver": 1, "tumour": 2}
    assert liver.true_volumes_ml == {name: phantoms[0].true_volumes_ml[name] for name in ("liver", "tumour")}


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="'heart' is none of all, liver"):
        make_phantom(0, structures="heart")
    with pytest.raises(ConfigError, match="seed -1"):
        make_phantom(-1)
