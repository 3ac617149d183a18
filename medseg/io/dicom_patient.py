"""Which scans are of one patient, by their DICOM headers, without a name or number ever leaving this module."""

import hashlib
from pathlib import Path

from medseg.core.errors import DataError
from medseg.io.archive import is_archive, unpacked
from medseg.io.dicom_files import find_files, has_dicom_mark, looks_like_bare_dataset
from medseg.io.dicom_header import read_header, text


def patient_hash(scan: Path) -> str | None:
    """What is equal for two scans of one patient; None where ``scan`` is not DICOM, or says nothing of its patient.

    Made of the PatientID, else of the study's UID. To be compared within one run only: a short PatientID can be guessed
    from its hash, so it must not be stored. What cannot be read counts as nothing said: reading the scan says it better.
    """
    try:
        if is_archive(scan):
            with unpacked(scan) as inner:
                return patient_hash(inner.path)
        files = find_files(scan).files
    except DataError:
        return None
    told = next((found for file in files if (found := _patient_of(file))), None)
    return None if told is None else hashlib.sha256(told.encode("utf-8", "surrogateescape")).hexdigest()


def _patient_of(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            head = opened.read(132)
        if not has_dicom_mark(head) and not looks_like_bare_dataset(head):
            return None
        dataset = read_header(file).dataset
    except (OSError, DataError):
        return None
    return text(dataset, "PatientID").strip().upper() or text(dataset, "StudyInstanceUID").strip() or None
