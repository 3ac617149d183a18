"""DICOM SEG held to a second reader (highdicom) and to what was put in, voxel by voxel and in millimetres."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from highdicom.seg import segread
from skimage.color import rgb2lab

from medseg.core.errors import DataError
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io import dicom_seg_check
from medseg.io.dicom_seg import check_dicom, dicom_seg, dicom_seg_remarks
from medseg.io.reading import open_scan
from medseg.io.scan import ReadOptions
from medseg.io.segmentation import Segmentation
from tests.io import bad_dicom as make
from tests.io.bad_dicom_file import enhanced
from tests.io.bad_dicom_series import SAGITTAL, rotated
from tests.io.segmented import segmentation

LABELS = Labels.from_mapping({"background": 0, "liver": 2, "kidney_cyst_left": 3, "gizmo": 7, "nothing": 9})
PRESENT = LABELS.structures[:3]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
FEET_FIRST = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
TILT = np.array([0.0, 0.6, 2.0])


def _tilted(folder):
    make.save(make.series(step=TILT), folder)


def _enhanced(order, **how):
    return lambda folder: make.save([enhanced(order, **how)], folder)


SERIES = {
    "axial": make.good,
    "oblique": lambda folder: make.good(folder, cosines=rotated((20, -15, 30))),
    "sagittal": lambda folder: make.good(folder, cosines=SAGITTAL),
    "feet first": lambda folder: make.good(folder, cosines=FEET_FIRST),
    "descending": lambda folder: make.good(folder, step=(0, 0, -2.0)),
    "enhanced": _enhanced(list(range(make.SLICES))),
    "enhanced, frames in another order": _enhanced([5, 0, 1, 11, 2, 3, 4, 6, 10, 9, 8, 7]),
}


def drawn(shape):
    """Overlapping-free blobs off the middle, some planes empty, one structure in a single voxel."""
    data = np.zeros(shape, np.uint8)
    data[2:9, 1:8, 1:4] = 2
    data[3:5, 2:9, 2] = 3
    data[shape[0] // 2, shape[1] // 2, -1] = 7
    data[-1, 0, 0] = 7
    return data


def result(place, folder, **options):
    """The SEG's bytes and the segmentation it was made of."""
    with open_scan([folder], options=ReadOptions(**options)) as scan:
        grid = scan.volume.geometry
        found = Segmentation(LabelMap(drawn(grid.shape), grid, LABELS), LABELS, scan, place, "tiny")
        check_dicom(scan)
        contents = dicom_seg(found)
    assert list(contents) == [Path(f"{place}.dcm")]
    return contents[Path(f"{place}.dcm")], found


@pytest.fixture(params=SERIES)
def case(request, tmp_path):
    SERIES[request.param](tmp_path / "in")
    return result(tmp_path / "ct_seg", tmp_path / "in")


def assert_same_as_highdicom(content, found):
    """Every voxel of the label map lies in highdicom's volume where its position in the world says, and no other does."""
    seg = segread(BytesIO(content))
    volume = seg.get_volume(combine_segments=True)
    data, grid = found.label_map.data, found.label_map.geometry
    inside = np.argwhere(data)
    there = np.linalg.inv(LPS_TO_RAS @ volume.affine) @ np.c_[grid.to_world(inside), np.ones(len(inside))].T
    index = there[:3].T.round().astype(int)
    np.testing.assert_allclose(there[:3].T, index, atol=2e-3)
    values = np.array([0, *(s.value for s in found.labels.structures if s.value in data)])
    np.testing.assert_array_equal(values[volume.array[tuple(index.T)]], data[tuple(inside.T)])
    assert np.count_nonzero(volume.array) == len(inside)
    np.testing.assert_allclose(sorted(volume.spacing), sorted(grid.spacing_mm), rtol=1e-4)


def test_highdicom_reads_every_voxel_where_it_was_put(case):
    assert_same_as_highdicom(*case)


