"""Reading NIfTI: equal to nibabel on real scans and random grids; damage never passes."""

import gzip
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medseg.core.errors import DataError, GeometryError, MedsegError
from medseg.io.nifti import read_nifti
from medseg.io.reading import read_volume
from medseg.io.scan import ReadOptions
from tests.io.bad_nifti import big_endian, four_d
from tests.io.made_nifti import MARKER, OBLIQUE, SHAPE, STRAIGHT, at, encoded, scan


def random_affine(seed: int) -> np.ndarray:
    """A random oblique, anisotropic affine, reflected for every odd seed."""
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed).as_matrix()
    spacing = rng.uniform(0.3, 6.0, 3) * [(-1) ** seed, 1, 1]
    return np.asarray(nib.affines.from_matvec(rotation * spacing, rng.uniform(-400, 400, 3)))


def saved(path: Path, affine: np.ndarray, codes: tuple[int, int]) -> Path:
    image = nib.Nifti1Image(scan(), affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    nib.save(image, path)
    return path


@pytest.mark.parametrize("codes", [(1, 1), (0, 2), (1, 0)])
@pytest.mark.parametrize("seed", range(12))
def test_a_marker_lies_where_the_affine_puts_it(seed: int, codes: tuple[int, int], tmp_path: Path) -> None:
    affine = random_affine(seed)
    volume = read_volume(saved(tmp_path / "scan.nii.gz", affine, codes))
    np.testing.assert_allclose(volume.geometry.to_world(MARKER), affine[:3] @ [*MARKER, 1], atol=5e-3)
    assert volume.data[(0, *MARKER)] == 120


def real_files(folder: Path) -> Iterator[Path]:
    return iter(sorted(folder.rglob("*.nii.gz")))


def test_every_real_file_reads_equal_to_nibabel(real_data: Path) -> None:
    files = list(real_files(real_data))
    assert len(files) > 400
    for path in files:
        volume, peer = read_volume(path), nib.load(path)
        np.testing.assert_allclose(volume.geometry.affine, peer.affine, atol=1e-3, err_msg=path.name)
        expected = np.asanyarray(peer.dataobj)
        np.testing.assert_array_equal(volume.data[0], expected.astype(volume.data.dtype), err_msg=path.name)
        assert volume.data.dtype == expected.dtype or expected.dtype == np.float64


def test_a_quaternion_near_a_half_turn_may_round_without_a_conflict(tmp_path: Path) -> None:
    """float32 quaternions of a nearly LPS grid are wrong by 0.02 degrees; a long scan is still one scan."""
    affine = nib.affines.from_matvec(
        Rotation.from_euler("zx", [179.99, 0.01], degrees=True).as_matrix() * [0.4, 0.4, 1.0]
    )
    image = nib.Nifti1Image(np.broadcast_to(np.arange(600, dtype=np.int16)[:, None, None], (600, 600, 3)), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, tmp_path / "scan.nii")
    assert read_volume(tmp_path / "scan.nii").warnings == ()


def test_pixdim_0_of_zero_counts_as_one_in_a_lone_qform(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(encoded(pixdim_0=0, sform_code=0))
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").geometry.affine, OBLIQUE, atol=1e-4)


def test_a_stale_spacing_beside_a_lone_sform_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(encoded(pixdim_3=1.0, qform_code=0))
    with pytest.raises(GeometryError, match=r"pixdim.*sform"):
        read_volume(tmp_path / "scan.nii")


def test_without_a_form_the_grid_is_that_of_nibabel_and_a_warning_says_so(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(encoded(sform_code=0, qform_code=0))
    volume = read_volume(tmp_path / "scan.nii")
    np.testing.assert_allclose(volume.geometry.affine, nib.load(tmp_path / "scan.nii").affine)
    assert "no orientation" in volume.warnings[0]


def test_channels_keep_their_order(tmp_path: Path) -> None:
    data = np.stack([scan(), scan() + 1, scan() + 2], 3)
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(encoded(data)))
    volume = read_volume(tmp_path / "scan.nii.gz", channels=3)
    np.testing.assert_array_equal(volume.data, np.moveaxis(data, 3, 0))


@pytest.mark.parametrize(
    ("dtype", "slope", "kept"), [("i2", 1, "i2"), ("i2", 0.5, "f4"), ("f4", 1, "f4"), ("f8", 1, "f4")]
)
def test_scaled_and_wider_intensities_become_float32(dtype: str, slope: float, kept: str, tmp_path: Path) -> None:
    data = scan(dtype=dtype)
    (tmp_path / "scan.nii").write_bytes(encoded(data, scl_slope=slope, scl_inter=-3 if slope != 1 else 0))
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.data.dtype == np.dtype(kept)
    np.testing.assert_allclose(volume.data[0], data * slope - (3 if slope != 1 else 0), rtol=1e-6)


def test_more_voxels_than_the_limit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(encoded())
    with pytest.raises(DataError, match=r"too large.*7680 voxels"):
        read_volume(tmp_path / "scan.nii", options=ReadOptions(max_voxels=7679))
    assert read_nifti(tmp_path / "scan.nii", max_voxels=7680).data.size == 7680


def test_a_little_zero_padding_is_no_trailing_data(tmp_path: Path) -> None:
    for name, content in (("a.nii", encoded()), ("b.nii.gz", encoded())):
        for tail, accepted in ((bytes(16), True), (bytes(17), False), (b"x", False)):
            whole = content + tail
            (tmp_path / name).write_bytes(gzip.compress(whole) if name.endswith("gz") else whole)
            if accepted:
                assert read_volume(tmp_path / name).geometry.shape == SHAPE
            else:
                with pytest.raises(DataError, match="trailing"):
                    read_volume(tmp_path / name)


@pytest.mark.parametrize(("header", "image"), [("s.hdr", "s.img"), ("S.HDR", "S.IMG"), ("s.Hdr", "s.Img")])
def test_a_pair_is_found_from_either_file_in_any_letter_case(header: str, image: str, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(scan(), STRAIGHT), tmp_path / "made.img")
    (tmp_path / "made.hdr").rename(tmp_path / header)
    (tmp_path / "made.img").rename(tmp_path / image)
    for name in (header, image):
        np.testing.assert_allclose(read_volume(tmp_path / name).geometry.to_world(MARKER), at(STRAIGHT))


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(scan(), STRAIGHT), tmp_path / "s.img")
    (tmp_path / "s.img").unlink()
    with pytest.raises(DataError, match=r"\.img was not found"):
        read_volume(tmp_path / "s.hdr")


def test_one_flipped_bit_in_a_gzip_never_changes_what_is_read(tmp_path: Path) -> None:
    content = gzip.compress(encoded(), 1, mtime=0)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        (tmp_path / "scan.nii.gz").write_bytes(flipped)
        try:
            volume = read_volume(tmp_path / "scan.nii.gz")
        except MedsegError:
            refused += 1
        else:  # the time or the system byte of the gzip header
            np.testing.assert_array_equal(volume.data[0], scan())
    assert refused >= 295


def test_a_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    for name, content in (("scan.nii", encoded()), ("scan.nii.gz", gzip.compress(encoded(), 1))):
        for length in np.linspace(0, len(content) - 1, 60).astype(int):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(DataError):
                read_volume(tmp_path / name)


@pytest.mark.parametrize("seed", range(4))
def test_a_mutated_header_is_refused_or_read_as_nibabel_reads_it(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    path = tmp_path / "scan.nii"
    bases = [
        encoded(),
        encoded(kind=nib.Nifti2Image),
        big_endian(),
        encoded(qform_code=0),
        encoded(sform_code=0),
        four_d(2),
    ]
    compared = 0
    for n in range(500):
        mutant = bytearray(bases[n % len(bases)])
        for _ in range(rng.integers(1, 4)):
            mutant[rng.integers(0, 560)] = rng.integers(0, 256)
        path.write_bytes(mutant)
        try:
            volume = read_volume(path)
        except MedsegError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                peer = nib.load(path)
            except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError):
                continue
        corners = np.array([[*corner, 1.0] for corner in product(*((0, size) for size in volume.geometry.shape))])
        assert np.abs(corners @ (peer.affine - volume.geometry.affine).T).max() < 0.01
        assert peer.shape[:3] == volume.geometry.shape
        compared += 1
    assert compared > 100
