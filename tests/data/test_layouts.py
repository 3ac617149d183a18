"""LAYOUTS: which cases lie in a dataset, and who is whose patient."""

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.core.case import patient_of
from medseg.core.config_data import DataConfig
from medseg.core.errors import DataError
from medseg.core.labels import Labels
from medseg.data.check import check_dataset
from medseg.data.layouts import LAYOUTS, list_cases
from medseg.data.layouts.common import require_unique
from medseg.io.reading import read_label_map, read_volumes
from tests.data.laid_out import WAYS
from tests.data.laid_out_channels import TWO_CHANNELS, two_channels
from tests.data.tiny_dataset import AFFINE, LABELS, pair, save, tiny

NAMED = Labels.from_mapping(LABELS)


def msd_of(root, **options):
    return DataConfig(layout="msd", root=root, **options)


def folder_of(root, **options):
    return DataConfig(layout="folder", images=root / "imagesTr", labels=root / "labelsTr", **options)


every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@every_layout
def test_every_layout_gives_the_same_scans_under_the_same_contract(tmp_path, layout):
    """The contract of LAYOUTS: sorted unique ids, files that exist, each with the voxels and the label it was made with."""
    made = tiny(tmp_path)
    made.cases.reverse()
    made.finish()
    cases = list_cases(DataConfig(**WAYS[layout](tmp_path)), NAMED)
    assert [case.id for case in cases] == sorted(case.id for case in cases)
    assert len({case.patient for case in cases}) == len(cases) == 4
    for n, case in enumerate(cases):
        assert case.id.endswith(f"{n:02d}")
        image, label = pair(n)
        found = read_volumes(case.images)
        np.testing.assert_array_equal(found.data, image[None])
        np.testing.assert_allclose(found.geometry.affine, AFFINE, atol=1e-5)
        np.testing.assert_array_equal(read_label_map(case.reference).data, label)
        assert (case.annotated, case.left_out, case.fold) == (None, (), None)
        assert len(case.channels) in (0, 1)


@every_layout
def test_every_layout_reads_two_channels_in_their_order(tmp_path, layout):
    names = two_channels(tmp_path)
    cases = list_cases(DataConfig(**TWO_CHANNELS[layout](tmp_path, names)), NAMED)
    assert [case.channels for case in cases] == [("T2", "ADC")] * 3
    for n, case in enumerate(cases):
        np.testing.assert_array_equal(read_volumes(case.images).data, np.stack([pair(n)[0], pair(n + 50)[0]]))
        np.testing.assert_array_equal(read_label_map(case.reference).data, pair(n)[1])


@every_layout
def test_group_names_the_patient(tmp_path, layout):
    tiny(tmp_path).finish()
    data = WAYS[layout](tmp_path)
    cases = list_cases(DataConfig(**data, group=r"case_?(\d)"))
    assert {case.patient for case in cases} == {"0"}
    with pytest.raises(DataError, match=r"case_?00.*group"):
        list_cases(DataConfig(**data, group=r"patient(\d)"))


@every_layout
def test_a_channel_that_is_missing_is_named(tmp_path, layout):
    data = TWO_CHANNELS[layout](tmp_path, two_channels(tmp_path))
    if layout == "msd":  # one file holds all channels: one of them with fewer
        save(tmp_path / "imagesTr" / "case01.nii.gz", pair(1)[0])
        with pytest.raises(DataError, match=r"case01.*1 channels.*expected 2"):
            check_dataset(list_cases(DataConfig(**data)), NAMED)
        return
    lost = next(path for path in sorted(tmp_path.rglob("*01*")) if "ADC" in str(path) or "_0001" in path.name)
    lost.unlink()
    with pytest.raises(DataError, match=r"(?s)image.*missing") as caught:
        list_cases(DataConfig(**data))
    assert "01" in str(caught.value)


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


def test_layout_folder_finds_its_two_folders_below_root_unless_they_are_given(tmp_path):
    usual = DataConfig.model_validate({"layout": "folder", "root": str(tmp_path), "labels": None})
    assert (usual.images, usual.labels) == (tmp_path / "images", tmp_path / "labels")
    given = DataConfig.model_validate({"layout": "folder", "root": str(tmp_path), "images": "scans"})
    assert (given.images, given.labels) == (Path("scans"), tmp_path / "labels")
