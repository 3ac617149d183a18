"""Who is whose patient where the scans are DICOM: their own headers say so. Nothing of a header is kept."""

from collections.abc import Sequence
from dataclasses import replace

from medseg.core.case import Case, is_picture
from medseg.io.dicom_patient import patient_hash

_NO_DICOM = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img")


def by_dicom_patient(cases: Sequence[Case]) -> list[Case]:
    """``cases``, those of one DICOM patient under the id of the first of them; a case whose patient is known stays as it is.

    The id of a case and not the PatientID, which is health information and appears nowhere.
    """
    first: dict[str, str] = {}
    found = []
    for case in cases:
        key = patient_hash(case.images[0]) if case.patient == case.id and _may_be_dicom(case) else None
        found.append(case if key is None else replace(case, patient=first.setdefault(key, case.id)))
    return found


def _may_be_dicom(case: Case) -> bool:
    return not is_picture(case.images[0]) and not case.images[0].name.lower().endswith(_NO_DICOM)
