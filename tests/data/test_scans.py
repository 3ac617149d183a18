"""What a cohort is made of: folders, tables and patterns, each case with a name of its own."""

from pathlib import Path

import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.data.scans import as_cases, find_scans, is_many

OUT = Path("out")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(*names):
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(128) + b"DICM" if path.suffix in ("", ".dcm") else b"x")


def cases(*given, channels=("",)):
    found = find_scans([Path(one) for one in given], output=OUT)
    return {case.name: [str(file) for file in case.files] for case in as_cases(found, channels)}


def problems(*given, channels):
    found = find_scans([Path(one) for one in given], output=OUT)
    return {case.name: case.problem for case in as_cases(found, channels) if case.problem}


def test_a_folder_gives_every_image_and_every_dicom_folder_by_its_path(here):
    make("d/b.nii.gz", "d/a.mha", "d/p1/t1.nrrd", "d/p2/t1.png", "d/p3/ct/1.dcm", "d/p3/ct/2.dcm", "d/p3/pet/IM0001")
    make("d/notes.txt", "d/.hidden.nii.gz", "d/x.hdr", "d/x.img")
    assert cases("d") == {
        "a": ["d/a.mha"],
        "b": ["d/b.nii.gz"],
        "p1/t1": ["d/p1/t1.nrrd"],
        "p2/t1": ["d/p2/t1.png"],
        "p3/ct": ["d/p3/ct"],
        "p3/pet": ["d/p3/pet"],
        "x": ["d/x.hdr"],
    }


@pytest.mark.parametrize(
    ("files", "many"),
    [
        (["d/1.dcm", "d/2.dcm"], False),
        (["d/1.dcm", "d/more/2.dcm"], False),
        (["d/deep/series/1.dcm", "d/readme.txt"], False),
        (["d/damaged.txt"], False),
        (["d/one/1.dcm", "d/two/1.dcm"], True),
        (["d/a.nii.gz"], True),
        (["d/a/b/c.png"], True),
    ],
)
def test_one_dicom_folder_is_one_scan_as_ever(here, files, many):
    make(*files)
    assert is_many(Path("d")) is many
    if not many:
        assert cases("d") == {"d": ["d"]}


def test_what_medseg_wrote_and_links_to_folders_are_left_out_and_said(here):
    make("d/a.nii.gz", "d/a_seg.nii.gz", "d/gone_seg.nii.gz", "d/gone_seg.json", "d/a.seg.nrrd", "d/my_seg.nii.gz")
    make("d/old/journal.sqlite", "d/old/z_seg.nii.gz", "d/out/y_seg.nii.gz", "elsewhere/q.nii.gz")
    Path("d/link").symlink_to(Path("elsewhere").absolute())
    Path("d/file_link.nii.gz").symlink_to(Path("elsewhere/q.nii.gz").absolute())
    found = find_scans([Path("d")], output=Path("d/out"))
    assert [name for name, _ in found.scans] == ["a", "file_link", "my"]
    said = "\n".join(found.notes)
    for words in ("a_seg.nii.gz: a label", "gone_seg.nii.gz: a label", "a.seg.nrrd: a label", "d/old: the output"):
        assert words in said
    assert "d/out: the output" in said
    assert "d/link: a link to a folder, not followed" in said


def test_a_pattern_names_cases_from_its_first_wildcard_on(here):
    make("d/p1/t1.nii.gz", "d/p1/t2.nii.gz", "d/p2/t1.nii.gz", "d/p2/s/1.dcm", "d/p3/notes.txt")
    assert cases("d/*/t1.nii.gz") == {"p1/t1": ["d/p1/t1.nii.gz"], "p2/t1": ["d/p2/t1.nii.gz"]}
    assert cases("d/p[12]/*") == {
        **{f"{p}/t1": [f"d/{p}/t1.nii.gz"] for p in ("p1", "p2")},
        **{"p1/t2": ["d/p1/t2.nii.gz"], "p2/s": ["d/p2/s"]},
    }
    assert cases("**/t2.nii.gz") == {"d/p1/t2": ["d/p1/t2.nii.gz"]}
    with pytest.raises(DataError, match="no scan matches"):
        cases("d/*.mha")


def test_a_table_names_cases_and_its_paths_start_at_it(here):
    make("t/x/a.nii.gz", "t/x/b.nii.gz")
    Path("t/list.csv").write_text("case,image,age\none,x/a.nii.gz,3\n,x/b.nii.gz,4\n")
    assert cases("t/list.csv") == {"one": ["t/x/a.nii.gz"], "b": ["t/x/b.nii.gz"]}
    Path("t/two.csv").write_text("id,T2,ADC\np,x/a.nii.gz,x/b.nii.gz\nq,x/a.nii.gz,\n")
    assert cases("t/two.csv", channels=("ADC", "T2"))["p"] == ["t/x/b.nii.gz", "t/x/a.nii.gz"]
    assert "line 3: ADC is empty" in problems("t/two.csv", channels=("ADC", "T2"))["q"]
    with pytest.raises(DataError, match="no column `image`, or one for each channel: T1, T2; found: id, T2, ADC"):
        cases("t/two.csv", channels=("T1", "T2"))


@pytest.mark.parametrize("name", ["../a", "a/b", "..", "a\\b"])
def test_a_table_cannot_name_a_place_elsewhere(here, name):
    Path("list.csv").write_text(f"case,image\n{name},a.nii.gz\n")
    with pytest.raises(DataError, match=r"line 2: case .* cannot name a file"):
        cases("list.csv")


def test_channel_files_are_one_case_for_a_model_of_several_channels_only(here):
    make("d/a_0000.nii.gz", "d/a_0001.nii.gz", "d/s/a_0000.nii.gz", "d/s/a_0001.nii.gz", "d/four.nii.gz")
    assert cases("d", channels=("T1", "T2")) == {
        "a": ["d/a_0000.nii.gz", "d/a_0001.nii.gz"],
        "four": ["d/four.nii.gz"],
        "s/a": ["d/s/a_0000.nii.gz", "d/s/a_0001.nii.gz"],
    }
    assert "a_0000" in cases("d")
    make("e/b_0000.nii.gz", "e/c_0000.nii.gz", "e/c_0001.nii.gz", "e/c_0002.nii.gz")
    told = problems("e", channels=("T1", "T2"))
    assert "channel b_0001 is missing" in told["b"]
    assert "channel c_0002 is more than the 2 channels" in told["c"]


def test_names_that_clash_are_refused(here):
    make("d/a.nii.gz", "e/A.mha")
    with pytest.raises(ConfigError, match=r"d/a\.nii\.gz and e/A\.mha would both be case 'A'"):
        cases("d", "e")
    with pytest.raises(ConfigError, match="would both be case"):
        cases("d", "d/a.nii.gz")


def test_a_place_without_scans_is_told(here):
    make("d/a_seg.nii.gz", "d/a_seg.json", "d/b.seg.nrrd", "d/s/1.dcm")
    assert not is_many(Path("d"))
    with pytest.raises(DataError, match=r"e\*: no scan matches"):
        cases("e*")
