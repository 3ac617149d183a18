"""MetaImage, NRRD and pictures, and odd paths: each kind of the policy is refused in words or read in the right place."""

import re
from pathlib import Path

import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.io.reading import open_scan, read_volume
from tests.io.bad_raster import PATHS, RASTER
from tests.io.made_nifti import Kind

KINDS = RASTER | PATHS
PICTURES = ("r-png", "r-jpg")  # read for 2D models; a 3D model refuses them
BAD = {name: kind for name, kind in KINDS.items() if kind.expected == "error" and name not in PICTURES}
GOOD = {name: kind for name, kind in KINDS.items() if kind.expected == "ok"}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", BAD.values(), ids=BAD)
def test_a_bad_file_or_path_is_refused_in_words(kind: Kind, tmp_path: Path) -> None:
    path = kind.make(tmp_path).path
    with pytest.raises(DataError) as caught:
        read_volume(path, channels=1)
    message = str(caught.value)
    assert "\n" not in message
    words = message.replace(str(path), "")
    assert re.search(kind.hint.replace("/", "|"), words, re.IGNORECASE), message


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_flat_so_that_a_3d_model_can_refuse_it(name: str, tmp_path: Path) -> None:
    with open_scan([RASTER[name].make(tmp_path).path]) as scan:
        assert scan.flat
        assert scan.volume.geometry.shape == (64, 64, 1)


@pytest.mark.parametrize("kind", GOOD.values(), ids=GOOD)
def test_a_valid_file_at_any_path_is_read_in_the_right_place(kind: Kind, tmp_path: Path) -> None:
    made = kind.make(tmp_path)
    volume = read_volume(made.path)
    brightest = np.unravel_index(volume.data[0].argmax(), volume.geometry.shape)
    assert np.linalg.norm(volume.geometry.to_world(brightest) - made.marker_mm) < 0.01
    assert volume.warnings == ()


def test_a_message_about_an_odd_path_stays_one_printable_line(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_volume(tmp_path / "two\nlines\udcff.nii.gz")
    assert r"two\nlines\udcff.nii.gz" in str(caught.value)
    str(caught.value).encode("utf-8")


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = PATHS["p-spaces"].make(tmp_path).path

    def forbidden(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("medseg.io.source.os.open", forbidden)  # as root nothing is forbidden
    with pytest.raises(DataError, match="permission denied"):
        read_volume(path)


def test_an_image_that_the_header_escapes_with_is_never_opened(tmp_path: Path) -> None:
    for name in ("r-mhd-escape", "r-mhd-absolute", "r-nrrd-escape"):
        folder = tmp_path / name
        folder.mkdir()
        path = RASTER[name].make(folder).path
        (folder / "secret.raw").unlink()  # opening it would now give another message
        with pytest.raises(DataError, match="outside"):
            read_volume(path)
