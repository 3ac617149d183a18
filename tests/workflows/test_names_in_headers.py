"""Structure names from the headers of label maps: shown where they agree, never silently exchanged where they do not."""

import json
import math

import nibabel as nib
import numpy as np
import pytest

from medseg import compare, evaluate
from medseg.cli.app import run
from medseg.core.errors import ConfigError, DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.header_names import header_names_of, names_in
from medseg.io.nifti import write_label_map
from medseg.io.seg_nrrd import seg_nrrd_bytes
from medseg.workflows.agree import agree

pytestmark = pytest.mark.usefixtures("blank_figures")
GRID = Geometry((9, 8, 7), np.diag([1.0, 1.2, 2.0, 1.0]))
NAMES = {"liver": 1, "left kidney": 2}


def write(path, names=None, *, shift=0, extra=0):
    """Two boxes of values 1 and 2 with a header that holds ``names``, and one voxel of the value ``extra``."""
    data = np.zeros(GRID.shape, np.uint8)
    data[1 + shift : 4 + shift, 2:6, 1:5], data[5 + shift : 7 + shift, 2:6, 1:5] = 1, 2
    if extra:
        data[0, 0, 0] = extra
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = Labels.from_mapping({"background": 0, **names}) if names else None
    if path.name.endswith(".nrrd"):
        path.write_bytes(seg_nrrd_bytes(path, LabelMap(data, GRID), labels))
    else:
        write_label_map(path, LabelMap(data, GRID, labels))
    return path


def test_names_are_those_of_the_reference_else_of_the_prediction_and_the_report_says_so(tmp_path):
    named, plain = write(tmp_path / "n.nii.gz", NAMES, shift=1), write(tmp_path / "p.nii.gz")
    for prediction, reference, source in (
        (plain, named, "headers of the references"),
        (named, plain, "headers of the predictions"),
        (write(tmp_path / "other.nii", {"LEFT_KIDNEY": 2}), named, "headers of the references and the predictions"),
    ):
        report = evaluate(prediction, reference, output=tmp_path / "out")
        assert report.labels.names == ("liver", "left kidney")
        assert report.names_from == source
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["names_from"] == source
        assert f"Names of structures: {source}." in (tmp_path / "out" / "report.md").read_text()
        assert f"<dt>Names of structures</dt><dd>{source}.</dd>" in (tmp_path / "out" / "report.html").read_text()
    # 2 of 3 planes of the liver are common.
    assert report.mean("dice", "liver") == pytest.approx(2 / 3)


def test_a_segmentation_of_3d_slicer_and_a_label_table_of_another_program_name_structures(tmp_path, real_data):
    report = evaluate(write(tmp_path / "p.nii.gz"), write(tmp_path / "r.seg.nrrd", NAMES))
    assert report.labels.mapping() == {"background": 0, **NAMES}
    reference = real_data / "totalseg_dicom" / "seg_reference.nii.gz"
    image = nib.load(reference)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, None), tmp_path / "plain.nii.gz")
    report = evaluate(tmp_path / "plain.nii.gz", reference, metrics=["dice"])
    assert "aorta" in report.labels.names
    assert report.mean("dice", "aorta") == 1.0


def test_the_command_prints_names_and_where_they_stand_and_options_take_them(tmp_path, capsys):
    p, r = write(tmp_path / "p.nii.gz", shift=1), write(tmp_path / "r.nii.gz", NAMES)
    options = ["--tolerance", "liver=0.5", "--lesions", "liver", "--region", "both=liver+left kidney"]
    assert run(["evaluate", str(p), str(r), *options]) == 0
    said = capsys.readouterr().out
    assert "left kidney" in said
    assert "names by: headers of the references" in said
    assert run(["evaluate", str(p), str(r), "--tolerance", "livre=1"]) == 2
    assert "no structure is called 'livre'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no structure is called 'spleen'"):
        evaluate(p, r, regions={"both": ["liver", "spleen"]})


def test_a_value_without_a_name_is_a_structure_of_its_own_and_a_name_without_a_voxel_is_counted(tmp_path):
    r = write(tmp_path / "r.nii.gz", {**NAMES, "spleen": 3, "9": 4})
    report = evaluate(write(tmp_path / "p.nii.gz", extra=9), r)
    assert report.labels.mapping() == {"background": 0, **NAMES, "spleen": 3, "9": 4, "9_": 9}
    assert report.structure_counts()["9_"]["spurious"] == 1
    assert report.structure_counts()["spleen"]["both_empty"] == 1
    assert math.isnan(report.mean("dice", "spleen"))


