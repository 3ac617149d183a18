"""Copies of one scan are found whatever was done to them; different scans are never taken for one."""

import numpy as np
import pytest
from scipy import ndimage

from medseg.data.likeness import alike, look_of
from medseg.io.reading import read_volume


def scan(seed: int, shape=(48, 40, 36)) -> np.ndarray:
    """Smooth lumps with noise: int16, like soft tissue in CT."""
    random = np.random.default_rng(seed)
    lumps = ndimage.gaussian_filter(random.normal(0, 1, shape), 3) * 900
    return (lumps + random.normal(0, 12, shape)).astype(np.int16)


WHOLE = scan(0)
COPIES = {
    "another type": WHOLE.astype(np.float32),
    "a constant added": WHOLE + 1024,
    "some slices": WHOLE[:, :, 10:22],
    "a box": WHOLE[10:40, 5:35, 4:30],
    "mirrored": WHOLE[::-1],
    "padded": np.pad(WHOLE, 9, constant_values=-1000),
    "one slice changed": np.concatenate([WHOLE[:, :, :-1], WHOLE[:, :, -1:] + 5], axis=2),
    "resampled coarser": ndimage.zoom(WHOLE.astype(np.float32), (0.7, 0.8, 0.75), order=1),
    "resampled finer": ndimage.zoom(WHOLE.astype(np.float32), (1.3, 1.5, 1.2), order=3),
    "rescaled": WHOLE * 0.37 + 11,
    "noisier": WHOLE + np.random.default_rng(9).normal(0, 20, WHOLE.shape),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_found(copy):
    (found,) = alike([look_of(scan(1)), look_of(WHOLE), look_of(scan(2)), look_of(copy)])
    assert (found.first, found.second) == (1, 3)


def test_the_part_is_what_was_kept_of_the_smaller_image():
    first = np.concatenate([WHOLE[:, :, :18], scan(5)[:, :, 18:]], axis=2)  # half of it is another scan
    (found,) = alike([look_of(WHOLE), look_of(first)])
    assert found.part == pytest.approx(0.5, abs=0.1)


def test_different_scans_are_not_alike():
    assert alike([look_of(scan(n)) for n in range(12)]) == []


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((20, 20, 20)),
        np.zeros((2, 1, 1)),
        np.arange(30.0).reshape(30, 1, 1),
        np.tile([0, 100], 4000).reshape(20, 20, 20),
        np.add.outer(np.add.outer(np.arange(20), np.arange(20)), np.arange(20)),
    ],
    ids=["constant", "two voxels", "a line", "stripes", "a ramp"],
)
def test_images_without_content_share_no_voxels_that_could_prove_anything(image):
    found = alike([look_of(image.astype(np.float32)), look_of(image[1:].astype(np.float32) + 1)])
    assert [one for one in found if one.how == "voxels"] == []


def test_bodies_of_one_size_without_noise_are_not_taken_for_one_scan():
    index = np.stack(np.meshgrid(*(np.arange(40),) * 3, indexing="ij"), -1)
    balls = [np.where(np.linalg.norm(index - [16 + n, 20, 18 + 2 * n], axis=-1) < 11, 100, -1000) for n in range(3)]
    assert [one for one in alike([look_of(ball) for ball in balls]) if one.how == "voxels"] == []


def test_of_208_hippocampi_no_two_are_alike(real_data):
    files = sorted((real_data / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz"))
    assert len(files) == 208
    assert alike([look_of(read_volume(file).data[0]) for file in files]) == []


def test_the_short_scan_is_known_as_part_of_the_long_one(real_data):
    files = [real_data / "totalseg_ct" / "images" / f"{name}.nii.gz" for name in ("ct_abdpelvis", "ct_sm", "mr_sm")]
    (found,) = alike([look_of(read_volume(file).data[0]) for file in files])
    assert (found.first, found.second, found.how) == (0, 1, "voxels")
    assert found.part > 0.9
