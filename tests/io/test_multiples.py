"""Integers times a slope in float32: found again to the last bit, or not at all."""

import nibabel as nib
import numpy as np
import pytest

from medseg.io.multiples import as_multiples


@pytest.mark.parametrize("slope", [0.1, 5.95897007, 0.00123456, 1 / 3, 2.5])
@pytest.mark.parametrize(("low", "high"), [(-300, 2000), (0, 65535), (-32768, 32767)])
def test_integers_times_a_slope_are_found_again(slope, low, high):
    counts = np.random.default_rng(0).integers(low, high, (20, 30, 9), endpoint=True)
    values = (counts * slope).astype(np.float32)
    found = as_multiples(values)
    assert found is not None
    np.testing.assert_array_equal((found[0] * np.float64(found[1])).astype(np.float32), values)


def test_anything_else_is_left_alone():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 900, (9, 8, 7))
    off = (counts * 0.1).astype(np.float32)
    off[3, 3, 3] += np.float32(0.01)
    wide = (rng.integers(0, 200_000, (9, 8, 7)) * 0.1).astype(np.float32)
    for values in (
        rng.normal(size=(9, 8, 7)).astype(np.float32),
        off,
        wide,
        np.ones((9, 8, 7), np.float32),
        counts * 0.1,
    ):
        assert as_multiples(values) is None


def test_nearly_all_real_scaled_scans_are_multiples(real_data):
    found = []
    for path in sorted((real_data / "Task04_Hippocampus" / "imagesTr").glob("*.nii.gz")):
        values = np.asanyarray(nib.load(path).dataobj)
        if values.dtype == np.float32 and (values % 1).any():
            found.append(as_multiples(values) is not None)
    assert len(found) == 170
    assert np.count_nonzero(found) >= 165