def test_each_frame_refers_to_the_image_that_lies_at_its_place(case):
    content, found = case
    seg = pydicom.dcmread(BytesIO(content))
    images = {str(f.header.dataset.SOPInstanceUID): pydicom.dcmread(f.path) for f in found.scan.frames}
    for group in seg.PerFrameFunctionalGroupsSequence:
        (reference,) = group.DerivationImageSequence[0].SourceImageSequence
        assert reference.SpatialLocationsPreserved == "YES"
        image = images[reference.ReferencedSOPInstanceUID]
        assert reference.ReferencedSOPClassUID == image.SOPClassUID
        if "PerFrameFunctionalGroupsSequence" in image:
            image = image.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1].PlanePositionSequence[0]
        np.testing.assert_allclose(
            np.array(group.PlanePositionSequence[0].ImagePositionPatient, float),
            np.array(image.ImagePositionPatient, float),
            atol=1e-4,
        )


def test_frames_of_a_tilted_series_keep_their_own_place(tmp_path):
    _tilted(tmp_path / "in")
    content, found = result(tmp_path / "ct_seg", tmp_path / "in")
    assert found.label_map.geometry.shear_degrees == pytest.approx(np.degrees(np.arctan2(0.6, 2)), abs=0.01)
    seg = segread(BytesIO(content))
    frames = sorted(found.scan.frames, key=lambda frame: frame.position[2])
    uids = [str(frame.header.dataset.SOPInstanceUID) for frame in frames]
    pixels = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(np.array([0, 2, 3, 7])[pixels].T, found.label_map.data)


def test_a_filled_gap_is_part_of_the_object(tmp_path):
    datasets = make.series()
    make.save([d for k, d in enumerate(datasets) if k != 2], tmp_path / "in")
    content, found = result(tmp_path / "ct_seg", tmp_path / "in", on_gap="resample")
    assert found.scan.planes == (0, 1, *range(3, make.SLICES))
    assert_same_as_highdicom(content, found)
    images = {d.SOPInstanceUID: float(d.ImagePositionPatient[2]) for d in datasets}
    filled = float(datasets[2].ImagePositionPatient[2])
    for group in pydicom.dcmread(BytesIO(content)).PerFrameFunctionalGroupsSequence:
        height = group.PlanePositionSequence[0].ImagePositionPatient[2]
        references = [i for d in group.DerivationImageSequence for i in d.SourceImageSequence]
        assert [images[i.ReferencedSOPInstanceUID] for i in references] == ([] if height == filled else [height])


def test_a_series_without_uids_gets_the_same_stand_ins_every_time(tmp_path, real_data):
    folder = real_data / "totalseg_dicom" / "dicom"
    (first, found), (second, _) = (result(tmp_path / name, folder) for name in ("a", "b"))
    assert_same_as_highdicom(first, found)
    references = [pydicom.dcmread(BytesIO(content)).ReferencedSeriesSequence for content in (first, second)]
    assert references[0] == references[1]
    uids = [item.ReferencedSOPInstanceUID for item in references[0][0].ReferencedInstanceSequence]
    assert len(set(uids)) == 20
    assert all(uid.startswith("2.25.") for uid in uids)
    assert "have no StudyInstanceUID, SeriesInstanceUID, SOPInstanceUID of" in dicom_seg_remarks(found)[-1]


def test_images_that_share_a_uid_are_told_apart_by_stand_ins(tmp_path):
    datasets = make.series()
    for dataset in datasets[3:5]:
        make.put(dataset, SOPInstanceUID=datasets[3].SOPInstanceUID)
    make.save(datasets, tmp_path / "in")
    content, found = result(tmp_path / "ct_seg", tmp_path / "in")
    seg = pydicom.dcmread(BytesIO(content))
    uids = [item.ReferencedSOPInstanceUID for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence]
    assert len(set(uids)) == make.SLICES
    assert sum(uid.startswith("2.25.") for uid in uids) == 2
    assert "have no SOPInstanceUID of their own" in dicom_seg_remarks(found)[-1]
    assert_same_as_highdicom(content, found)


@pytest.mark.parametrize("name", ["ge_sag_PIR", "generic_nonisotropic", "jpeg2000", "philips_LIP", "rle"])
def test_real_series_come_back_from_highdicom(tmp_path, real_data, name):
    assert_same_as_highdicom(*result(tmp_path / "x", real_data / "dicom_qa" / "geometry_ok" / name))


