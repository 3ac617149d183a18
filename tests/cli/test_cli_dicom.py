"""medseg dicom ls: what lies in a folder or archive, and what reading it would refuse."""

import json
from pathlib import Path

import pytest

from medseg.cli.app import run
from medseg.core.errors import MedsegError
from medseg.io import dicom_survey
from medseg.io.reading import read_volume
from medseg.io.scan import ReadOptions
from tests.io import bad_dicom as make
from tests.io import bad_dicom_series, bad_zip
from tests.io.test_dicom_policy import KINDS

NO_PROBLEM = ("d-only-sr", "d-rgb-sc", "d-two-series")  # no image of the patient; two good series
SECRETS = ("PID-SECRET", "Secret^Name", "Knee of Mr Secret")


def study(folder: Path) -> None:
    """A good series, a tilted one, one with a slice missing, a scout, a report and a text file."""
    make.every(SeriesDescription="Knee of Mr Secret")(folder / "good")
    make.good(folder / "tilted", number=101, step=(0, 0.5, 2.0))
    make.changed(lambda datasets: datasets[:4] + datasets[5:], number=102)(folder / "gap")
    make.save([bad_dicom_series.scout(103)], folder / "scout")
    make.save([bad_dicom_series.report()], folder, names=lambda n: "report")
    (folder / "notes.txt").write_text("scanned on Monday\n")


def listed(place: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict:
    assert run(["dicom", "ls", str(place), "--json", *options]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert not any(secret in shown.out for secret in SECRETS) or options
    return json.loads(shown.out)


def test_every_series_has_its_geometry_and_its_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path)
    found = listed(tmp_path, capsys)
    (only,) = found["studies"]
    good, tilted, gap, scout = only["series"]
    assert only["study"] == make.uid(1)
    assert [one["number"] for one in only["series"]] == [1, 2, 3, 4]
    assert good["series"] == make.uid(100)
    assert good["spacing_mm"] == pytest.approx([make.COLUMN_MM, make.ROW_MM, make.SLICE_MM])
    assert (good["modality"], good["slices"], good["size"]) == ("CT", make.SLICES, [make.COLUMNS, make.ROWS])
    assert (good["orientation"], good["tilt_degrees"], good["problem"]) == ("LPS", 0.0, "")
    assert good["syntaxes"] == ["Explicit VR Little Endian"]
    assert tilted["tilt_degrees"] == 14.0
    assert tilted["problem"] == ""
    assert "not uniform: 4 mm between gap/IM0004.dcm and gap/IM0005.dcm" in gap["problem"]
    assert gap["spacing_mm"] is None
    assert scout["is_scout"]
    assert found["set_aside"] == [
        "set aside, Basic Text SR Storage (1): report",
        "set aside, not DICOM (1): notes.txt",
    ]
    assert found["damaged"] == []


@pytest.mark.parametrize("name", sorted(name for name, kind in KINDS.items() if kind.hints and name not in NO_PROBLEM))
def test_a_problem_is_the_very_error_of_reading(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KINDS[name].build(tmp_path)
    found = listed(tmp_path, capsys)
    with pytest.raises(MedsegError) as refused:
        read_volume(tmp_path)
    problems = [one["problem"] for study in found["studies"] for one in study["series"]]
    assert str(refused.value) in [*problems, *found["damaged"]]
    assert all(problems)


def test_the_number_in_the_list_chooses_the_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path)
    numbers = {one["orientation"]: one["number"] for one in listed(tmp_path, capsys)["studies"][0]["series"][:2]}
    volume = read_volume(tmp_path, options=ReadOptions(series="2"))
    assert numbers["LPS"] == 2
    assert volume.geometry.is_sheared


def test_free_text_is_shown_only_where_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path)
    assert run(["dicom", "ls", str(tmp_path)]) == 0
    assert not any(secret in capsys.readouterr().out for secret in SECRETS)
    assert run(["dicom", "ls", str(tmp_path), "--descriptions"]) == 0
    assert "Knee of Mr Secret" in capsys.readouterr().out
    described = listed(tmp_path, capsys, "--descriptions")["studies"][0]["series"]
    assert [one["description"] for one in described] == ["Knee of Mr Secret", "", "", ""]


def test_the_table_fits_a_screen_of_eighty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path)
    assert run(["dicom", "ls", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("│")]
    assert [row.split("│")[-2].strip() for row in rows] == ["yes", "yes", "no", "aside"]
    assert max(map(len, rows)) <= 80
    assert sum("refused:" in line for line in lines) == 2  # the gap, and the scout if it were asked for
    assert not any(line != line.rstrip() for line in lines)


def test_an_archive_is_listed_by_the_names_of_its_members(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = bad_zip.slices(tmp_path) | {"notes.txt": b"hello", "older.zip": b"PK"}
    del members["study/IM0005.dcm"]
    (tmp_path / "scan.zip").write_bytes(bad_zip.packed(members))
    found = listed(tmp_path / "scan.zip", capsys)
    problem = found["studies"][0]["series"][0]["problem"]
    assert problem.startswith(f"{tmp_path}/scan.zip: ")
    assert "between study/IM0004.dcm and study/IM0006.dcm" in problem
    assert found["set_aside"] == [
        "ignored, archive inside the archive (1): older.zip",
        "set aside, not DICOM (1): notes.txt",
    ]


@pytest.mark.parametrize("what", ["nothing", "text", "report", "archive", "missing"])
def test_a_place_without_a_series_ends_with_3(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "place"
    if what != "missing":
        place.mkdir()
    if what == "text":
        (place / "a.txt").write_text("hello")
    if what == "report":
        make.save([bad_dicom_series.report()], place)
    if what == "archive":
        place = tmp_path / "scan.zip"
        place.write_bytes(bad_zip.packed({"a.txt": b"hello"}))
    assert run(["dicom", "ls", str(place)]) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"medseg: error: {place}: no ")


def test_each_header_is_read_once_and_no_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study(tmp_path)
    seen = []
    read_header = dicom_survey.read_header
    monkeypatch.setattr(dicom_survey, "read_header", lambda path: seen.append(path) or read_header(path))
    monkeypatch.setattr("medseg.io.dicom_pixels.filled", lambda *given: pytest.fail("a pixel was read"))
    listed(tmp_path, capsys)
    assert len(seen) == len(set(seen)) == 37


def test_real_series_are_listed(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(real_data / "dicom_qa" / "must_refuse_or_handle", capsys)
    by_tilt = {one["tilt_degrees"]: one for study in found["studies"] for one in study["series"]}
    assert set(by_tilt) == {None, 0.0, 14.0}
    assert "10 mm between" in by_tilt[None]["problem"]
    assert "only two slices" in by_tilt[0.0]["notes"][0]
