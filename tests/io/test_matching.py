import pytest

from medseg.core.errors import DataError
from medseg.io.matching import match_files


@pytest.fixture
def folder(tmp_path):
    def _folder(where, *names):
        (tmp_path / where).mkdir()
        for name in names:
            (tmp_path / where / name).write_bytes(b"x")
        return tmp_path / where

    return _folder


def test_suffix_and_trailing_seg_do_not_matter(folder):
    pairs, skipped = match_files(
        folder("p", "a_seg.nii.gz", "b.MHA", "c_seg.hdr", "c_seg.img"), folder("r", "b.nrrd", "a.nii", "c.nii")
    )
    assert [(p.id, p.prediction.name, p.reference.name) for p in pairs] == [
        ("a", "a_seg.nii.gz", "a.nii"),
        ("b", "b.MHA", "b.nrrd"),
        ("c", "c_seg.hdr", "c.nii"),
    ]
    assert skipped == {}


def test_both_unicode_forms_of_a_name_are_one_case(folder):
    pairs, _ = match_files(folder("p", "cafe\u0301.nii"), folder("r", "caf\u00e9.nii"))
    assert [p.id for p in pairs] == ["caf\u00e9"]
    with pytest.raises(DataError, match="duplicate"):
        match_files(folder("q", "cafe\u0301.nii", "caf\u00e9.nii"), folder("s", "caf\u00e9.nii"))


def test_cases_without_a_partner_come_with_the_message_that_says_so(folder):
    pairs, skipped = match_files(folder("p", "a.nii", "b.nii"), folder("r", "b.nii", "c.nii", "d.nii"))
    assert [p.id for p in pairs] == ["b"]
    assert sorted(skipped) == ["a", "c", "d"]
    assert "reference missing for 1 of 2 case(s): a" in skipped["a"]
    assert "prediction missing for 2 of 3 case(s): c, d" in skipped["c"]


def test_hidden_files_folders_and_pictures_are_no_label_maps(folder):
    references = folder("r", "a.nii", "._b.nii", "b.jpg", "c.png", "scores.csv", "a_seg.json")
    (references / "more.nii.gz").mkdir()
    pairs, skipped = match_files(folder("p", "a.nii"), references)
    assert ([p.id for p in pairs], skipped) == (["a"], {})


def test_a_folder_of_nothing_but_pictures_holds_2d_label_maps(folder):
    pairs, skipped = match_files(folder("p", "a.png", "b.tif"), folder("r", "a.png", "b.png", "b.jpg"))
    assert ([(p.id, p.prediction.name) for p in pairs], skipped) == ([("a", "a.png"), ("b", "b.tif")], {})


def test_a_file_asks_for_its_own_case_only(folder):
    references = folder("r", "a.nii", "b.nii")
    pairs, skipped = match_files(folder("p", "a_seg.nii") / "a_seg.nii", references)
    assert ([p.id for p in pairs], skipped) == (["a"], {})
    pairs, skipped = match_files(folder("q", "z.nii") / "z.nii", references)
    assert pairs == []
    assert "reference missing" in skipped["z"]


def test_a_name_with_a_line_break_stays_on_one_line(folder):
    _, skipped = match_files(folder("p", "a\nb.nii", "c.nii"), folder("r", "c.nii"))
    assert "a\\nb" in skipped["a\\nb"]
    assert "\n" not in skipped["a\\nb"]


def test_a_dangling_link_is_a_case_so_that_reading_it_can_fail_by_name(folder):
    predictions = folder("p")
    (predictions / "a.nii").symlink_to("nowhere")
    pairs, _ = match_files(predictions, folder("r", "a.nii"))
    assert [p.id for p in pairs] == ["a"]


def test_the_same_place_twice_is_refused_also_through_a_link(folder, tmp_path):
    references = folder("r", "a.nii")
    (tmp_path / "link").symlink_to(references)
    with pytest.raises(DataError, match=r"same folder.*identical"):
        match_files(tmp_path / "link", references)
    with pytest.raises(DataError, match="same file"):
        match_files(references / "a.nii", references / "a.nii")


def test_missing_and_empty_folders_are_named(folder, tmp_path):
    references = folder("r", "a.nii")
    with pytest.raises(DataError, match="none: not found; give the file or folder of the predictions"):
        match_files(tmp_path / "none", references)
    with pytest.raises(DataError, match="no images in this folder: it is empty"):
        match_files(folder("p", "notes.txt", "a.jpg"), references)
