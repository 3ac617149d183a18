"""nnU-Net's layout: what its dataset.json may say, and each thing that is wrong with its files."""

import json

import pytest

from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.core.labels import Labels
from medseg.data.layouts import list_cases, remarks
from tests.data.laid_out import WAYS
from tests.data.laid_out_channels import TWO_CHANNELS, two_channels
from tests.data.tiny_dataset import LABELS, pair, save, tiny

NAMED = Labels.from_mapping(LABELS)


@pytest.fixture
def root(tmp_path):
    tiny(tmp_path).finish()
    WAYS["nnunet"](tmp_path)
    return tmp_path


def cases_of(root, **options):
    return list_cases(DataConfig(layout="nnunet", root=root, **options), NAMED)


def change(root, **entries):
    file = root / "dataset.json"
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_channels_may_be_chosen_and_ordered(tmp_path):
    data = TWO_CHANNELS["nnunet"](tmp_path, two_channels(tmp_path))
    case = list_cases(DataConfig(**data, channels=["ADC", "T2"]))[0]
    assert [path.name[-11:-7] for path in case.images] == ["0001", "0000"]
    assert case.channels == ("ADC", "T2")
    assert len(list_cases(DataConfig(**data, channels=["ADC"]))[0].images) == 1
    with pytest.raises(ConfigError, match=r"'DWI'.*has T2, ADC"):
        list_cases(DataConfig(**data, channels=["DWI"]))


def test_listed_files_may_lie_anywhere(root):
    change(root, dataset={
        "p1": {"images": ["imagesTr/case_00_0000.nii.gz"], "label": "labelsTr/case_00.nii.gz"},
        "p2": {"images": [str(root / "imagesTr/case_01_0000.nii.gz")], "label": "./labelsTr/case_01.nii.gz"},
    })  # fmt: skip
    assert [(case.id, case.reference.name) for case in cases_of(root)] == [
        ("p1", "case_00.nii.gz"),
        ("p2", "case_01.nii.gz"),
    ]


def test_the_dataset_json_of_version_1_is_read_too(root):
    change(root, channel_names=None, modality={"0": "CT"}, labels={"0": "background", "1": "liver", "2": "tumour"})
    assert cases_of(root)[0].channels == ("CT",)
    with pytest.raises(ConfigError, match=r"'liver' is 1.*'tumour'"):
        list_cases(DataConfig(layout="nnunet", root=root), Labels.from_mapping({"bg": 0, "liver": 2, "tumour": 1}))


def test_structures_that_the_config_leaves_out_are_background_and_said(root):
    liver = Labels.from_mapping({"background": 0, "liver": 1})
    config = DataConfig(layout="nnunet", root=root)
    assert {case.left_out for case in list_cases(config, liver)} == {(2,)}
    assert remarks(config, liver) == [
        "the dataset also names tumour (2): not in labels, so background in this training"
    ]


def test_regions_and_the_ignored_value_are_named_and_not_taken_over(root):
    change(root, labels={"background": 0, "whole": [1, 2], "tumour": 2, "ignore": 3}, regions_class_order=[1, 2])
    config = DataConfig(layout="nnunet", root=root)
    assert remarks(config, NAMED) == [
        "dataset.json also has region whole (1, 2), ignored value 3: not taken over, only what this config says counts"
    ]
    assert {case.left_out for case in list_cases(config, NAMED)} == {()}  # 3 stays an error: it is not background


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"channel_names": None}, "no channel_names"),
        ({"channel_names": {"0": "T2", "1": "ADC"}}, r"case_00_0001\.nii\.gz is missing"),
        ({"numTraining": 5}, r"numTraining is 5, but imagesTr holds 4"),
        ({"file_ending": ".mha"}, r"imagesTr: no images found: no file ends in \.mha"),
        ({"file_ending": 3}, "file_ending 3"),
        ({"dataset": {}}, "no training cases"),
        ({"dataset": {"a": {"images": "x.nii", "label": "y"}}}, "a needs a list `images` and a `label`"),
        ({"dataset": {"a": {"images": ["x.nii", "z.nii"], "label": "y"}}}, "a has 2 images for 1 channel"),
        ({"dataset": {"a": {"images": ["x.nii"], "label": "y"}}}, r"a: image missing: .*x\.nii"),
    ],
    ids=["names", "channel", "count", "ending", "no ending", "none", "text", "images", "lost"],
)
def test_a_dataset_json_that_does_not_fit_its_files_is_refused(root, entries, words):
    change(root, **entries)
    with pytest.raises(DataError, match=words):
        cases_of(root)


@pytest.mark.parametrize(
    ("name", "words"),
    [("case_00_0001", r"case_00_0001\.nii\.gz is more than the 1"), ("case_7", "name ends in its channel")],
)
def test_an_image_that_is_no_channel_of_a_case_is_refused(root, name, words):
    save(root / "imagesTr" / f"{name}.nii.gz", pair(7)[0])
    with pytest.raises(DataError, match=words):
        cases_of(root)


def test_an_image_without_label_and_a_label_without_image_are_named(root):
    (root / "labelsTr" / "case_02.nii.gz").rename(root / "labelsTr" / "case_09.nii.gz")
    with pytest.raises(DataError, match="labelsTr: label missing for case_02"):
        cases_of(root)
    (root / "imagesTr" / "case_02_0000.nii.gz").unlink()
    with pytest.raises(DataError, match="imagesTr: image missing for case_09"):
        cases_of(root)
