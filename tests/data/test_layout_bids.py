"""BIDS: sessions, runs and derivatives, and that nothing ambiguous is ever chosen."""

import pytest

from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.core.labels import Labels
from medseg.data.layouts import list_cases
from tests.data.tiny_dataset import pair, save

IMAGES = (
    "sub-01/ses-a/anat/sub-01_ses-a_T1w",
    "sub-01/ses-b/anat/sub-01_ses-b_T1w",
    "sub-02/anat/sub-02_run-1_T1w",
    "sub-02/anat/sub-02_run-2_T1w",
    "sub-02/dwi/sub-02_dwi",
)
LABELS = (
    "manual/sub-01/ses-a/anat/sub-01_ses-a_dseg",
    "manual/sub-01/ses-b/anat/sub-01_ses-b_space-orig_desc-expert_dseg",
    "manual/sub-02/anat/sub-02_run-1_label-liver_dseg",
    "manual/sub-02/anat/sub-02_run-2_T1w_dseg",
)


@pytest.fixture
def root(tmp_path):
    for n, name in enumerate(IMAGES):
        save(tmp_path / f"{name}.nii.gz", pair(n)[0])
    for n, name in enumerate(LABELS):
        save(tmp_path / "derivatives" / f"{name}.nii.gz", pair(n)[1])
    (tmp_path / "sub-01" / "ses-a" / "anat" / "sub-01_ses-a_T1w.json").write_text("{}")
    return tmp_path


def cases_of(root, channels=("T1w",), **options):
    return list_cases(DataConfig(layout="bids", root=root, channels=channels, **options))


def test_each_session_and_run_is_a_case_and_each_subject_a_patient(root):
    cases = cases_of(root)
    assert [(case.id, case.patient) for case in cases] == [
        ("sub-01_ses-a", "sub-01"),
        ("sub-01_ses-b", "sub-01"),
        ("sub-02_run-1", "sub-02"),
        ("sub-02_run-2", "sub-02"),
    ]
    assert [case.reference.name.removesuffix(".nii.gz") for case in cases] == [n.split("/")[-1] for n in LABELS]


def test_of_two_label_maps_none_is_taken_by_chance(root):
    save(root / "derivatives" / "network" / "sub-01" / "sub-01_ses-a_desc-auto_dseg.nii.gz", pair(0)[1])
    with pytest.raises(DataError, match=r"sub-01_ses-a: label is ambiguous.*data\.derivative"):
        cases_of(root)
    assert len(cases_of(root, derivative="manual")) == 4
    with pytest.raises(DataError, match=r"derivatives.network: label missing for sub-01_ses-b"):
        cases_of(root, derivative="network", reference="desc-auto_dseg")
    with pytest.raises(DataError, match=r"nobody: label missing for every case"):
        cases_of(root, derivative="nobody")


def test_a_channel_may_name_entities_before_its_suffix(root):
    for n, case in enumerate(("sub-01/ses-a/anat/sub-01_ses-a", "sub-01/ses-b/anat/sub-01_ses-b")):
        save(root / f"{case}_ce-gad_T1w.nii.gz", pair(n + 20)[0])
    for run in "12":
        save(root / f"sub-02/anat/sub-02_run-{run}_ce-gad_T1w.nii.gz", pair(int(run) + 30)[0])
    cases = cases_of(root, ("ce-gad_T1w", "T1w"))
    assert [case.id for case in cases] == ["sub-01_ses-a", "sub-01_ses-b", "sub-02_run-1", "sub-02_run-2"]
    assert [path.name for path in cases[0].images] == [
        "sub-01_ses-a_ce-gad_T1w.nii.gz",
        "sub-01_ses-a_T1w.nii.gz",
    ]


def test_what_is_missing_is_named(root):
    with pytest.raises(DataError, match=r"no file in sub-\*/ ends in _T2w"):
        cases_of(root, ("T2w",))
    with pytest.raises(DataError, match=r"sub-01_ses-a: image missing: no sub-01_ses-a_FLAIR"):
        cases_of(root, ("T1w", "FLAIR"))
    with pytest.raises(DataError, match=r"no labels found.*_desc-none_dseg"):
        cases_of(root, reference="desc-none_dseg")
    (root / "derivatives" / f"{LABELS[2]}.nii.gz").unlink()
    with pytest.raises(DataError, match=r"label missing for sub-02_run-1 \(1 in all\)"):
        cases_of(root)
    with pytest.raises(ValueError, match="layout bids needs channels"):
        DataConfig(layout="bids", root=root)


def test_the_names_of_a_dseg_table_are_held_against_the_config(root):
    table = root / "derivatives" / "manual" / "dseg.tsv"
    table.write_text("index\tname\tcolor\n0\tbackground\t#000000\n1\tliver\t#010203\n2\ttumour\t#040506\n")
    config = DataConfig(layout="bids", root=root, channels=("T1w",))
    assert {case.left_out for case in list_cases(config, Labels.from_mapping({"background": 0, "liver": 1}))} == {(2,)}
    with pytest.raises(ConfigError, match=r"'liver' is 1 in the dataset's dseg\.tsv, but 2 .*'tumour'"):
        list_cases(config, Labels.from_mapping({"background": 0, "liver": 2, "tumour": 1}))
    (root / "derivatives" / "manual" / "sub-01" / "sub-01_dseg.tsv").write_text("index\tname\n3\tliver\n")
    with pytest.raises(DataError, match=r"'liver' is .*another dseg\.tsv"):
        list_cases(config, Labels.from_mapping({"background": 0, "liver": 1}))
