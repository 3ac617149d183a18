"""What the user chooses of a DICOM place: which series, what becomes of missing slices; and where a tilted scan ends up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import MediaStorageDirectoryStorage

from medseg.core.errors import DataError, GeometryError
from medseg.inference.segment import segment
from medseg.io.dicom import read_dicom
from medseg.io.scan import ReadOptions
from tests.io import bad_dicom as make
from tests.io import bad_dicom_series
from tests.io.bad_dicom_series import TILTED
from tests.models.tiny_model import tiny_plan

TRUTH = make.intensities().transpose(2, 1, 0)
RESAMPLE = ReadOptions(on_gap="resample")


def two_series(folder: Path) -> None:
    """Series 101 (the scan), 102 (coronal), and a scout with number 100."""
    make.good(folder / "b", number=101)
    make.good(folder / "a", number=102, cosines=bad_dicom_series.CORONAL)
    make.save([bad_dicom_series.scout(100)], folder / "scout")


def test_several_series_are_listed_with_numbers_and_geometry(tmp_path: Path) -> None:
    two_series(tmp_path)
    with pytest.raises(DataError) as refused:
        read_dicom(tmp_path)
    message = str(refused.value)
    assert "3 image series" in message
    assert "--series" in message
    assert "1) 1 slice(s) of 40x40 pixels, CT, scout or single image, spacing unknown" in message
    assert f"2) 12 slice(s) of 32x24 pixels, CT, 0.7 x 0.9 x 2 mm, LPS, UID {make.uid(101)}" in message
    assert f"3) 12 slice(s) of 32x24 pixels, CT, 0.7 x 0.9 x 2 mm, LIP, UID {make.uid(102)}" in message


@pytest.mark.parametrize(("wanted", "orientation"), [("2", "LPS"), ("3", "LIP"), (make.uid(102), "LIP")])
def test_a_series_is_chosen_by_its_number_or_its_uid(wanted: str, orientation: str, tmp_path: Path) -> None:
    two_series(tmp_path)
    volume = read_dicom(tmp_path, ReadOptions(series=wanted)).volume
    assert volume.geometry.orientation == orientation
    np.testing.assert_array_equal(volume.data[0], TRUTH)
    assert any("2 other series" in line for line in volume.warnings)


@pytest.mark.parametrize("wanted", ["0", "4", "1.2.3", "", "-1", "two"])
def test_a_series_that_is_not_there_is_refused_with_the_list(wanted: str, tmp_path: Path) -> None:
    two_series(tmp_path)
    with pytest.raises(DataError, match=r"no series of the number or UID.*3\) 12 slice"):
        read_dicom(tmp_path, ReadOptions(series=wanted))


def test_two_phases_whose_slices_lie_between_one_another_are_no_volume(tmp_path: Path) -> None:
    def in_turn(datasets: list[Dataset], points: int) -> list[Dataset]:
        return [make.put(d, TemporalPositionIdentifier=1 + k % points) for k, d in enumerate(datasets)]

    make.changed(lambda datasets: in_turn(datasets, 2))(tmp_path / "phases")
    with pytest.raises(DataError, match=r"2 temporal positions \(phases\) by TemporalPositionIdentifier"):
        read_dicom(tmp_path / "phases")
    for points in (1, make.SLICES):  # one phase; slices counted as if they were phases
        make.changed(lambda datasets, points=points: in_turn(datasets, points))(tmp_path / str(points))
        np.testing.assert_array_equal(read_dicom(tmp_path / str(points)).volume.data[0], TRUTH)


def test_the_only_series_may_be_named_too(tmp_path: Path) -> None:
    make.good(tmp_path)
    assert read_dicom(tmp_path, ReadOptions(series="1")).volume.warnings == ()


def without_slices(*lost: int, **how: Any) -> Callable[[Path], Any]:
    return make.changed(lambda datasets: [d for k, d in enumerate(datasets) if k not in lost], **how)


@pytest.mark.parametrize("how", [{}, {"cosines": bad_dicom_series.OBLIQUE}, {"cosines": TILTED, "step": (0, 0, 2.0)}])
def test_missing_slices_are_filled_in_linearly_and_the_rest_stays(how: dict[str, Any], tmp_path: Path) -> None:
    lost = (2, 3, 6, 9, 10)
    without_slices(*lost, **how)(tmp_path / "gaps")
    make.good(tmp_path / "whole", **how)
    whole = read_dicom(tmp_path / "whole").volume
    scan = read_dicom(tmp_path / "gaps", RESAMPLE)
    kept = [k for k in range(make.SLICES) if k not in lost]
    assert scan.planes == tuple(kept)
    assert [frame.path.name for frame in scan.frames] == [make.file_name(n) for n in range(len(kept))]
    np.testing.assert_allclose(scan.volume.geometry.affine, whole.geometry.affine, atol=1e-5)
    assert scan.volume.geometry.shape == whole.geometry.shape
    np.testing.assert_array_equal(scan.volume.data[..., kept], whole.data[..., kept])
    ramp = TRUTH[make.MARKER[0] - 5]  # without the marker the scan is linear, so that what is filled in is the truth
    np.testing.assert_array_equal(scan.volume.data[0, make.MARKER[0] - 5], ramp)
    assert scan.volume.data.dtype == whole.data.dtype
    assert "5 of 12 slices were made" in scan.volume.warnings[0]


def test_slices_on_no_common_grid_are_interpolated_and_no_frames_of_the_scan(tmp_path: Path) -> None:
    heights = [0, 2, 4, 6, 9.1, 12.2, 15.3, 18.4]
    datasets = make.series()[: len(heights)]
    for dataset, z in zip(datasets, heights, strict=True):
        make.put(dataset, ImagePositionPatient=["-30", "-50", f"{100 + z:g}"])
        make.set_pixels(dataset, np.full((make.ROWS, make.COLUMNS), round(1024 + 10 * z), "<u2"))
    make.save(datasets, tmp_path)
    scan = read_dicom(tmp_path, RESAMPLE)
    k = scan.volume.geometry.shape[2]
    z = scan.volume.geometry.to_world([(0, 0, n) for n in range(k)])[:, 2] - 100
    np.testing.assert_allclose(z[[0, -1]], (0, 18.4))
    np.testing.assert_allclose(scan.volume.data[0, 3, 3], 10 * z, atol=1.5)
    assert scan.planes[0] == 0
    assert scan.planes[-1] == k - 1
    for frame, plane in zip(scan.frames, scan.planes, strict=True):
        assert frame.position[2] - 100 == pytest.approx(z[plane], abs=0.1)
    assert "slices lie between its planes" in scan.volume.warnings[0]


@pytest.mark.parametrize("spacing", [0.625, 0.07, 2.5])
def test_rounding_of_positions_is_no_gap_and_a_missing_slice_is_one(spacing: float, tmp_path: Path) -> None:
    """One decimal where slices are thick, two where they are thinner than that."""
    decimals = 2 if spacing < 0.1 else 1
    rounded = [round(spacing * k, decimals) - spacing * k for k in range(make.SLICES)]

    def thin(datasets: list[Dataset]) -> list[Dataset]:
        for k, dataset in enumerate(datasets):
            make.put(dataset, ImagePositionPatient=["-30", "-50", f"{100 + spacing * k + rounded[k]:.9g}"])
        return datasets

    make.changed(thin)(tmp_path / "rounded")
    make.changed(lambda datasets: [d for k, d in enumerate(thin(datasets)) if k != 6])(tmp_path / "missing")
    geometry = read_dicom(tmp_path / "rounded").volume.geometry
    places = geometry.to_world([(0, 0, k) for k in range(make.SLICES)])[:, 2] - 100
    assert np.abs(places - spacing * np.arange(make.SLICES)).max() <= 0.5 * 10.0**-decimals + 1e-9
    with pytest.raises(GeometryError, match=r"1 slice\(s\) may be missing"):
        read_dicom(tmp_path / "missing")


def test_a_scan_that_would_be_made_up_for_the_most_is_refused(tmp_path: Path) -> None:
    make.shifted({11: 200.0})(tmp_path)
    with pytest.raises(GeometryError, match="at most 5 for each slice"):
        read_dicom(tmp_path, RESAMPLE)


def test_filled_in_slices_count_for_the_most_voxels(tmp_path: Path) -> None:
    without_slices(5)(tmp_path)
    with pytest.raises(DataError, match="too large: 9216, the limit is 9215"):
        read_dicom(tmp_path, ReadOptions(on_gap="resample", max_voxels=9215))


def test_an_even_series_is_the_same_with_and_without_resampling(tmp_path: Path) -> None:
    make.good(tmp_path)
    scan = read_dicom(tmp_path, RESAMPLE)
    np.testing.assert_array_equal(scan.volume.data[0], TRUTH)
    assert scan.volume.warnings == ()


def directory(folder: Path, *names: str) -> Path:
    found = make.identity(MediaStorageDirectoryStorage, "OT", 400, 1)
    record = make.put(Dataset(), DirectoryRecordType="IMAGE", ReferencedFileID=list(names))
    make.put(found, DirectoryRecordSequence=Sequence([record]))
    return make.save([found], folder, names=lambda n: "DICOMDIR")[0]


def test_a_dicomdir_means_its_folder(tmp_path: Path) -> None:
    make.good(tmp_path / "DICOM" / "S0001")
    volume = read_dicom(directory(tmp_path, "DICOM", "S0001", "IM0001.dcm")).volume
    np.testing.assert_array_equal(volume.data[0], TRUTH)
    assert "DICOMDIR given" in volume.warnings[0]


def test_a_dicomdir_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    make.good(tmp_path / "elsewhere")
    make.good(tmp_path / "disc")
    with pytest.raises(DataError, match=r"DICOMDIR: this DICOMDIR names a file outside"):
        read_dicom(directory(tmp_path / "disc", "..", "elsewhere", "IM0001.dcm"))


CENTRE, RADIUS = np.array([-19.0, -41.0, 108.0]), 6.0  # LPS mm


@pytest.mark.parametrize(
    ("cosines", "step"),
    [
        (TILTED, (0.0, 0.0, 2.0)),
        ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (0.0, 0.7, 2.0)),
        ((1.0, 0.0, 0.0, 0.0, 1.0, 0.0), (-0.9, 0.3, 1.5)),
    ],
    ids=["tilted-slices", "shifted-down", "shifted-aside"],
)
@pytest.mark.parametrize("spacing", [(0.7, 0.9, 2.0), (1.1, 1.1, 1.3)], ids=str)
def test_a_ball_in_tilted_slices_is_found_where_it_is(cosines, step, spacing, tmp_path: Path) -> None:
    corner = CENTRE - 5.5 * np.array(step) - 16 * 0.7 * np.array(cosines[:3]) - 12 * 0.9 * np.array(cosines[3:])
    datasets = make.series(cosines=cosines, corner=tuple(corner), step=step)
    j, i = np.mgrid[: make.ROWS, : make.COLUMNS]
    distances = []
    for k, dataset in enumerate(datasets):
        place = (
            corner
            + k * np.array(step)
            + np.multiply.outer(i * 0.7, cosines[:3])
            + np.multiply.outer(j * 0.9, cosines[3:])
        )
        distances.append(np.linalg.norm(place - CENTRE, axis=-1))
        soft = np.clip(0.5 + (RADIUS - distances[-1]) / 4, 0, 1)
        make.set_pixels(dataset, np.rint(1024 + 1000 * soft).astype("<u2"))
    make.save(datasets, tmp_path)
    volume = read_dicom(tmp_path).volume
    assert volume.geometry.is_sheared
    ct = {"name": "ct_window", "lower": 0.0, "upper": 1000.0, "mean": 500.0, "sd": 1.0}
    plan = tiny_plan(
        spacing_mm=spacing, labels={"background": 0, "liver": 1}, modality="CT", intensity=[{"scheme": ct}]
    )
    found = segment(volume, plan, lambda patches: torch.cat([-patches, patches], dim=1)).label_map
    assert found.geometry == volume.geometry
    mask = found.data.transpose(2, 1, 0) == 1
    centre = np.diag([-1.0, -1.0, 1.0]) @ volume.geometry.to_world(np.argwhere(found.data == 1)).mean(axis=0)
    np.testing.assert_allclose(centre, CENTRE, atol=0.2)
    assert mask.sum() * volume.geometry.voxel_volume_ml == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.05)
    wrong = mask != (np.array(distances) < RADIUS)
    assert np.abs(np.array(distances)[wrong] - RADIUS).max() < 0.5


@pytest.mark.parametrize("uid", ["", make.uid(999)])
@pytest.mark.parametrize("end", [0, -1])
def test_an_end_slice_that_lost_its_series_is_not_set_aside(uid: str, end: int, tmp_path: Path) -> None:
    slices = make.series()
    make.put(slices[end], SeriesInstanceUID=uid)
    make.save(slices, tmp_path)
    with pytest.raises(DataError, match=r"IM\d+\.dcm lies where the series of 11 slices would go on"):
        read_dicom(tmp_path)
    whole = make.series()[1].SeriesInstanceUID
    assert read_dicom(tmp_path, ReadOptions(series=whole)).volume.geometry.shape[2] == 11


def test_two_echoes_between_one_another_are_no_volume(tmp_path: Path) -> None:
    slices = [make.put(d, EchoTime="10" if n % 2 else "30") for n, d in enumerate(make.series())]
    make.save(slices, tmp_path)
    with pytest.raises(DataError, match=r"several echoes \(EchoTime from 10 to 30 ms\)"):
        read_dicom(tmp_path)
    make.save([make.put(d, EchoTime=f"{30 + 0.01 * n:.2f}") for n, d in enumerate(slices)], tmp_path)
    assert read_dicom(tmp_path).volume.geometry.shape[2] == len(slices)
