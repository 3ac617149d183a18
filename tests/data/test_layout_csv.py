"""The table layout: paths from the table's folder, patients, folds and annotations from its columns."""

import pytest

from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.core.labels import Labels
from medseg.data.layouts import list_cases
from tests.data.tiny_dataset import LABELS, tiny

NAMED = Labels.from_mapping(LABELS)


def cases_of(root, text, encoding="utf-8", **options):
    if not (root / "imagesTr").exists():
        tiny(root).finish()
    (root / "cases.csv").write_text(text, encoding=encoding)
    return list_cases(DataConfig(layout="csv", table=root / "cases.csv", **options), NAMED)


def row(n, *more):
    return ",".join((f"case_{n:02d}", f"imagesTr/case_{n:02d}.nii.gz", f"labelsTr/case_{n:02d}.nii.gz", *more)) + "\n"


def test_patient_fold_and_annotated_come_from_the_table(tmp_path):
    text = "case,image,label,patient,fold,annotated\n" + row(0, "A", "1", "") + row(1, "A", "1", "tumour|liver")
    cases = cases_of(tmp_path, text + row(2, "B", "0", "liver"), "utf-8-sig")
    assert [(case.patient, case.fold, case.annotated) for case in cases] == [
        ("A", 1, None),
        ("A", 1, ("liver", "tumour")),
        ("B", 0, ("liver",)),
    ]


def test_paths_may_be_absolute_and_group_overrules_the_column(tmp_path):
    image = tmp_path / "imagesTr" / "case_00.nii.gz"
    text = f"case,patient,image,label\nx_1,P,{image},labelsTr/case_00.nii.gz\n"
    (case,) = cases_of(tmp_path, text, group="^(x)")
    assert (case.patient, case.images) == ("x", (image,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("case,image,label\n" + row(0) + row(7), "line 3: case_07: image missing"),
        ("case,image,label\n" + row(0) + row(0), "duplicate case id 'case_00'"),
        ("case,image,label\n,a.nii,b.nii\n", "line 2: case is empty"),
        ("case,image,label,patient\n" + row(0, ""), "line 2: patient is empty"),
        ("case,image,label,fold\n" + row(0, "first"), "line 2: fold 'first' is no number"),
        ("case,image,label,fold\n" + row(0, ""), "line 2: fold is empty"),
        ("case,image,label,annotated\n" + row(0, "lung"), "annotated names 'lung'"),
        ("case,label\nx,b.nii\n", "column 'image' is missing"),
        ("case,image,image_T2,label\nx,a,b,c\n", "both `image` and 'image_T2'"),
        ("case,image,mask\nx,a,b\n", "column 'label' is missing; found: case, image, mask"),
    ],
    ids=["file", "twice", "no id", "patient", "fold", "no fold", "structure", "image", "both", "label"],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, words):
    with pytest.raises(DataError, match=words) as caught:
        cases_of(tmp_path, text)
    assert "cases.csv" in str(caught.value) or "annotated" in words


def test_a_channel_that_the_table_lacks_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"'ADC'.*no column image_ADC"):
        cases_of(tmp_path, "case,image_T2,label\n" + row(0), channels=["T2", "ADC"])
