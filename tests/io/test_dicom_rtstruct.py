"""RT structure sets: written on the frames of a series, read by pydicom and by ourselves, refused where they do not fit."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.core.errors import DataError, GeometryError, OutputError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.volume import LabelMap
from medseg.io import dicom_rtstruct
from medseg.io.dicom_references import read_structured
from medseg.io.dicom_rtstruct import check_referable, rtstruct, rtstruct_paths
from medseg.io.named_masks import as_one_label_map
from medseg.io.outputs import WRITERS
from tests.io import bad_dicom as make
from tests.io import bad_dicom_file, bad_dicom_series
from tests.io.made_scans import LABELS, blobs, segmentation
from tests.io.segmented import segmentation as in_memory

SERIES = {
    "oblique": lambda folder: make.good(folder, cosines=bad_dicom_series.OBLIQUE),
    "sagittal": lambda folder: make.good(folder, cosines=bad_dicom_series.SAGITTAL),
    "coronal": lambda folder: make.good(folder, cosines=bad_dicom_series.CORONAL),
    "feet-first": lambda folder: make.good(folder, cosines=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
    "tilted": lambda folder: make.good(folder, cosines=bad_dicom_series.TILTED, step=(0.0, 0.0, make.SLICE_MM)),
    "enhanced": lambda folder: make.save([bad_dicom_file.enhanced([3, 1, 0, 2, 4, 5])], folder),
}


@pytest.fixture(params=SERIES)
def made(request, tmp_path: Path):
    SERIES[request.param](tmp_path / "series")
    return segmentation(tmp_path / "series", tmp_path / "ct_seg")


def written(made, tmp_path: Path) -> Path:
    ((path, content),) = rtstruct(made).items()
    path.write_bytes(content)
    return path


def by_hand(dataset: Dataset, number: int, sources: dict[str, Dataset], geometry: Geometry) -> np.ndarray:
    """The mask of a region by the tags and matplotlib alone: each contour on the image that it names."""
    mask = np.zeros(geometry.shape, bool)
    for contour in dataset.ROIContourSequence[number].get("ContourSequence", []):
        image = contour.ContourImageSequence[0]
        source = sources[image.ReferencedSOPInstanceUID]
        if "PerFrameFunctionalGroupsSequence" in source:
            shared = source.SharedFunctionalGroupsSequence[0]
            groups = source.PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
            position = groups.PlanePositionSequence[0].ImagePositionPatient
            cosines = shared.PlaneOrientationSequence[0].ImageOrientationPatient
            spacing = shared.PixelMeasuresSequence[0].PixelSpacing
        else:
            position, cosines = source.ImagePositionPatient, source.ImageOrientationPatient
            spacing = source.PixelSpacing
        origin, row, column = np.array(position, float), np.array(cosines[:3], float), np.array(cosines[3:], float)
        points = np.array(contour.ContourData, float).reshape(-1, 3) - origin
        assert np.abs(points @ np.cross(row, column)).max() < 1e-4  # on the plane of its own image
        outline = Outline(np.stack([points @ row / float(spacing[1]), points @ column / float(spacing[0])], 1))
        centres = np.argwhere(np.ones((source.Columns, source.Rows)))
        inside = outline.contains_points(centres).reshape(source.Columns, source.Rows)
        k = round(float(geometry.to_voxel(origin * [-1, -1, 1])[2]))
        assert not (mask[:, :, k] & inside).any()
        mask[:, :, k] |= inside
    return mask


def test_contours_lie_on_the_images_that_they_name_and_fill_to_the_mask(made, tmp_path):
    dataset = dcmread(written(made, tmp_path))
    read = [dcmread(path) for path in (tmp_path / "series").iterdir()]
    sources = {source.SOPInstanceUID: source for source in read}
    for n, structure in enumerate(LABELS.structures):
        expected = made.label_map.data == structure.value
        np.testing.assert_array_equal(by_hand(dataset, n, sources, made.label_map.geometry), expected)


def test_our_reader_gives_the_mask_in_any_storage_order(made, tmp_path):
    path = written(made, tmp_path)
    for order in all_storage_orders()[::7]:
        grid = order.geometry(made.label_map.geometry)
        found = as_one_label_map(read_structured(path, grid, max_voxels=2**31), LABELS)
        np.testing.assert_array_equal(found.data, order.array(made.label_map.data))
        assert found.geometry == grid


def test_contours_on_slices_of_rounded_positions_give_the_mask(tmp_path):
    bad_dicom_series.rounded(tmp_path / "series")
    scan = segmentation(tmp_path / "series", tmp_path / "ct_seg")
    found = as_one_label_map(
        read_structured(written(scan, tmp_path), scan.label_map.geometry, max_voxels=2**31), LABELS
    )
    np.testing.assert_array_equal(found.data, scan.label_map.data)


def test_a_structure_on_one_slice_of_a_rounded_position_is_written(tmp_path):
    bad_dicom_series.rounded(tmp_path / "series")
    scan = segmentation(tmp_path / "series", tmp_path / "ct_seg")
    for k in range(scan.label_map.data.shape[2]):
        data = np.zeros_like(scan.label_map.data)
        data[4:9, 5:8, k] = 1
        assert rtstruct(segmentation(tmp_path / "series", tmp_path / "ct_seg", data))


@pytest.fixture
def oblique(tmp_path: Path):
    SERIES["oblique"](tmp_path / "series")
    return segmentation(tmp_path / "series", tmp_path / "ct_seg")


def test_the_object_names_structures_colours_patient_and_images_and_no_private_tag(oblique, tmp_path):
    path = written(oblique, tmp_path)
    dataset = dcmread(path)
    assert path.name == "ct_seg_rtstruct.dcm"
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.481.3"
    assert [roi.ROIName for roi in dataset.StructureSetROISequence] == ["liver", "kidney_left", "lost"]
    assert dataset.ROIContourSequence[0].ROIDisplayColor == [0xD5, 0x5E, 0x00]
    assert "ContourSequence" not in dataset.ROIContourSequence[2]  # in no voxel
    assert (str(dataset.PatientName), dataset.PatientID) == ("Secret^Name", "PID-SECRET")
    source = dcmread(oblique.scan.frames[0].path)
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == source.FrameOfReferenceUID
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(series.ContourImageSequence) == 12
    assert {c.ContourGeometricType for c in dataset.ROIContourSequence[0].ContourSequence} == {"CLOSED_PLANAR"}
    assert not [e for e in dataset.iterall() if e.tag.is_private]
    assert all(
        len(x.encode()) <= 16 for c in dataset.ROIContourSequence[0].ContourSequence for x in map(str, c.ContourData)
    )


def test_a_scan_that_is_not_dicom_is_refused(tmp_path):
    with pytest.raises(DataError, match="this scan is none; give the DICOM folder"):
        check_referable(in_memory(tmp_path / "x").scan)


def test_blank_uids_are_stood_in_for_and_said(tmp_path, real_data):
    data = np.zeros((512, 512, 20), np.uint8)
    data[200:240, 100:150, 3:9] = 1
    made = segmentation(real_data / "totalseg_dicom" / "dicom", tmp_path / "x", data)
    dataset = dcmread(written(made, tmp_path))
    (series,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert len({image.ReferencedSOPInstanceUID for image in series.ContourImageSequence}) == 20
    (remark,) = WRITERS["rtstruct"].remarks(made)
    assert "no StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID of their own; stand-ins" in remark


def test_slices_that_share_a_uid_get_stand_ins_and_it_is_said(tmp_path):
    make.changed(lambda datasets: setattr(datasets[3], "SOPInstanceUID", datasets[4].SOPInstanceUID))(tmp_path / "s")
    made = segmentation(tmp_path / "s", tmp_path / "ct_seg")
    dataset = dcmread(written(made, tmp_path))
    (series,) = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert len({image.ReferencedSOPInstanceUID for image in series.ContourImageSequence}) == 12
    (remark,) = WRITERS["rtstruct"].remarks(made)
    assert "no SOPInstanceUID" in remark


def test_names_that_dicom_cannot_hold_are_refused_before_the_work(tmp_path):
    labels = LABELS.from_mapping({"background": 0, "x" * 65: 1})
    with pytest.raises(DataError, match="at most 64 characters"):
        rtstruct_paths(tmp_path / "x", labels)


def test_contours_that_do_not_come_back_are_an_error(oblique, monkeypatch):
    shifted = dicom_rtstruct._on_frame
    monkeypatch.setattr(dicom_rtstruct, "_on_frame", lambda polygon, frame: shifted(polygon + 0.7, frame))
    with pytest.raises(OutputError, match="do not fill to the mask again: liver, kidney_left"):
        rtstruct(oblique)


def changed(path: Path, change) -> Path:
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def keep_every_second(dataset: Dataset) -> None:
    region = dataset.ROIContourSequence[0]
    heights = sorted({round(float(np.array(c.ContourData[2::3], float).mean()), 1) for c in region.ContourSequence})
    region.ContourSequence = [
        c
        for c in region.ContourSequence
        if heights.index(round(float(np.array(c.ContourData[2::3], float).mean()), 1)) % 2
    ]


def moved(mm: tuple[float, float, float]):
    def change(dataset: Dataset) -> None:
        for contour in dataset.ROIContourSequence[0].ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3) + mm
            contour.ContourData = [f"{x:.4f}" for x in points.ravel()]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (keep_every_second, "'liver' has contours on one of 2 planes"),
        (moved((0, 0, make.SLICE_MM * 0.4)), "of the slice distance off the nearest plane"),
        (moved((500, 0, 0)), r"voxels beyond the image"),
        (
            lambda d: setattr(d.ROIContourSequence[0].ContourSequence[0], "ContourData", ["1", "2"]),
            "no triples|triples",
        ),
        (lambda d: setattr(d.StructureSetROISequence[0], "ROIName", "Kidney-Left"), "which is one name"),
        (lambda d: setattr(d.StructureSetROISequence[0], "ROIName", "Leber"), "'Leber' are not in the labels.*'liver'"),
    ],
)
def test_structure_sets_that_do_not_fit_are_refused(change, message, tmp_path):
    make.good(tmp_path / "series")
    data = np.zeros_like(
        blobs((36, 30, 12)), shape=segmentation(tmp_path / "series", tmp_path / "x").label_map.data.shape
    )
    data[4:9, 5:8, 2:9] = 1
    data[12:14, 5:8, 2:9] = 2
    made = segmentation(tmp_path / "series", tmp_path / "ct_seg", data)
    path = changed(written(made, tmp_path), change)
    with pytest.raises(DataError, match=message) as refused:
        as_one_label_map(read_structured(path, made.label_map.geometry, max_voxels=2**31), LABELS)
    assert str(refused.value).startswith(str(path))


def test_inner_contours_are_holes_and_partial_overlap_is_refused(oblique, tmp_path):
    empty = np.zeros(oblique.label_map.geometry.shape, np.uint8)
    empty[3:12, 3:12, 2] = 1
    outer = segmentation(tmp_path / "series", tmp_path / "a", empty)
    path = written(outer, tmp_path)
    for at, inner in (((5, 5), True), ((9, 9), False)):
        empty[:] = 0
        empty[at[0] : at[0] + 4, at[1] : at[1] + 4, 2] = 1
        (other,) = rtstruct(segmentation(tmp_path / "series", tmp_path / "b", empty)).values()
        both = dcmread(path)
        both.ROIContourSequence[0].ContourSequence.append(
            dcmread(BytesIO(other)).ROIContourSequence[0].ContourSequence[0]
        )
        both.save_as(tmp_path / "both.dcm")
        masks = read_structured(tmp_path / "both.dcm", oblique.label_map.geometry, max_voxels=2**31)
        if inner:
            assert np.count_nonzero(as_one_label_map(masks, LABELS).data) == 81 - 16
        else:
            with pytest.raises(DataError, match=r"overlap in part \(9 voxels\)"):
                as_one_label_map(masks, LABELS)


def test_without_an_image_a_structure_set_is_refused(oblique, tmp_path):
    with pytest.raises(DataError, match="holds contours and no grid of voxels"):
        read_structured(written(oblique, tmp_path), None, max_voxels=2**31)


def test_a_region_of_points_is_set_aside(oblique, tmp_path):
    def as_points(dataset: Dataset) -> None:
        dataset.StructureSetROISequence[2].ROIName = "ISOCENTRE"
        point = Dataset()
        point.ContourGeometricType, point.NumberOfContourPoints, point.ContourData = "POINT", 1, ["1", "2", "3"]
        dataset.ROIContourSequence[2].ContourSequence = [point]

    path = changed(written(oblique, tmp_path), as_points)
    masks = read_structured(path, oblique.label_map.geometry, max_voxels=2**31)
    assert masks.names == ("liver", "kidney_left")
    found: LabelMap = as_one_label_map(masks, LABELS)
    np.testing.assert_array_equal(found.data, oblique.label_map.data)
    assert found.warnings == (
        "structures set aside, points or open lines: ISOCENTRE",
        "no structure 'lost' in the reference: taken as empty",
    )


def test_geometry_errors_are_geometry_errors(oblique, tmp_path):
    path = changed(written(oblique, tmp_path), moved((500, 0, 0)))
    with pytest.raises(GeometryError):
        as_one_label_map(read_structured(path, oblique.label_map.geometry, max_voxels=2**31), LABELS)


def test_the_writer_is_in_the_table_and_asks_for_dicom(oblique, tmp_path):
    writer = WRITERS["rtstruct"]
    writer.check(oblique.scan)
    (path,) = writer.paths(oblique.place, LABELS)
    assert list(writer.contents(oblique)) == [path]
    with pytest.raises(DataError, match="--rtstruct"):
        writer.check(in_memory(tmp_path / "x").scan)
