"""BIDS derivatives: names by the rules of the standard, one dataset for many scans, no two scans in one file."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.core.files import write_together
from medseg.io.bids import BIDS, bids, bids_paths
from medseg.io.outputs import check_apart, check_free
from tests.io.segmented import LABELS, segmentation

# The pattern of the BIDS schema for a discrete segmentation of a derivative (entities in any number, desc last).
VALID = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9]+)*_desc-[A-Za-z0-9]+_dseg\.(nii\.gz|json|tsv)")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("out/ct_seg", "out/derivatives/medseg/sub-ct/anat/sub-ct_desc-medseg_dseg.nii.gz"),
        ("out/sub-01_T1w_seg", "out/derivatives/medseg/sub-01/anat/sub-01_desc-medseg_dseg.nii.gz"),
        (
            "out/sub-01_ses-2_run-1_CT_seg",
            "out/derivatives/medseg/sub-01/ses-2/anat/sub-01_ses-2_run-1_desc-medseg_dseg.nii.gz",
        ),
        (
            "data/sub-01/ses-a/anat/sub-01_ses-a_T1w_seg",
            "data/derivatives/medseg/sub-01/ses-a/anat/sub-01_ses-a_desc-medseg_dseg.nii.gz",
        ),
        ("data/sub-01/ct_seg", "data/derivatives/medseg/sub-01/anat/sub-01_acq-ct_desc-medseg_dseg.nii.gz"),
        ("out/sub-01_desc-preproc_T1w_seg", "out/derivatives/medseg/sub-01/anat/sub-01_desc-medseg_dseg.nii.gz"),
    ],
)
def test_the_subject_is_that_of_the_name_or_of_the_folders(place, expected, tmp_path):
    paths = bids_paths(tmp_path / place, LABELS)
    assert paths[0] == tmp_path / expected
    assert all(VALID.fullmatch(path.name) for path in paths)


def test_names_that_differ_in_what_bids_forbids_stay_apart(tmp_path):
    names = ["ct.1", "ct-1", "ct 1", "CT_1", "ct1", "肝", "..."]
    paths = [bids_paths(tmp_path / f"{name}_seg", LABELS)[0] for name in names]
    assert len({str(path).casefold() for path in paths}) == len(names)
    assert all(VALID.fullmatch(path.name) for path in paths)


def test_the_files_are_the_label_map_its_names_and_a_valid_description(tmp_path):
    made = segmentation(tmp_path / "sub-01_T1w_seg")
    write_together(bids(made))
    root = tmp_path / "derivatives" / "medseg"
    described = json.loads((root / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "medseg"
    assert {"Name", "BIDSVersion"} <= set(described)
    stem = root / "sub-01" / "anat" / "sub-01_desc-medseg_dseg"
    np.testing.assert_array_equal(np.asarray(nib.load(f"{stem}.nii.gz").dataobj), made.label_map.data)
    rows = [line.split("\t") for line in Path(f"{stem}.tsv").read_text().splitlines()]
    assert rows[0] == ["index", "name", "color"]
    assert [(int(index), name) for index, name, _ in rows[1:]] == [(v, n) for n, v in LABELS.mapping().items()]
    assert all(re.fullmatch("#[0-9A-F]{6}", colour) for _, _, colour in rows[1:])
    assert json.loads(Path(f"{stem}.json").read_text())["Manual"] is False


def test_a_second_scan_joins_the_dataset_and_leaves_its_description_alone(tmp_path):
    write_together(bids(segmentation(tmp_path / "sub-01_T1w_seg")))
    description = tmp_path / "derivatives" / "medseg" / "dataset_description.json"
    description.write_text("{}")
    second = segmentation(tmp_path / "sub-02_T1w_seg")
    check_free({"bids": BIDS}, second.place, LABELS, force=False)
    write_together(bids(second))
    assert description.read_text() == "{}"
    assert len(list(description.parent.glob("sub-*"))) == 2


def test_two_scans_that_would_share_a_file_are_refused(tmp_path):
    places = [tmp_path / "sub-01_T1w_seg", tmp_path / "sub-01_T2w_seg"]
    check_apart({"bids": BIDS}, places[:1], LABELS)
    with pytest.raises(ConfigError, match=r"T1w_seg and .*T2w_seg would both write"):
        check_apart({"bids": BIDS}, places, LABELS)
