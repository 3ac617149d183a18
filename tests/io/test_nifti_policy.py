"""Each kind of NIfTI file in the policy on bad input: refused with the right words, or read into the right place."""

import re
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.io.reading import read_volume
from tests.io.bad_nifti import KINDS
from tests.io.made_nifti import Kind

BAD = {name: kind for name, kind in KINDS.items() if kind.expected == "error"}
GOOD = {name: kind for name, kind in KINDS.items() if kind.expected != "error"}


def missing_hints(message: str, hint: str) -> list[str]:
    """The groups of ``hint`` of which the message holds no word."""
    return [group for group in hint.split("; ") if not re.search(group.replace("/", "|"), message, re.IGNORECASE)]


@pytest.mark.parametrize(("name", "kind"), BAD.items(), ids=BAD)
def test_a_bad_file_is_refused_in_words(name: str, kind: Kind, tmp_path: Path) -> None:
    path = kind.make(tmp_path).path
    start = time.process_time()
    with pytest.raises(DataError) as caught:
        read_volume(path, channels=1)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert not missing_hints(message.removeprefix(str(path)), kind.hint), message
    assert time.process_time() - start < 10


@pytest.mark.parametrize(("name", "kind"), GOOD.items(), ids=GOOD)
def test_an_odd_but_valid_file_is_read_in_the_right_place(name: str, kind: Kind, tmp_path: Path) -> None:
    made = kind.make(tmp_path)
    volume = read_volume(made.path, channels=1)
    peer = nib.load(made.path)
    if name != "n-qfac-zero":  # nibabel has no qform for pixdim[0] = 0
        np.testing.assert_allclose(volume.geometry.affine, peer.affine, atol=1e-3)
    np.testing.assert_array_equal(volume.data[0], np.asanyarray(peer.dataobj).reshape(volume.geometry.shape))
    assert volume.data.dtype.isnative
    assert (kind.expected == "warn" or name == "n-one-voxel") == bool(volume.warnings)
    if made.marker_mm is not None:
        brightest = np.unravel_index(volume.data[0].argmax(), volume.geometry.shape)
        assert np.linalg.norm(volume.geometry.to_world(brightest) - made.marker_mm) < 0.5


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """All in one process, whose peak is that of the worst."""
    names = ("n-bomb-dims", "n-bomb-tail", "n-dim-huge-nii", "n-dim-huge-niigz")
    for name in names:
        (tmp_path / name).mkdir()
    paths = [str(KINDS[name].make(tmp_path / name).path) for name in names]
    code = (
        "import sys; from pathlib import Path\n"
        "from medseg.io.reading import read_volume\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_volume(Path(path)); error = None\n"
        "    except Exception as caught: error = type(caught).__name__\n"
        # Not ru_maxrss: that begins with the size of the process that forked this one.
        "    peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')][0]\n"
        "    print(error, int(peak.split()[1]) // 1024)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=60, check=True
    )
    found = [line.split() for line in result.stdout.splitlines()]
    assert [error for error, _ in found] == ["DataError"] * len(names)
    assert max(int(mebibytes) for _, mebibytes in found) < 400, dict(zip(names, found, strict=True))
