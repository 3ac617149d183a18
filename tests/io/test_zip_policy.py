"""Every kind of zip archive in the policy is either read to the right place or refused by name, and leaves nothing behind."""

import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medseg.core.errors import DataError, OutputError, ResourceError
from medseg.io import archive, zipped
from medseg.io.reading import open_scan, read_label_map, read_volume
from medseg.io.scan import ReadOptions
from tests.io import bad_dicom, bad_dicom_file, bad_zip

GOOD = sorted(name for name, kind in bad_zip.KINDS.items() if kind.marker)
BAD = sorted(name for name, kind in bad_zip.KINDS.items() if kind.hints)
SAYS_SO = {"z-macosx": "._IM0001.dcm", "z-nested": "older.zip"}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of temporary files of its own, empty after each test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_every_row_of_the_policy_has_a_builder() -> None:
    assert sum(name.startswith("z-") for name in bad_zip.KINDS) == 18


@pytest.mark.parametrize("name", GOOD)
def test_a_good_archive_lies_in_the_right_place(name: str, tmp_path: Path, temporary: Path) -> None:
    bad_zip.KINDS[name].build(tmp_path / "scan.zip")
    with open_scan([tmp_path / "scan.zip"]) as scan:
        assert all(frame.path.is_file() for frame in scan.frames)
        assert len(list(temporary.iterdir())) == 1
    assert not list(temporary.iterdir())
    volume = scan.volume
    np.testing.assert_array_equal(volume.data[0], bad_dicom.intensities().transpose(2, 1, 0))
    assert volume.geometry.to_world(bad_dicom.MARKER) == pytest.approx(bad_zip.KINDS[name].marker, abs=1e-6)
    assert SAYS_SO.get(name, "") in " ".join(volume.warnings)
    assert len(volume.warnings) == (name in SAYS_SO)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_by_name(name: str, tmp_path: Path, temporary: Path) -> None:
    path = tmp_path / "place" / "scan.zip"
    path.parent.mkdir()
    bad_zip.KINDS[name].build(path)
    before = sorted(tmp_path.rglob("*"))
    start = time.process_time()
    with pytest.raises(DataError) as refused:
        read_volume(path)
    assert time.process_time() - start < 5
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    said = message.replace(str(path), "").lower()
    assert any(hint in said for hint in bad_zip.KINDS[name].hints), message
    assert sorted(tmp_path.rglob("*")) == before
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_one_image_in_an_archive_is_a_scan_and_a_label_map(suffix: str, tmp_path: Path) -> None:
    data = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    affine = np.array([[-1.0, 0, 0, 5], [0, 0, 2, 6], [0, 3, 0, 7], [0, 0, 0, 1]])
    file = tmp_path / f"image{suffix}"
    if suffix.startswith(".nii"):
        image = nib.Nifti1Image(data, affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, file)
    else:
        itk = SimpleITK.GetImageFromArray(data.T)
        itk.SetSpacing((1.0, 3.0, 2.0))
        itk.SetDirection((1, 0, 0, 0, 0, -1, 0, 1, 0))
        itk.SetOrigin((-5.0, -6.0, 7.0))
        SimpleITK.WriteImage(itk, str(file))
    (tmp_path / "scan.ZIP").write_bytes(
        bad_zip.packed({f"a/b/scan{suffix}": file.read_bytes(), "README.txt": b"read me"})
    )
    volume = read_volume(tmp_path / "scan.ZIP")
    np.testing.assert_array_equal(volume.data[0], data)
    np.testing.assert_allclose(volume.geometry.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(read_label_map(tmp_path / "scan.ZIP").data, data)


def test_errors_and_warnings_name_the_members_as_the_archive_does(tmp_path: Path) -> None:
    members = bad_zip.slices(tmp_path) | {"study/read me.txt": b"hello"}
    (tmp_path / "scan.zip").write_bytes(bad_zip.packed(members))
    assert read_volume(tmp_path / "scan.zip").warnings == ("set aside, not DICOM (1): study/read me.txt",)
    cut = members | {"study/IM0004.dcm": members["study/IM0004.dcm"][:-300]}
    (tmp_path / "cut.zip").write_bytes(bad_zip.packed(cut))
    with pytest.raises(DataError, match=r"cut\.zip/study/IM0004\.dcm: truncated"):
        read_volume(tmp_path / "cut.zip")
    gone = {name: content for name, content in members.items() if "0006" not in name}
    (tmp_path / "gap.zip").write_bytes(bad_zip.packed(gone))
    with pytest.raises(DataError, match=r"between study/IM0005\.dcm and study/IM0007\.dcm"):
        read_volume(tmp_path / "gap.zip")
    assert read_volume(tmp_path / "gap.zip", options=ReadOptions(on_gap="resample")).geometry.shape[2] == 12


def test_members_with_names_like_ours_are_not_mixed_up(tmp_path: Path) -> None:
    slices = list(bad_zip.slices(tmp_path).values())
    members = {f"{13 - n:04d}.dcm": content for n, content in enumerate(slices, 1)}
    members["0009.dcm"] = members["0009.dcm"][:-300]
    (tmp_path / "scan.zip").write_bytes(bad_zip.packed(members))
    with pytest.raises(DataError, match=r"scan\.zip/0009\.dcm: truncated"):
        read_volume(tmp_path / "scan.zip")
    del members["0009.dcm"]
    (tmp_path / "gap.zip").write_bytes(bad_zip.packed(members))
    with pytest.raises(DataError, match=r"between 0010\.dcm and 0008\.dcm"):
        read_volume(tmp_path / "gap.zip")


def test_errors_of_other_work_are_left_as_they_are_while_the_archive_is_open(tmp_path: Path) -> None:
    bad_zip.plain(tmp_path / "scan.zip")
    with (
        pytest.raises(OutputError, match=r"^/out/0001\.nii\.gz and 0002\.dcm: exists$"),
        open_scan([tmp_path / "scan.zip"]),
    ):
        raise OutputError("/out/0001.nii.gz and 0002.dcm: exists")
    with pytest.raises(OSError, match="disk"), open_scan([tmp_path / "scan.zip"]):
        raise OSError("disk")
    with (
        pytest.raises(DataError, match=r"^.*scan\.zip/study/IM0003\.dcm: gone$"),
        open_scan([tmp_path / "scan.zip"]) as scan,
    ):
        raise DataError(f"{scan.frames[2].path}: gone")


def test_several_scans_in_one_archive_are_refused_by_name(tmp_path: Path) -> None:
    both = bad_zip.slices(tmp_path) | {"labels.nii.gz": b"x"}
    (tmp_path / "both.zip").write_bytes(bad_zip.packed(both))
    with pytest.raises(DataError, match=r"several scans \(labels\.nii\.gz, DICOM files\)"):
        read_volume(tmp_path / "both.zip")
    (tmp_path / "pair.zip").write_bytes(bad_zip.packed({"a.nii": b"x", "b.mha": b"x"}))
    with pytest.raises(DataError, match=r"several scans \(a\.nii, b\.mha\)"):
        read_volume(tmp_path / "pair.zip")
    (tmp_path / "detached.zip").write_bytes(bad_zip.packed({"a.mhd": b"x", "a.raw": b"x"}))
    with pytest.raises(DataError, match="header in a file of its own"):
        read_volume(tmp_path / "detached.zip")


def test_compressed_slices_in_an_archive_are_read(tmp_path: Path) -> None:
    bad_dicom_file.KINDS["d-jpegls"].build(tmp_path / "source")
    members = {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()}
    (tmp_path / "scan.zip").write_bytes(bad_zip.packed(members))
    volume = read_volume(tmp_path / "scan.zip")
    np.testing.assert_array_equal(volume.data[0], bad_dicom.intensities().transpose(2, 1, 0))


def test_bytes_are_counted_as_they_come_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan.zip").write_bytes(bad_zip.packed(bad_zip.slices(tmp_path)))
    monkeypatch.setattr(archive, "check_sizes", lambda *given: None)
    monkeypatch.setattr(zipped, "MOST_BYTES", 5000)
    with pytest.raises(DataError, match="too large"):
        read_volume(tmp_path / "scan.zip")


def test_a_full_disk_is_said_before_anything_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scan.zip").write_bytes(bad_zip.packed(bad_zip.slices(tmp_path)))
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
    with pytest.raises(ResourceError, match="100 are free"):
        read_volume(tmp_path / "scan.zip")


def test_an_archive_with_a_zip64_directory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = bad_zip.slices(tmp_path)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    (tmp_path / "scan.zip").write_bytes(bad_zip.packed(members))
    assert b"PK\6\6" in (tmp_path / "scan.zip").read_bytes()
    assert read_volume(tmp_path / "scan.zip").geometry.shape[2] == 12


def test_a_directory_too_large_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad_zip.plain(tmp_path / "scan.zip")
    monkeypatch.setattr(zipped, "_MOST_DIRECTORY_BYTES", 500)
    with pytest.raises(DataError, match="over the limit of 20000 files"):
        read_volume(tmp_path / "scan.zip")


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_archive_is_refused_or_read_whole(seed: int, tmp_path: Path, temporary: Path) -> None:
    random = np.random.default_rng(seed)
    content = bad_zip.packed(bad_zip.slices(tmp_path))
    heads = [at for at in range(len(content)) if content[at : at + 2] == b"PK"]
    for _ in range(40):
        damaged = bytearray(content)
        for at in (random.choice(heads) + random.integers(0, 46), random.integers(len(content))):
            damaged[min(at, len(content) - 1)] = random.integers(256)
        (tmp_path / "scan.zip").write_bytes(damaged)
        message = f"{tmp_path / 'scan.zip'}"
        try:
            data = read_volume(tmp_path / "scan.zip").data[0]
        except DataError as error:
            message = str(error)
        else:
            np.testing.assert_array_equal(data, bad_dicom.intensities().transpose(2, 1, 0))
        assert message.startswith(f"{tmp_path / 'scan.zip'}")
        assert not list(temporary.iterdir())


def test_a_stopped_program_leaves_no_unpacked_files(tmp_path: Path, temporary: Path) -> None:
    bad_zip.plain(tmp_path / "scan.zip")
    program = f"""
import sys, tempfile, time
from pathlib import Path
tempfile.tempdir = {str(temporary)!r}
from medseg.cli import app
from medseg.io.reading import open_scan
def wait(**kwargs):
    with open_scan([Path({str(tmp_path / "scan.zip")!r})]):
        print("open", flush=True)
        time.sleep(30)
app.app = wait
raise SystemExit(app.run([]))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        assert list(temporary.iterdir())
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=20) == 143
    assert not list(temporary.iterdir())
