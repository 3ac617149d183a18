"""DICOM files one by one: pixels and compression, rescale, copies, links, lengths, and damage of every kind."""

import tracemalloc
from pathlib import Path

import gdcm
import numpy as np
import pytest
from pydicom.sequence import Sequence
from pydicom.uid import ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from medseg.core.errors import DataError, GeometryError
from medseg.io import dicom_compressed
from medseg.io.dicom import read_dicom
from medseg.io.scan import ReadOptions
from tests.io import bad_dicom as make
from tests.io import bad_dicom_file, bad_dicom_series

TRUTH = make.intensities().transpose(2, 1, 0)

SYNTAXES = ("JPEG2000Lossless", "JPEGLSLossless", "RLELossless", "JPEGLosslessProcess14_1")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_compressed_signed_pixels_come_back_exactly(syntax: str, tmp_path: Path) -> None:
    def signed(folder: Path) -> None:
        datasets = [make.set_pixels(d, make.intensities()[k]) for k, d in enumerate(make.series())]
        make.save([make.put(d, RescaleIntercept="0") for d in datasets], folder)

    bad_dicom_file.gdcm_compressed(getattr(gdcm.TransferSyntax, syntax), signed)(tmp_path / "scan")
    np.testing.assert_array_equal(read_dicom(tmp_path / "scan").volume.data[0], TRUTH)


def test_damaged_compressed_pixels_are_refused_by_file(tmp_path: Path) -> None:
    bad_dicom_file.KINDS["d-j2k"].build(tmp_path)
    file = tmp_path / "IM0004.dcm"
    content = bytearray(file.read_bytes())
    at = content.index(b"\xff\x4f\xff\x51")  # start of the code stream and of its size marker
    content[at : at + 60] = bytes(60)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"IM0004\.dcm: the compressed pixel data \(JPEG 2000.*cannot be decoded"):
        read_dicom(tmp_path)


def test_a_decoder_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad_dicom_file.KINDS["d-rle"].build(tmp_path)
    monkeypatch.setattr(dicom_compressed, "START_SECONDS", 0.0)
    monkeypatch.setattr(dicom_compressed, "SECONDS_PER_MIB", 0.0)
    with pytest.raises(DataError, match="not done within"):
        read_dicom(tmp_path)


def test_whole_rescale_stays_integer_and_a_fraction_makes_float(tmp_path: Path) -> None:
    make.good(tmp_path / "whole")
    make.every(RescaleSlope="100", RescaleIntercept="-102400")(tmp_path / "large")
    make.every(RescaleSlope="0.5", RescaleIntercept="-512")(tmp_path / "half")
    whole, large, half = (read_dicom(tmp_path / name).volume.data for name in ("whole", "large", "half"))
    assert (whole.dtype, large.dtype, half.dtype) == (np.int16, np.int32, np.float32)
    np.testing.assert_array_equal(large[0], TRUTH.astype(np.int32) * 100)
    np.testing.assert_array_equal(half[0], TRUTH / 2)


def test_unsigned_sixteen_bits_are_not_folded(tmp_path: Path) -> None:
    def bright(datasets: list) -> None:
        for k, dataset in enumerate(datasets):
            stored = np.full((make.ROWS, make.COLUMNS), 65535 - k, "<u2")
            make.put(make.set_pixels(dataset, stored), RescaleIntercept="0")

    make.changed(bright)(tmp_path)
    data = read_dicom(tmp_path).volume.data[0]
    assert data.dtype == np.int32
    assert data[0, 0].tolist() == [65535 - k for k in range(make.SLICES)]


def test_a_ct_without_rescale_is_read_with_a_warning_and_half_of_it_refused(tmp_path: Path) -> None:
    def bare(datasets: list, *slices: int) -> None:
        for k in slices:
            del datasets[k].RescaleSlope, datasets[k].RescaleIntercept

    make.changed(lambda datasets: bare(datasets, *range(12)))(tmp_path / "all")
    make.changed(lambda datasets: bare(datasets, 3))(tmp_path / "one")
    assert "Hounsfield" in read_dicom(tmp_path / "all").volume.warnings[0]
    with pytest.raises(DataError, match=r"missing in IM0004\.dcm \(1 of 12 slices"):
        read_dicom(tmp_path / "one")


def test_a_series_of_blank_uids_is_read(tmp_path: Path) -> None:
    blank = {"SOPClassUID": "", "SOPInstanceUID": "", "SeriesInstanceUID": "", "StudyInstanceUID": ""}
    make.every(**blank, FrameOfReferenceUID="", PatientID="", PatientName="")(tmp_path)
    np.testing.assert_array_equal(read_dicom(tmp_path).volume.data[0], TRUTH)


def test_one_instance_uid_on_all_slices_loses_none(tmp_path: Path) -> None:
    make.every(SOPInstanceUID=make.uid(5))(tmp_path)
    volume = read_dicom(tmp_path).volume
    np.testing.assert_array_equal(volume.data[0], TRUTH)
    assert volume.warnings == ()


def test_one_instance_with_two_different_pixel_data_is_refused(tmp_path: Path) -> None:
    files = make.good(tmp_path)
    copy = bytearray(files[3].read_bytes())
    copy[-9] ^= 1
    (tmp_path / "copy.dcm").write_bytes(copy)
    with pytest.raises(GeometryError, match="same position"):
        read_dicom(tmp_path)


def test_a_data_set_without_file_meta_is_read(tmp_path: Path) -> None:
    for file in make.good(tmp_path):
        content = file.read_bytes()
        at = content.index(b"\x08\x00\x08\x00CS")
        file.write_bytes(content[at:])
    np.testing.assert_array_equal(read_dicom(tmp_path).volume.data[0], TRUTH)


