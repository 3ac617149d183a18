import json

import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.io.nifti import label_map_bytes
from medseg.io.seg_nrrd import seg_nrrd
from medseg.io.tables import labels_from_names, read_labels
from tests.io.segmented import segmentation, written
from tests.models.tiny_model import write_scan

WANTED = {"background": 0, "liver": 1, "tumour": 5}


@pytest.fixture
def write(tmp_path):
    def _write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return _write


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "name: x\nlabels: {background: 0, liver: 1, tumour: 5}\ndata: {root: nowhere}\n"),
        ("model.json", json.dumps({"labels": WANTED, "plan": {"patch_size": [1, 2, 3]}})),
        ("dataset.json", json.dumps({"labels": {"0": "background", "1": "liver", "5": "tumour"}})),
        ("dataset.json", "\ufeff" + json.dumps({"labels": {"background": "0", "liver": "1", "tumour": "5"}})),
        ("dataset.json", json.dumps({"labels": {"liver": 1, "tumour": 5}})),
    ],
)
def test_config_model_and_dataset_files_name_the_structures(write, name, content):
    assert read_labels(write(name, content)).mapping() == WANTED


def test_itk_snap_table_gives_names_and_colours(write):
    table = write(
        "labels.txt",
        "################\n# ITK-SnAP Label Description File\n"
        '    0     0    0    0        0  0  0    "Clear Label"\n'
        '    1   255  128    0        1  1  1    "left kidney"\n'
        '    7     0   16  255      0.5  1  0    "tumour ""A"""\n',
    )
    labels = read_labels(table)
    assert labels.mapping() == {"Clear Label": 0, "left kidney": 1, 'tumour ""A""': 7}
    assert [s.colour for s in labels.structures] == ["#FF8000", "#0010FF"]


@pytest.mark.parametrize("alpha", ["", " 0", " 255"])
def test_slicer_and_freesurfer_tables_give_names_and_colours(write, alpha):
    table = write(
        "colours.ctbl",
        f"# Color table file\r\n0 Unknown 0 0 0{alpha}\r\n\r\n17  Left-Hippocampus   220 216 20{alpha}\r\n"
        f"53\tRight-Hippocampus\t220\t216\t20{alpha}\r\n",
    )
    labels = read_labels(table)
    assert labels.mapping() == {"Unknown": 0, "Left-Hippocampus": 17, "Right-Hippocampus": 53}
    assert labels.structures[0].colour == "#DCD814"


def test_real_dataset_json_of_the_decathlon_is_read(real_data):
    labels = read_labels(real_data / "Task04_Hippocampus" / "dataset.json")
    assert labels.mapping() == {"background": 0, "Anterior": 1, "Posterior": 2}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[1]", "no mapping `labels`"),
        ("a.json", json.dumps({"labels": {"whole": [1, 2]}}), "whole.*regions"),
        ("a.json", json.dumps({"labels": {"liver": True}}), "liver.*no name with one integer"),
        ("a.json", json.dumps({"labels": {"1": "liver", "2": "liver"}}), "'liver' stands for 1 and 2"),
        ("a.txt", "", "names no structure"),
        ("a.txt", "# only a remark\n", "names no structure"),
        ("a.txt", "0 Unknown 0 0 0 0\n1 liver\n", "line 2.*no row of a colour table"),
        ("a.txt", "1 liver 0 300 0 0\n", "line 1.*between 0 and 255"),
        ("a.txt", "1 liver 0 0 0 0\n2 liver 0 0 0 0\n", "line 2.*'liver' stands for 1 and 2"),
        ("a.txt", b"\xff\xfe\x00\x01", "not UTF-8"),
        ("a.txt", b"1" * (2**22 + 1), "too large"),
    ],
)
def test_what_is_no_labels_file_is_refused_by_name_and_cause(write, name, content, words):
    path = write(name, content)
    with pytest.raises(DataError, match=words) as error:
        read_labels(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.yaml", "labels: {background: 0, liver: 1, liver: 2}", "duplicate key"),
        ("a.yaml", "labels: {background: 0, liver: 1, spleen: 1}", "same value 1"),
        ("a.json", json.dumps({"labels": {"liver": -1}}), "between 0 and 65535"),
        ("a.json", json.dumps({"labels": {"background": 3}}), "must be 0"),
        ("a.txt", "1 liver 0 0 0 0\n1 spleen 0 0 0 0\n", "same value 1"),
    ],
)
def test_names_and_values_that_clash_are_refused_by_file(write, name, content, words):
    path = write(name, content)
    with pytest.raises(ConfigError, match=words) as error:
        read_labels(path)
    assert str(error.value).count(str(path)) == 1


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_labels(tmp_path / "none.yaml")
    with pytest.raises(DataError, match="is not a file"):
        read_labels(tmp_path)


def test_names_without_a_background_get_one():
    assert labels_from_names({"liver": 1}).mapping() == {"background": 0, "liver": 1}
    assert labels_from_names({"air": 0, "liver": 1}).mapping() == {"air": 0, "liver": 1}


def test_codes_and_colours_of_a_config_and_a_model_are_read(write):
    entry = {"value": 1, "snomed": "10200004", "colour": "#010203"}
    for path in (
        write("config.yaml", json.dumps({"labels": {"background": 0, "liver": entry, "tumour": 5}})),
        write("model.json", json.dumps({"labels": WANTED, "structures": {"liver": entry}})),
    ):
        labels = read_labels(path)
        assert labels.mapping() == WANTED
        assert (labels.structures[0].snomed, labels.structures[0].colour) == ("10200004", "#010203")


def test_a_wrong_code_names_the_file(write):
    path = write("model.json", json.dumps({"labels": WANTED, "structures": {"liver": {"snomed": "10200005"}}}))
    with pytest.raises(ConfigError, match=r"model\.json: labels: liver: '10200005' is no SNOMED CT code"):
        read_labels(path)


def test_a_label_map_that_names_its_structures_is_a_labels_file(tmp_path):
    found = segmentation(tmp_path / "ct_seg")
    nifti = tmp_path / "ct_seg.nii.gz"
    for path in written({**seg_nrrd(found), nifti: label_map_bytes(nifti, found.label_map)}):
        assert read_labels(path).mapping() == found.labels.mapping()


def test_a_label_map_without_names_is_no_labels_file(tmp_path):
    path = write_scan(tmp_path / "x.nii.gz")
    with pytest.raises(DataError, match=r"x\.nii\.gz: this label map names no structure"):
        read_labels(path)