def test_segments_say_what_they_show_in_codes_and_colour(tmp_path):
    make.good(tmp_path / "in")
    content, _ = result(tmp_path / "x", tmp_path / "in")
    segments = pydicom.dcmread(BytesIO(content)).SegmentSequence
    assert [s.SegmentLabel for s in segments] == ["liver", "kidney_cyst_left", "gizmo"]
    types = [s.SegmentedPropertyTypeCodeSequence[0] for s in segments]
    assert [(t.CodeValue, t.CodingSchemeDesignator) for t in types] == [
        ("10200004", "SCT"),
        ("367643001", "SCT"),
        ("gizmo", "99MEDSEG"),
    ]
    assert types[1].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert segments[1].AnatomicRegionSequence[0].CodeMeaning == "Kidney"
    assert segments[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "tiny"
    for segment, structure in zip(segments, PRESENT, strict=True):
        rgb = np.array([int(structure.colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        lightness, a, b = rgb2lab(rgb)
        expected = np.array([lightness / 100, (a + 128) / 255, (b + 128) / 255]) * 65535  # PS3.3, C.10.7.1.1
        np.testing.assert_allclose(segment.RecommendedDisplayCIELabValue, expected, atol=200)


def test_what_is_left_out_or_uncoded_is_said(tmp_path):
    make.good(tmp_path / "in")
    _, found = result(tmp_path / "x", tmp_path / "in")
    empty, uncoded = dicom_seg_remarks(found)
    assert "nothing left out" in empty
    assert "gizmo without a SNOMED CT code" in uncoded
    assert "snomed" in uncoded


def test_without_any_voxel_there_is_no_object_and_a_remark(tmp_path):
    make.good(tmp_path / "in")
    with open_scan([tmp_path / "in"]) as scan:
        grid = scan.volume.geometry
        found = Segmentation(LabelMap(np.zeros(grid.shape, np.uint8), grid), LABELS, scan, tmp_path / "x", "tiny")
        assert dicom_seg(found) == {}
        assert dicom_seg_remarks(found) == ["no structure was found, so there is no DICOM SEG"]


def test_a_scan_that_is_not_dicom_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"refers to DICOM images.*--dicom-seg"):
        check_dicom(segmentation(tmp_path / "x").scan)


KNOWN = {
    *("SpecificCharacterSet", "ImageType", "InstanceCreationDate", "InstanceCreationTime", "SOPClassUID"),
    *("SOPInstanceUID", "StudyDate", "SeriesDate", "ContentDate", "StudyTime", "SeriesTime", "ContentTime"),
    *("AccessionNumber", "Modality", "Manufacturer", "ReferringPhysicianName", "SeriesDescription"),
    *("ManufacturerModelName", "ReferencedSeriesSequence", "SourceImageSequence", "PatientName", "PatientID"),
    *("PatientBirthDate", "PatientSex", "DeviceSerialNumber", "SoftwareVersions", "ContributingEquipmentSequence"),
    *("StudyInstanceUID", "SeriesInstanceUID", "StudyID", "SeriesNumber", "InstanceNumber", "FrameOfReferenceUID"),
    *("PositionReferenceIndicator", "DimensionOrganizationSequence", "DimensionIndexSequence"),
    *("DimensionOrganizationType", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows"),
    *("Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "LossyImageCompression"),
    *("SegmentationType", "SegmentSequence", "SegmentsOverlap", "ContentLabel", "ContentDescription"),
    *("ContentCreatorName", "PresentationLUTShape", "SharedFunctionalGroupsSequence"),
    *("PerFrameFunctionalGroupsSequence", "PixelData"),
}


def test_the_object_holds_known_attributes_alone_and_the_patient_it_belongs_to(tmp_path):
    datasets = make.series()
    for dataset in datasets:
        make.put(dataset, InstitutionName="SECRET", PatientComments="SECRET", StudyDescription="SECRET", PatientSex="X")
        make.put(dataset, PatientBirthDate="1970-01-01", StudyDate="20260102", PatientAddress="SECRET")
        dataset.private_block(0x0029, "SECRET", create=True).add_new(1, "LO", "SECRET")
        dataset.preamble = b"SECRET".ljust(128, b"\0")
    make.save(datasets, tmp_path / "in")
    content, _ = result(tmp_path / "x", tmp_path / "in")
    assert content[:128] == bytes(128)
    seg = pydicom.dcmread(BytesIO(content))
    assert {element.keyword for element in seg} <= KNOWN
    assert not [element for element in seg.iterall() if element.tag.is_private]
    assert content.count(b"SECRET") == 1  # the patient's ID, which ties the object to its images
    assert (seg.PatientID, str(seg.PatientName), seg.StudyDate) == ("PID-SECRET", "Secret^Name", "20260102")
    assert (seg.PatientSex, seg.PatientBirthDate) == ("", "")
    assert seg.StudyInstanceUID == datasets[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == datasets[0].FrameOfReferenceUID
    assert seg.SeriesInstanceUID != datasets[0].SeriesInstanceUID


def test_what_was_compressed_with_loss_says_how_much_and_by_what(tmp_path):
    datasets = make.series()
    for dataset in datasets:
        make.put(dataset, LossyImageCompression="01", LossyImageCompressionRatio=["8.5", "2"])
        make.put(dataset, LossyImageCompressionMethod=["ISO_10918_1", "ISO_15444_1"])
    make.save(datasets, tmp_path / "in")
    content, _ = result(tmp_path / "x", tmp_path / "in")
    seg = pydicom.dcmread(BytesIO(content))
    assert seg.LossyImageCompression == "01"
    assert [float(ratio) for ratio in seg.LossyImageCompressionRatio] == [8.5, 2.0]
    assert list(seg.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]


def test_a_name_in_other_letters_is_kept(tmp_path):
    datasets = make.series()
    for dataset in datasets:
        make.put(dataset, SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Łukasz")
    make.save(datasets, tmp_path / "in")
    content, _ = result(tmp_path / "x", tmp_path / "in")
    assert str(pydicom.dcmread(BytesIO(content)).PatientName) == "Müller^Łukasz"


def test_names_in_other_letters_and_longer_than_dicom_allows_are_kept_as_far_as_it_goes(tmp_path):
    names = ["Läsion 肝臓", "a\\b", "n" * 70]
    labels = Labels.from_mapping({"background": 0, names[0]: 2, names[1]: 3, names[2]: 7})
    make.good(tmp_path / "in")
    with open_scan([tmp_path / "in"]) as scan:
        grid = scan.volume.geometry
        (content,) = dicom_seg(
            Segmentation(LabelMap(drawn(grid.shape), grid), labels, scan, tmp_path / "x", "model\\1")
        ).values()
    segments = pydicom.dcmread(BytesIO(content)).SegmentSequence
    assert [s.SegmentLabel for s in segments] == ["Läsion 肝臓", "a/b", "n" * 64]


def _moved(seg):
    for group in seg.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x + 0.05, y, z]


def _mirrored(seg):
    seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _renamed(seg):
    seg.SegmentSequence[0].SegmentLabel, seg.SegmentSequence[1].SegmentLabel = "kidney_cyst_left", "liver"


def _one_bit(seg):
    seg.PixelData = bytes([seg.PixelData[0] ^ 1]) + seg.PixelData[1:]


def _swapped_segments(seg):
    for group in seg.PerFrameFunctionalGroupsSequence:
        item = group.SegmentIdentificationSequence[0]
        item.ReferencedSegmentNumber = {1: 2, 2: 1}.get(item.ReferencedSegmentNumber, 3)


def _another_plane(seg):
    for group in seg.PerFrameFunctionalGroupsSequence:
        x, y, z = group.PlanePositionSequence[0].ImagePositionPatient
        group.PlanePositionSequence[0].ImagePositionPatient = [x, y, z - 2]


def _other_spacing(seg):
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_moved, "centroid"),
        (_mirrored, "centroid"),
        (_renamed, "names"),
        (_one_bit, "1 voxels"),
        (_swapped_segments, "voxels"),
        (_another_plane, "no plane starts|voxels"),
        (_other_spacing, "mL"),
    ],
)
def test_an_object_that_differs_from_the_mask_in_anything_is_not_written(tmp_path, monkeypatch, change, words):
    make.good(tmp_path / "in")
    check = dicom_seg_check.check_equal

    def changed_first(content, *rest):
        seg = pydicom.dcmread(BytesIO(content))
        change(seg)
        buffer = BytesIO()
        pydicom.dcmwrite(buffer, seg, enforce_file_format=True)
        check(buffer.getvalue(), *rest)

    monkeypatch.setattr(dicom_seg_check, "check_equal", changed_first)
    with pytest.raises(DataError, match=rf"x\.dcm: .*({words}).*not written"):
        result(tmp_path / "x", tmp_path / "in")