def test_one_multi_frame_file_is_read_by_its_own_path(tmp_path: Path) -> None:
    bad_dicom_file.KINDS["d-enhanced-shuffled"].build(tmp_path)
    np.testing.assert_array_equal(read_dicom(tmp_path / "multi.dcm").volume.data[0], TRUTH)


def test_one_classic_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    files = make.good(tmp_path)
    with pytest.raises(GeometryError, match=r"only one slice.*give the folder"):
        read_dicom(files[0])


def test_temporal_positions_of_an_enhanced_file_are_refused(tmp_path: Path) -> None:
    dataset = bad_dicom_file.enhanced(list(range(12)))
    for n, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        make.put(groups.FrameContentSequence[0], TemporalPositionIndex=1 + n // 6)
    make.save([dataset], tmp_path)
    with pytest.raises(DataError, match="2 temporal positions"):
        read_dicom(tmp_path)


def test_an_enhanced_file_that_announces_other_frames_is_refused(tmp_path: Path) -> None:
    make.save([make.put(bad_dicom_file.enhanced(list(range(12))), NumberOfFrames=3000)], tmp_path)
    with pytest.raises(DataError, match="3000 frame"):
        read_dicom(tmp_path)


def test_a_folder_link_is_not_followed_and_a_loop_ends(tmp_path: Path) -> None:
    make.good(tmp_path / "scan")
    (tmp_path / "scan" / "loop").symlink_to(tmp_path, target_is_directory=True)
    volume = read_dicom(tmp_path / "scan").volume
    assert volume.warnings == ("loop: link to a folder, not followed",)


def test_a_linked_slice_is_read_and_a_broken_link_named(tmp_path: Path) -> None:
    files = make.good(tmp_path / "scan")
    files[4].rename(tmp_path / "elsewhere")
    files[4].symlink_to(tmp_path / "elsewhere")
    (tmp_path / "scan" / "gone").symlink_to(tmp_path / "nowhere")
    volume = read_dicom(tmp_path / "scan").volume
    np.testing.assert_array_equal(volume.data[0], TRUTH)
    assert "gone: broken link" in volume.warnings[0]


@pytest.mark.parametrize("place", ["missing", "empty", "text"])
def test_a_place_without_dicom_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("no scan\n")
    with pytest.raises(DataError, match=f"{place}: no "):
        read_dicom(tmp_path / place)


def test_a_dicomdir_that_stays_inside_is_set_aside(tmp_path: Path) -> None:
    make.good(tmp_path)
    directory = make.identity(MediaStorageDirectoryStorage, "OT", 400, 1)
    record = make.put(make.Dataset(), DirectoryRecordType="IMAGE", ReferencedFileID=["IM0001.dcm"])
    make.save([make.put(directory, DirectoryRecordSequence=Sequence([record]))], tmp_path, names=lambda n: "DICOMDIR")
    assert read_dicom(tmp_path).volume.warnings == ("set aside, DICOMDIR (1): DICOMDIR",)


def test_too_many_voxels_are_refused_before_any_is_read(tmp_path: Path) -> None:
    make.good(tmp_path)
    with pytest.raises(DataError, match="too large: 9216, the limit is 9215"):
        read_dicom(tmp_path, ReadOptions(max_voxels=9215))


def test_a_deflated_file_that_opens_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad_dicom_file.KINDS["d-deflated"].build(tmp_path)
    monkeypatch.setattr("medseg.io.dicom_header.MOST_INFLATED", 1000)
    with pytest.raises(DataError, match="too large"):
        read_dicom(tmp_path)


def test_two_scouts_and_no_series_are_listed(tmp_path: Path) -> None:
    make.save([bad_dicom_series.scout(1), bad_dicom_series.scout(2)], tmp_path)
    with pytest.raises(DataError, match="2 image series") as refused:
        read_dicom(tmp_path)
    assert make.uid(1) in str(refused.value)


def test_messages_hold_no_control_characters(tmp_path: Path) -> None:
    make.good(tmp_path / "a")
    make.save([make.put(d, SeriesInstanceUID="1.2\x1b[2J\n3") for d in make.series(7)], tmp_path / "b")
    with pytest.raises(DataError) as refused:
        read_dicom(tmp_path)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_file_is_never_read_in_silence(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    content = make.good(tmp_path)[5].read_bytes()
    for end in rng.integers(1, len(content), 15):
        (tmp_path / make.file_name(5)).write_bytes(content[:end])
        with pytest.raises(DataError):
            read_dicom(tmp_path)


def test_an_element_of_four_gigabytes_in_a_small_file_takes_no_memory(tmp_path: Path) -> None:
    datasets = make.series()
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    file = make.save(datasets, tmp_path, implicit_vr=True, little_endian=True)[5]
    content = file.read_bytes()
    at = content.index(b"\x10\x00\x20\x00") + 4  # the length of PatientID
    file.write_bytes(content[:at] + b"\xfe\xff\xff\xff" + content[at + 4 :])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"IM0006\.dcm: this DICOM file has no pixel data"):
            read_dicom(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_a_file_cut_in_its_preamble_is_refused(tmp_path: Path) -> None:
    file = make.good(tmp_path)[11]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match=r"IM0012\.dcm: truncated"):
        read_dicom(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_corrupt_headers_never_end_in_a_traceback(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    file = make.good(tmp_path)[5]
    content = file.read_bytes()
    header = content.index(bad_dicom_file.PIXEL_HEADER) + 12
    for _ in range(20):
        damaged = bytearray(content)
        for at in rng.integers(128, header, 3):
            damaged[at] = rng.integers(256)
        file.write_bytes(damaged)
        try:
            volume = read_dicom(tmp_path).volume
        except DataError:
            continue
        assert volume.geometry.shape == TRUTH.shape
