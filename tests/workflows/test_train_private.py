"""Health information of DICOM headers: it groups scans by patient, and is nowhere in what a training says or writes."""

import gzip
import json

import numpy as np
import pytest

from medseg.cli.app import run
from medseg.io.dicom_patient import patient_hash
from medseg.io.reading import read_volumes
from tests.data.tiny_dataset import config, save
from tests.io import bad_dicom
from tests.workflows.train_command import command, written

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


def test_no_word_of_a_header_is_in_anything_that_a_training_says_or_writes(tmp_path, capsys):
    """Three scans of two patients; what is kept of them is that two are one."""
    for n, patient in enumerate(("CANARY-1", "CANARY-2", "CANARY-1")):
        datasets = bad_dicom.series(100 + n)
        for slice_, dataset in enumerate(datasets):
            bad_dicom.put(dataset, PatientID=patient, PatientName="CANARY^Anna", StudyInstanceUID=bad_dicom.uid(40, n))
            pixels = bad_dicom.intensities()[slice_] + 1024 + n
            bad_dicom.set_pixels(dataset, pixels.astype("<u2"))
        bad_dicom.save(datasets, tmp_path / "images" / f"scan{n}")
        volume = read_volumes([tmp_path / "images" / f"scan{n}"])
        label = np.zeros(volume.geometry.shape, np.uint8)
        label[8:20, 8:16, 2:9] = 1
        save(tmp_path / "labels" / f"scan{n}.nii.gz", label, volume.geometry.affine)
    content = config(tmp_path) | {
        "data": {"layout": "folder", "images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")},
        "labels": {"background": 0, "liver": 1},
        "plan": {"patch_size": [16, 16, 8], "architecture": {"name": "unet", "features": [4, 6, 8]}},
    }
    code = command(tmp_path, content)
    out, err = capsys.readouterr()
    assert (code, "CANARY" in out + err) == (0, False), err
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert sorted(sorted(split["validation"]) for split in splits) == [["scan0", "scan2"], ["scan1"]]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 10
    key = patient_hash(tmp_path / "images" / "scan0").encode()
    for path in files:
        stored = path.read_bytes()
        if path.name.endswith(".gz"):
            stored += gzip.decompress(stored)
        assert b"CANARY" not in stored, path
        assert key not in stored, path
    splits[0], splits[1] = ({"train": ["scan0", "scan1"], "validation": ["scan2"]},) * 2
    given = tmp_path / "given.json"
    given.write_text(json.dumps(splits))
    content["data"]["splits"] = str(given)
    assert run(["train", "--config", str(written(tmp_path, content)), "--output", str(tmp_path / "other")]) == 3
    out, err = capsys.readouterr()
    assert "scan0 (training) and scan2 (validation) are of one patient: a leak" in err
    assert "CANARY" not in out + err
