"""DICOM segmentations as references: what highdicom writes lies where it was, in any storage order of the image."""

from pathlib import Path

import numpy as np
import pytest
from highdicom import PlanePositionSequence
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGLSLossless, RLELossless

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry, all_storage_orders, crop, order_between
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.reading import read_label_map
from tests.io import bad_dicom as make
from tests.io import bad_dicom_series
from tests.io.made_scans import LABELS, blobs, segmentation, segments, sources_of
from tests.io.test_dicom_rtstruct import SERIES

NAMES = {1: "Liver", 2: "Kidney left", 5: "LOST"}


# highdicom, who writes here, wants more of an enhanced image than ours have.
@pytest.fixture(params=[name for name in SERIES if "enhanced" not in name])
def made(request, tmp_path: Path):
    SERIES[request.param](tmp_path / "series")
    return segmentation(tmp_path / "series", tmp_path / "ct_seg")


@pytest.fixture
def oblique(tmp_path: Path):
    SERIES["oblique"](tmp_path / "series")
    return segmentation(tmp_path / "series", tmp_path / "ct_seg")


def saved(made, path: Path, kind: str = "BINARY", data: np.ndarray | None = None, **how) -> Path:
    sources = sources_of(made)
    values = made.label_map.data if data is None else data
    segments(sources, values, kind, NAMES, **how).save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_a_segmentation_by_highdicom_is_the_mask_in_any_storage_order_of_the_image(made, kind, tmp_path):
    path = saved(made, tmp_path / "seg.dcm", kind)
    for order in all_storage_orders()[:: 1 if kind == "BINARY" else 7]:
        grid = order.geometry(made.label_map.geometry)
        found = read_label_map(path, LABELS, like=grid)
        np.testing.assert_array_equal(found.data, order.array(made.label_map.data))
        assert found.geometry == grid
        assert found.warnings == ()


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_frames_left_out_are_empty_and_without_an_image_the_grid_is_that_of_the_frames(made, kind, tmp_path):
    data = np.zeros_like(made.label_map.data)
    data[3:9, 2:5, 2] = 1
    data[3:9, 4:7, 4] = 2
    path = saved(made, tmp_path / "seg.dcm", kind, data)
    assert dcmread(path).NumberOfFrames == 2
    np.testing.assert_array_equal(read_label_map(path, LABELS, like=made.label_map.geometry).data, data)
    alone = read_label_map(path, LABELS)
    if made.label_map.geometry.is_sheared:  # highdicom tells no spacing there
        assert [w for w in alone.warnings if "does not say how its planes are spaced: 3.864 mm" in w]
        return
    expected = crop(made.label_map.geometry, (0, 0, 2), (*data.shape[:2], 3))
    order = order_between(alone.geometry, expected, 1e-3)
    assert order is not None
    np.testing.assert_array_equal(order.array(alone.data), data[:, :, 2:5])


@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", DeflatedExplicitVRLittleEndian),
        ("FRACTIONAL", RLELossless),
        ("FRACTIONAL", JPEGLSLossless),
        ("LABELMAP", RLELossless),
    ],
)
def test_packed_segmentations_are_read(oblique, kind, syntax, tmp_path):
    native = kind == "BINARY"
    path = saved(oblique, tmp_path / "seg.dcm", kind, **({} if native else {"transfer_syntax_uid": syntax}))
    if native:
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(path)
    found = read_label_map(path, LABELS, like=oblique.label_map.geometry)
    np.testing.assert_array_equal(found.data, oblique.label_map.data)


def test_slices_of_rounded_positions_give_the_mask(tmp_path):
    bad_dicom_series.rounded(tmp_path / "series")
    made = segmentation(tmp_path / "series", tmp_path / "ct_seg")
    positions = [PlanePositionSequence("PATIENT", frame.position) for frame in made.scan.frames]
    path = saved(made, tmp_path / "seg.dcm", plane_positions=positions)
    np.testing.assert_array_equal(read_label_map(path, LABELS, like=made.label_map.geometry).data, made.label_map.data)


def test_without_labels_a_segmentation_brings_its_own(oblique, tmp_path):
    found = read_label_map(saved(oblique, tmp_path / "seg.dcm"), like=oblique.label_map.geometry)
    assert found.labels is not None
    assert found.labels.mapping() == {"background": 0, "Liver": 1, "Kidney left": 2, "LOST": 3}
    np.testing.assert_array_equal(found.data, oblique.label_map.data)


def test_a_folder_with_one_object_is_that_object(oblique, tmp_path):
    (tmp_path / "one").mkdir()
    saved(oblique, tmp_path / "one" / "1.dcm")
    found = read_label_map(tmp_path / "one", LABELS, like=oblique.label_map.geometry)
    np.testing.assert_array_equal(found.data, oblique.label_map.data)