@pytest.mark.parametrize(
    ("predicted", "words"),
    [
        (
            {"left kidney": 1, "liver": 2},
            r"value 1 is 'left kidney' by its header, and 'liver' by that of .*r\.nii\.gz.*--labels",
        ),
        ({"liver": 1, "spleen": 2}, "value 2 is 'spleen' by its header, and 'left kidney'"),
        ({"liver": 3}, "'liver' has the value 3 by its header, and 1 by that of"),
    ],
)
def test_names_that_contradict_each_other_are_an_error_that_says_both_unless_labels_decide(
    tmp_path, predicted, words, capsys
):
    p, r = write(tmp_path / "p.nii.gz", predicted), write(tmp_path / "r.nii.gz", NAMES)
    with pytest.raises(DataError, match=words):
        evaluate(p, r, skip_bad=True, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert run(["evaluate", str(p), str(r)]) == 3
    capsys.readouterr()
    report = evaluate(p, r, labels=r)
    assert report.mean("dice", "liver") == 1.0
    assert report.names_from == str(r)


def test_names_must_agree_over_all_cases(tmp_path):
    for case, names in (("a", NAMES), ("b", {"left kidney": 1, "liver": 2})):
        write(tmp_path / "p" / f"{case}.nii.gz")
        write(tmp_path / "r" / f"{case}.nii.gz", names)
    with pytest.raises(
        DataError,
        match=r"b\.nii\.gz: value 1 is 'left kidney'.*'liver' by that of .*a\.nii\.gz.*one mask per structure",
    ):
        evaluate(tmp_path / "p", tmp_path / "r")


def test_masks_with_tables_of_their_own_are_no_contradiction(tmp_path):
    for side in ("p", "r"):
        for name in ("liver", "spleen"):
            write(tmp_path / side / "case" / f"{name}.nii.gz", {name: 1, "rest": 2})
            mask = np.zeros(GRID.shape, np.uint8)
            mask[(slice(1, 3) if name == "liver" else slice(5, 7)), 2:5, 2:5] = 1
            labels = Labels.from_mapping({"background": 0, name: 1})
            write_label_map(tmp_path / side / "case" / f"{name}.nii.gz", LabelMap(mask, GRID, labels))
    report = evaluate(tmp_path / "p", tmp_path / "r", metrics=["dice"])
    assert report.labels.names == ("liver", "spleen")
    assert report.mean("dice") == 1.0


def test_names_of_several_models_are_gathered_over_all_of_them(tmp_path):
    for side, names in (("a", None), ("b", NAMES), ("r", None)):
        write(tmp_path / side / "x.nii.gz", names)
    found = header_names_of([(tmp_path / side, tmp_path / "r") for side in ("a", "b", "missing")])
    assert found.labels.names == ("liver", "left kidney")
    report = evaluate(tmp_path / "a", tmp_path / "r", labels=found)
    assert report.labels.names == ("liver", "left kidney")


def test_compare_and_agree_call_a_value_the_same_whoever_names_it(tmp_path):
    for side, names in (("a", None), ("b", NAMES), ("c", None)):
        for n in range(3):
            write(tmp_path / side / f"x{n}.nii.gz", names, shift=int(side == "c" and n == 0))
    a, b, c = (tmp_path / side for side in "abc")
    assert {row.endpoint.structure for row in compare([a, b], reference=c, metrics=["dice"]).rows} == set(NAMES)
    found = agree([a, b, c], consensus="majority", output=tmp_path / "out")
    assert [s.structure for s in found.structures] == list(NAMES)
    assert names_in(tmp_path / "out" / "consensus" / "x0.nii.gz") == NAMES


def test_a_consensus_of_masks_with_names_keeps_them_apart(tmp_path):
    readers = [tmp_path / side for side in "abc"]
    for reader in readers:
        # Read in the order of the files' names, the second has no "bone": the numbers of the others shift.
        for name, start in (("bone", 0), ("liver", 3), ("spleen", 6)):
            if name != "bone" or reader.name != "b":
                mask = np.zeros(GRID.shape, np.uint8)
                mask[start : start + 2, 2:5, 2:5] = 1
                (reader / "case").mkdir(parents=True, exist_ok=True)
                write_label_map(reader / "case" / f"{name}.nii.gz", LabelMap(mask, GRID))
    found = agree(readers, consensus="majority", output=tmp_path / "out")
    liver = next(s for s in found.structures if s.structure == "liver")
    assert liver.dice == 1.0
    report = evaluate(tmp_path / "out" / "consensus", tmp_path / "a", metrics=["dice"])
    assert {s.value for s in report.scores if s.metric == "dice"} == {1.0}
