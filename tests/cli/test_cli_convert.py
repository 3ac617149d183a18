"""medseg convert as typed: one line on stdout, notes and errors on stderr, the right exit code."""

import numpy as np
import pytest

from medseg.cli.app import run
from tests.models.tiny_model import texture, write_scan


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_scan(tmp_path / "a.nii.gz")
    return tmp_path


def test_one_line_says_what_was_written(here, capsys):
    assert run(["convert", "a.nii.gz", "b.nrrd"]) == 0
    out, err = capsys.readouterr()
    assert out == "b.nrrd: 14x12x10 voxels, 1 x 1.5 x 2 mm, RAS, int16\n"
    assert err == ""


def test_a_slash_or_no_suffix_means_a_dicom_folder(here, capsys):
    for name in ("series", "visit 1.2/"):
        assert run(["convert", "a.nii.gz", name, "--modality", "MR"]) == 0
        assert len(list((here / name).glob("*.dcm"))) == 10
        assert capsys.readouterr().out.startswith(f"{name.rstrip('/')}: 14x12x10 voxels")
    assert run(["convert", "visit 1.2", "b.nii.gz"]) == 0


def test_notes_go_to_stderr(here, capsys):
    write_scan(here / "f.nii", np.sqrt(texture().astype(float) ** 2 + 1))
    assert run(["convert", "f.nii", "series", "--modality", "CT"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert err.startswith("note: rounded to 16 bits")


def test_channels_are_asked_for(here, capsys):
    write_scan(here / "b.nii")
    assert run(["convert", "a.nii.gz", "b.nii", "both.nii"]) == 2
    assert "--channels" in capsys.readouterr().err
    assert run(["convert", "a.nii.gz", "b.nii", "both.nii", "--channels"]) == 0
    assert "2 channels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("a.nii.gz", 2, "OUT"),
        ("a.nii.gz b.xyz", 2, "unknown suffix"),
        ("a.nii.gz b.jpg", 2, "unknown suffix"),
        ("a.nii.gz series", 2, "--modality"),
        ("none.nii b.nii", 3, "not found"),
        ("a.nii.gz b.png", 3, "one axial slice"),
        ("a.nii.gz b.nii --max-voxels 10", 3, "limit is 10"),
        ("a.nii.gz a.nii.gz", 4, "the scan itself"),
        ("a.nii.gz a.nii.gz/b.nii", 4, "a.nii.gz"),
    ],
)
def test_a_mistake_has_its_exit_code_and_leaves_nothing(line, code, words, here, capsys):
    assert run(["convert", *line.split()]) == code
    assert words in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == ["a.nii.gz"]