def other_grids(grid: Geometry) -> dict[str, Geometry]:
    finer = grid.affine @ np.diag([0.98, 1, 1, 1])
    aside = grid.affine.copy()
    aside[:3, 3] += grid.affine[:3, 0] * 0.4
    between = grid.affine.copy()
    between[:3, 3] += grid.affine[:3, 2] * 0.5
    return {
        "finer": Geometry(grid.shape, finer),
        "aside": Geometry(grid.shape, aside),
        "between": Geometry(grid.shape, between),
        "smaller": crop(grid, (0, 0, 0), (grid.shape[0] // 2, grid.shape[1], grid.shape[2])),
        "fewer": crop(grid, (0, 0, 4), (grid.shape[0], grid.shape[1], 4)),
    }


@pytest.mark.parametrize("name", ["finer", "aside", "between", "smaller", "fewer"])
def test_a_segmentation_of_another_image_is_refused(oblique, name, tmp_path):
    path = saved(oblique, tmp_path / "seg.dcm")
    with pytest.raises(GeometryError, match="belongs to") as refused:
        read_label_map(path, LABELS, like=other_grids(oblique.label_map.geometry)[name])
    assert str(refused.value).startswith(str(path))


def test_a_larger_image_pads_the_segmentation(oblique, tmp_path):
    larger = crop(oblique.label_map.geometry, (-2, -3, -1), tuple(n + 5 for n in oblique.label_map.data.shape))
    found = read_label_map(saved(oblique, tmp_path / "seg.dcm"), LABELS, like=larger)
    i, j, k = oblique.label_map.data.shape
    np.testing.assert_array_equal(found.data[2 : 2 + i, 3 : 3 + j, 1 : 1 + k], oblique.label_map.data)
    assert np.count_nonzero(found.data) == np.count_nonzero(oblique.label_map.data)


def rename(n: int, name: str):
    return lambda dataset: setattr(dataset.SegmentSequence[n], "SegmentLabel", name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename(0, "hepar"), "'hepar' are not in the labels, which name 'liver'"),
        (rename(0, "KIDNEY_LEFT"), "which is one name"),
        (rename(0, ""), "has no label"),
        (lambda d: d.__delattr__("SegmentSequence"), "names no segment"),
        (lambda d: setattr(d, "SegmentationType", "SURFACE"), "'SURFACE'; BINARY, FRACTIONAL and LABELMAP are read"),
        (lambda d: setattr(d, "PixelData", d.PixelData[:-2]), "truncated, or a wrong header"),
        (lambda d: setattr(d, "NumberOfFrames", d.NumberOfFrames + 1), "functional groups describe"),
        (lambda d: setattr(d, "BitsAllocated", 8), "pixels of one bit"),
        (lambda d: d.PerFrameFunctionalGroupsSequence[2].__delattr__("SegmentIdentificationSequence"), "frame 3 does not say"),
        (lambda d: d.PerFrameFunctionalGroupsSequence[2].__delattr__("PlanePositionSequence"), "ImagePositionPatient is missing"),
    ],
)  # fmt: skip
def test_damaged_segmentations_are_refused(oblique, change, message, tmp_path):
    path = saved(oblique, tmp_path / "seg.dcm")
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    with pytest.raises(DataError, match=message) as refused:
        read_label_map(path, LABELS, like=oblique.label_map.geometry)
    assert str(refused.value).startswith(str(path))


def test_what_the_labels_do_not_ask_for_is_set_aside_and_what_is_not_there_is_empty(oblique, tmp_path):
    path = saved(oblique, tmp_path / "seg.dcm")
    some = read_label_map(path, Labels.from_mapping({"background": 0, "liver": 7}), like=oblique.label_map.geometry)
    np.testing.assert_array_equal(some.data == 7, oblique.label_map.data == 1)
    assert some.warnings == ("structures set aside, not in the labels: 'Kidney left', 'LOST'",)
    more = Labels.from_mapping({**LABELS.mapping(), "tumour": 9})
    found = read_label_map(path, more, like=oblique.label_map.geometry)
    np.testing.assert_array_equal(found.data, oblique.label_map.data)
    assert found.warnings == ("no structure 'tumour' in the reference: taken as empty",)


def test_overlapping_segments_go_by_the_labels_and_are_refused_without(oblique, tmp_path):
    grid = oblique.label_map.geometry
    one, two = np.zeros((2, *grid.shape), np.uint8)
    one[2:8, 2:8, 3] = 1
    two[5:9, 5:9, 3] = 1

    class Both:
        """Equal to 1 and to 2 where the masks are: what a label map cannot be."""

        def __eq__(self, value):  # type: ignore[override]
            return (one if value == 1 else two if value == 2 else np.zeros_like(one)) == 1

        __hash__ = None  # type: ignore[assignment]

    path = tmp_path / "seg.dcm"
    segments(sources_of(oblique), Both(), "BINARY", NAMES).save_as(path)  # type: ignore[arg-type]
    found = read_label_map(path, LABELS, like=grid)
    np.testing.assert_array_equal(found.data, np.where(two == 1, 2, one))
    assert found.warnings == (
        "structures overlap ('liver' and 'kidney_left' in 9 voxel(s)): the one with the larger label value keeps "
        "the voxel",
    )
    with pytest.raises(DataError, match="give labels, whose order decides"):
        read_label_map(path, like=grid)


def test_a_real_ct_and_its_31_structures_as_a_segmentation(tmp_path, real_data):
    reference = read_label_map(real_data / "totalseg_dicom" / "seg_reference.nii.gz")
    made = segmentation(real_data / "totalseg_dicom" / "dicom", tmp_path / "x", np.zeros((512, 512, 20), np.uint8))
    order = order_between(reference.geometry, made.label_map.geometry)
    assert order is not None
    data = order.array(reference.data)
    values = [int(v) for v in np.unique(data) if v]
    labels = Labels.from_mapping({"background": 0, **{f"structure {v}": v for v in values}})
    sources: list[Dataset] = sources_of(made)
    for n, source in enumerate(sources):
        make.put(source, SOPInstanceUID=make.uid(5, n), SeriesInstanceUID=make.uid(5), StudyInstanceUID=make.uid(1))
        make.put(source, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    segments(sources, data, "BINARY", {v: f"Structure_{v}" for v in values}).save_as(tmp_path / "seg.dcm")
    found: LabelMap = read_label_map(tmp_path / "seg.dcm", labels, like=reference.geometry)
    assert len(values) == 31
    np.testing.assert_array_equal(found.data, reference.data)


def test_blobs_hold_every_kind_of_shape():
    assert set(np.unique(blobs((32, 24, 12)))) == {0, 1, 2}
