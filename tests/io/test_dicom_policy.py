"""Every kind of DICOM input in the policy is either read to the right place or refused by name."""

import time
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.io.dicom import read_dicom
from tests.io import bad_dicom, bad_dicom_file, bad_dicom_series

KINDS = bad_dicom_series.KINDS | bad_dicom_file.KINDS
GOOD = sorted(name for name, kind in KINDS.items() if kind.marker)
BAD = sorted(name for name, kind in KINDS.items() if kind.hints)
SECRETS = ("PID-", "Secret", "Other^Name", "evil")
SAYS_SO = {  # what must be named among the warnings
    "d-duplicate-file": "copy",
    "d-localizer-own-series": "localizer",
    "d-junk-beside": "notes.txt",
    "d-sr-beside": "SR",
    "d-gantry-tilt": "gantry tilt",
}


def test_every_row_of_the_policy_has_a_builder() -> None:
    assert len(GOOD) + len(BAD) == 75


@pytest.mark.parametrize("name", GOOD)
def test_a_good_series_lies_in_the_right_place(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    kind.build(tmp_path / "scan")
    volume = read_dicom(tmp_path / "scan").volume
    assert volume.data.shape == (1, bad_dicom.COLUMNS, bad_dicom.ROWS, bad_dicom.SLICES)
    brightest = np.unravel_index(volume.data[0].argmax(), volume.geometry.shape)
    assert volume.data[0][brightest] > 700
    assert volume.geometry.to_world(brightest) == pytest.approx(kind.marker, abs=0.01)
    expected = bad_dicom.intensities().transpose(2, 1, 0)
    values = volume.data[0] if name != "d-feet-first" else volume.data[0][:, :, ::-1]
    np.testing.assert_allclose(values, expected, atol=0.2 if name == "d-slope-per-slice" else 0)
    assert SAYS_SO.get(name, "") in " ".join(volume.warnings)
    if name not in SAYS_SO:
        assert volume.warnings == ()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_series_is_refused_by_name(name: str, tmp_path: Path) -> None:
    KINDS[name].build(tmp_path / "scan")
    start = time.perf_counter()
    with pytest.raises(DataError) as refused:
        read_dicom(tmp_path / "scan")
    assert time.perf_counter() - start < 20  # a machine may be busy; what hangs takes minutes
    message = str(refused.value)
    assert str(tmp_path / "scan") in message
    assert "\n" not in message
    said = message.replace(str(tmp_path), "").lower()
    for group in KINDS[name].hints:
        assert any(word in said for word in group), message
    assert not any(secret in message for secret in SECRETS), message
