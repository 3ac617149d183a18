"""DICOM scans know whose they are: grouped by patient, and no word of a header leaves."""

import shutil

import pytest

from medseg.core.case import Case
from medseg.core.config_data import DataConfig
from medseg.core.errors import DataError
from medseg.data.given_splits import check_split
from medseg.data.layouts import list_cases
from medseg.data.layouts.patients import by_dicom_patient
from medseg.io.dicom_patient import patient_hash
from tests.data.tiny_dataset import pair, save
from tests.io import bad_dicom

IDS = {"a": "PID-SECRET-1", "b": "PID-SECRET-2", "c": " pid-secret-1", "d": ""}


@pytest.fixture
def dataset(tmp_path):
    """Four DICOM scans, two of one patient, one that names none; and a NIfTI beside them."""
    for name, patient in IDS.items():
        study = bad_dicom.uid(3, ord(name))
        bad_dicom.every(PatientID=patient, StudyInstanceUID=study)(tmp_path / "images" / name)
        save(tmp_path / "labels" / f"{name}.nii.gz", pair(0)[1])
    save(tmp_path / "images" / "e.nii.gz", pair(0)[0])
    save(tmp_path / "labels" / "e.nii.gz", pair(0)[1])
    return DataConfig(layout="folder", images=tmp_path / "images", labels=tmp_path / "labels")


def test_scans_of_one_dicom_patient_are_grouped_under_the_first_cases_id(dataset):
    assert {case.id: case.patient for case in list_cases(dataset)} == {"a": "a", "b": "b", "c": "a", "d": "d", "e": "e"}


def test_group_overrules_the_headers(dataset):
    found = list_cases(dataset.model_copy(update={"group": ".+"}))
    assert [case.patient for case in found] == list("abcde")


def test_without_a_patient_id_the_study_tells(tmp_path):
    for n, study in enumerate((1, 1, 2)):
        bad_dicom.every(PatientID="", StudyInstanceUID=bad_dicom.uid(study))(tmp_path / str(n))
    hashes = [patient_hash(tmp_path / str(n)) for n in range(3)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_archive_is_opened_for_its_patient(tmp_path):
    bad_dicom.good(tmp_path / "scan")
    archive = shutil.make_archive(str(tmp_path / "scan"), "zip", tmp_path / "scan")
    assert patient_hash(tmp_path / "scan.zip") == patient_hash(tmp_path / "scan")
    assert archive.endswith("scan.zip")


def test_what_is_no_dicom_or_damaged_says_nothing(tmp_path):
    (tmp_path / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4")
    for name in ("broken.dcm", "empty", "broken.zip", "nowhere"):
        assert patient_hash(tmp_path / name) is None


def test_a_leak_is_told_by_case_ids_and_never_by_the_patient(dataset):
    cases = list_cases(dataset)
    cases += [Case("x", "Meier^Anna", (), cases[0].reference), Case("y", "Meier^Anna", (), cases[0].reference)]
    for train, held_out in (("a", "c"), ("x", "y")):
        with pytest.raises(DataError, match=f"{train}.*{held_out}.*one patient.*leak") as caught:
            check_split({"train": [train], "validation": [held_out]}, cases)
        assert "SECRET" not in str(caught.value)
        assert "Meier" not in str(caught.value)


def test_real_dicom_crops_of_one_patient_are_one(real_data):
    scan = real_data / "hippocampus_dicom" / "Study1"
    cases = [Case(name, name, (scan,), scan) for name in ("left", "right")]
    assert {case.patient for case in by_dicom_patient(cases)} == {"left"}
