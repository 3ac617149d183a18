"""LAYOUTS: which cases lie in a dataset, and who is whose patient."""

import json
from pathlib import Path

import pytest

from medseg.core.case import patient_of
from medseg.core.config import DataConfig
from medseg.core.errors import DataError
from medseg.data.layouts import LAYOUTS, list_cases
from medseg.data.layouts.common import require_unique
from tests.data.tiny_dataset import tiny


def msd_of(root, **options):
    return DataConfig(layout="msd", root=root, **options)


def folder_of(root, **options):
    return DataConfig(layout="folder", images=root / "imagesTr", labels=root / "labelsTr", **options)


CONFIGS = {"msd": msd_of, "folder": folder_of}
every_layout = pytest.mark.parametrize("layout", CONFIGS)


def test_every_layout_has_its_config_here():
    assert set(CONFIGS) == set(LAYOUTS)


@every_layout
def test_cases_come_sorted_with_files_that_exist(tmp_path, layout):
    made = tiny(tmp_path)
    made.cases.reverse()
    made.finish()
    cases = list_cases(CONFIGS[layout](tmp_path))
    assert [case.id for case in cases] == ["case_00", "case_01", "case_02", "case_03"]
    for case in cases:
        assert case.patient == case.id
        assert [image.name for image in case.images] == [f"{case.id}.nii.gz"]
        assert case.images[0].is_file()
        assert case.reference is not None
        assert case.reference.is_file()


@every_layout
def test_group_names_the_patient(tmp_path, layout):
    tiny(tmp_path).finish()
    cases = list_cases(CONFIGS[layout](tmp_path, group=r"case_(\d)"))
    assert {case.patient for case in cases} == {"0"}
    with pytest.raises(DataError, match=r"case_00.*group"):
        list_cases(CONFIGS[layout](tmp_path, group=r"patient(\d)"))


def test_a_group_without_brackets_is_its_whole_match():
    assert patient_of("site3_p012_t2", r"p\d+") == "p012"
    assert patient_of("site3_p012_t2", r"_p(\d+)_t\d") == "012"


def test_a_folder_of_dicom_files_is_an_image(tmp_path):
    tiny(tmp_path)
    (tmp_path / "imagesTr" / "case_00.nii.gz").unlink()
    (tmp_path / "imagesTr" / "case_00").mkdir()
    assert list_cases(folder_of(tmp_path))[0].images[0].is_dir()


def test_labels_may_end_in_seg_and_have_another_suffix_and_hidden_files_are_none(tmp_path):
    tiny(tmp_path, 2)
    labels = tmp_path / "labelsTr"
    (labels / "case_00.nii.gz").rename(labels / "case_00_seg.nii.gz")
    (labels / "case_01.nii.gz").rename(labels / "case_01.NII.GZ")
    for name in ("._case_00.nii.gz", ".DS_Store"):
        (tmp_path / "imagesTr" / name).write_bytes(b"")
    (labels / "notes.txt").write_text("not a label")
    cases = list_cases(folder_of(tmp_path))
    assert [case.reference.name for case in cases] == ["case_00_seg.nii.gz", "case_01.NII.GZ"]


@pytest.mark.parametrize(
    "names", [("a", "a"), ("Scan", "scan"), ("M\u00fcller", "Mu\u0308ller"), ("\u00c9", "e\u0301")]
)
def test_ids_that_are_one_file_on_some_system_are_refused(tmp_path, names):
    with pytest.raises(DataError, match="duplicate case id"):
        require_unique(names, tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"[1, 2]", "no training cases"),
        (b'{"training": []}', "no training cases"),
        (b'{"training": ["a.nii.gz"]}', "needs `image` and `label`"),
        (b'{"training": [{"image": "a.nii.gz"}]}', "needs `image` and `label`"),
        (b"\xff\xfe{}", "JSON"),
        (b"[" * 100_000, "JSON"),
    ],
    ids=["empty", "list", "none", "text", "no label", "utf-16", "deep"],
)
def test_a_dataset_json_that_lists_nothing_is_refused_by_name(tmp_path, content, words):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        list_cases(msd_of(tmp_path))
    assert str(tmp_path / "dataset.json") in str(caught.value)


def test_a_byte_order_mark_is_accepted(tmp_path):
    tiny(tmp_path).finish()
    file = tmp_path / "dataset.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(list_cases(msd_of(tmp_path))) == 4


def test_what_the_config_names_and_is_not_there_is_named_with_its_key(tmp_path):
    with pytest.raises(DataError, match=r"data\.root"):
        list_cases(msd_of(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"no dataset\.json"):
        list_cases(msd_of(tmp_path))
    with pytest.raises(DataError, match=r"data\.images"):
        list_cases(folder_of(tmp_path))


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    tiny(tmp_path)
    real = Path.iterdir

    def barred(folder):  # and not chmod: root may read everything
        if folder.name == "imagesTr":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(Path, "iterdir", barred)
    with pytest.raises(DataError, match=r"imagesTr: this folder of images cannot be read \(Permission denied\)"):
        list_cases(folder_of(tmp_path))


def test_the_decathlons_own_hippocampus_set_is_read_whole(real_data):
    root = real_data / "Task04_Hippocampus"
    cases = list_cases(msd_of(root, group=r"_(\d+)\d$"))
    listed = json.loads((root / "dataset.json").read_text())["training"]
    assert len(cases) == len(listed) == 208
    assert len({case.patient for case in cases}) < len(cases)
