from dataclasses import astuple

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.measure import measure
from medseg.core.volume import LabelMap, Volume

LABELS = Labels.from_mapping({"background": 0, "liver": 1, "spleen": 3, "nothing": 4, "tumour": 700})
SHAPE = (23, 19, 11)
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.4, -0.3, 0.2) @ np.diag([-0.8, 1.3, 2.5]), [12.0, -30.0, 907.5]
)


@pytest.fixture(scope="module")
def case():
    """Three scattered structures on an oblique, anisotropic, reflected grid, and intensities far from 0."""
    random = np.random.default_rng(0)
    data = np.zeros(SHAPE, np.uint16)
    data[2:12, 3:17, 2:8] = random.choice([0, 1, 3], (10, 14, 6))
    data[15:20, 4:9, 3:10] = 700
    grid = Geometry(SHAPE, OBLIQUE)
    scan = Volume(random.normal(5000, 20, (1, *SHAPE)).astype(np.float32), grid)
    return LabelMap(data, grid), scan


def as_itk(array, grid):
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(grid.spacing_mm)
    image.SetDirection((lps[:3, :3] / grid.spacing_mm).ravel())
    image.SetOrigin(lps[:3, 3])
    return image


def test_volume_place_and_intensities_are_those_of_simpleitk(case):
    label_map, scan = case
    labels, image = as_itk(label_map.data, label_map.geometry), as_itk(scan.data[0], scan.geometry)
    shape, values = SimpleITK.LabelShapeStatisticsImageFilter(), SimpleITK.LabelStatisticsImageFilter()
    shape.Execute(labels)
    values.Execute(image, labels)
    for found in measure(label_map, LABELS, scan):
        value = found.structure.value
        if value == 4:
            continue
        n = shape.GetNumberOfPixels(value)
        assert found.voxels == n
        assert found.volume_ml == pytest.approx(shape.GetPhysicalSize(value) / 1000)
        x, y, z = shape.GetCentroid(value)
        np.testing.assert_allclose(found.place.centroid_mm, (-x, -y, z), atol=1e-6)
        start, size = np.reshape(shape.GetBoundingBox(value), (2, 3))
        assert found.place.first == tuple(start)
        assert found.place.last == tuple(start + size - 1)
        (inside,) = found.intensities
        assert inside.mean == pytest.approx(values.GetMean(value), rel=1e-9)
        assert inside.sd == pytest.approx(values.GetSigma(value) * np.sqrt((n - 1) / n), rel=1e-6)
        voxels = scan.data[0][label_map.data == value]
        expected = np.percentile(voxels, [5, 50, 95])
        np.testing.assert_allclose([inside.percentile_5, inside.median, inside.percentile_95], expected, rtol=1e-6)


def test_a_box_measures_what_can_be_counted_by_hand():
    data = np.zeros((10, 10, 10), np.uint8)
    data[2:4, 5:8, 1:2] = 3
    grid = Geometry(data.shape, np.array([[-2.0, 0, 0, 10], [0, 0, 4.0, 20], [0, 3.0, 0, 30], [0, 0, 0, 1]]))
    scan = Volume(np.stack([np.full(data.shape, 7, np.int16), np.where(data, 1000, -1).astype(np.int16)]), grid)
    found = measure(LabelMap(data, grid), LABELS, scan)[1]
    assert (found.voxels, found.volume_ml, found.sides) == (6, pytest.approx(6 * 0.024), ())
    assert found.place.first == (2, 5, 1)
    assert found.place.last == (3, 7, 1)
    assert found.place.centroid_mm == pytest.approx((10 - 5, 20 + 4, 30 + 18))
    assert found.place.low_mm == pytest.approx((10 - 7, 20 + 2, 30 + 13.5))
    assert found.place.high_mm == pytest.approx((10 - 3, 20 + 6, 30 + 22.5))
    assert [(c.mean, c.sd, c.median) for c in found.intensities] == [(7, 0, 7), (1000, 0, 1000)]


def test_a_structure_at_the_border_is_measured_and_its_sides_named():
    data = np.zeros((6, 5, 4), np.uint8)
    data[4:, 1:3, 0] = 1
    grid = Geometry(data.shape, np.diag([-1.0, 1.0, 2.0, 1.0]))
    found = measure(LabelMap(data, grid), LABELS, Volume(data[None], grid))[0]
    assert (found.voxels, found.truncated, set(found.sides)) == (4, True, {"left", "inferior"})


def test_a_structure_without_voxels_has_no_figures_but_a_volume_of_zero(case):
    label_map, scan = case
    found = measure(label_map, LABELS, scan)[2]
    assert (found.structure.name, found.voxels, found.volume_ml) == ("nothing", 0, 0.0)
    assert (found.place, found.intensities, found.truncated) == (None, (), False)


def test_the_order_in_memory_changes_nothing(case):
    label_map, scan = case
    fortran = LabelMap(np.asfortranarray(label_map.data), label_map.geometry)
    for ours, other in zip(measure(label_map, LABELS, scan), measure(fortran, LABELS, scan), strict=True):
        assert (ours.voxels, ours.sides) == (other.voxels, other.sides)
        if ours.place is not None:
            assert (ours.place.first, ours.place.last) == (other.place.first, other.place.last)
            np.testing.assert_allclose(ours.place.centroid_mm, other.place.centroid_mm, rtol=1e-12)
            np.testing.assert_allclose(
                [astuple(channel) for channel in ours.intensities],
                [astuple(channel) for channel in other.intensities],
                rtol=1e-9,
            )


def test_a_label_map_on_another_grid_is_refused(case):
    label_map, scan = case
    moved = Geometry(SHAPE, nib.affines.from_matvec(OBLIQUE[:3, :3], [12.0, -30.0, 900.0]))
    with pytest.raises(GeometryError, match="one grid"):
        measure(LabelMap(label_map.data, moved), LABELS, scan)
