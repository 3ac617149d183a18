"""DICOM segmentations, RT structure sets and folders of masks where label maps are expected: in evaluation and training."""

import json
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from medseg import evaluate
from medseg.cli.app import run
from medseg.core.case import Case
from medseg.core.config_data import DataConfig
from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.volume import LabelMap
from medseg.data.check import check_dataset
from medseg.data.layouts import list_cases
from medseg.data.transforms import loading
from medseg.io.dicom_rtstruct import rtstruct
from medseg.io.nifti import write_label_map
from medseg.io.outputs import WRITERS
from medseg.io.segmentation import Segmentation
from medseg.io.separate import masks
from tests.io import bad_dicom as make
from tests.io import bad_dicom_series
from tests.io.made_scans import LABELS, segmentation, segments, sources_of
from tests.models.tiny_model import tiny_plan

KINDS = ("seg", "rtstruct", "masks")


def write_reference(made: Segmentation, kind: str, path: Path) -> Path:
    """``made`` as a DICOM segmentation, an RT structure set (both ``path.dcm``) or a folder of masks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path if kind == "masks" else path.with_name(f"{path.name}.dcm")
    if kind == "seg":
        names = {s.value: s.name.upper() for s in LABELS.structures}
        segments(sources_of(made), made.label_map.data, "BINARY", names).save_as(target)
    elif kind == "rtstruct":
        target.write_bytes(next(iter(rtstruct(made).values())))
    else:
        target.mkdir()
        for file, content in masks(made).items():
            (target / file.name).write_bytes(content)
    return target


@pytest.fixture
def made(tmp_path: Path) -> Segmentation:
    make.good(tmp_path / "images" / "ct", cosines=bad_dicom_series.OBLIQUE)
    return segmentation(tmp_path / "images" / "ct", tmp_path / "x_seg")


def prediction(made: Segmentation, path: Path, data: np.ndarray | None = None, order: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = LabelMap(made.label_map.data if data is None else data, made.label_map.geometry, LABELS)
    write_label_map(path, stored.reordered(all_storage_orders()[order]))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_in_any_storage_order_is_scored_against_what_lies_in_the_same_place(made, kind, tmp_path):
    reference = write_reference(made, kind, tmp_path / "references" / "ct")
    same = prediction(made, tmp_path / "predictions" / "ct_seg.nii.gz", order=29)
    report = evaluate(same, reference, labels=LABELS)
    assert {s.value for s in report.scores if s.metric == "dice" and s.structure in ("liver", "kidney_left")} == {1.0}
    less = made.label_map.data.copy()
    less[: less.shape[0] // 2] = 0
    other = prediction(made, tmp_path / "predictions" / "ct_seg.nii.gz", less)
    report = evaluate(other.parent, reference.parent, labels=LABELS)
    (case,) = report.cases
    a, b = np.count_nonzero(less == 1), np.count_nonzero(made.label_map.data == 1)
    assert case.id == "ct"
    assert report.mean("dice", "liver") == pytest.approx(2 * a / (a + b))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_may_have_names_too_and_lie_on_the_references_grid(made, kind, tmp_path):
    predicted = write_reference(made, kind, tmp_path / "predictions" / "ct")
    reference = prediction(made, tmp_path / "references" / "ct.nii.gz", order=17)
    report = evaluate(predicted, reference, labels=LABELS)
    assert {s.value for s in report.scores if s.metric == "dice" and s.structure in ("liver", "kidney_left")} == {1.0}


def test_a_prediction_on_another_grid_is_refused(made, tmp_path):
    affine = made.label_map.geometry.affine @ np.diag([1, 1, 1.3, 1])
    moved = LabelMap(made.label_map.data, Geometry(made.label_map.geometry.shape, affine), LABELS)
    write_label_map(tmp_path / "ct.nii.gz", moved)
    for kind in KINDS:
        reference = write_reference(made, kind, tmp_path / kind / "ct")
        with pytest.raises(GeometryError):
            evaluate(tmp_path / "ct.nii.gz", reference, labels=LABELS)


def test_without_labels_and_names_in_a_header_the_values_of_names_are_not_known(made, tmp_path):
    reference = write_reference(made, "seg", tmp_path / "ct")
    write_label_map(tmp_path / "p.nii.gz", LabelMap(made.label_map.data, made.label_map.geometry))
    with pytest.raises(DataError, match=r"ct\.dcm: its structures have names.*--labels"):
        evaluate(tmp_path / "p.nii.gz", reference)


@pytest.mark.parametrize("kind", KINDS)
def test_without_labels_the_header_of_the_label_map_says_the_values_of_names(made, kind, tmp_path):
    reference = write_reference(made, kind, tmp_path / "ct")
    path = prediction(made, tmp_path / "ct_seg.nii.gz")
    report = evaluate(path, reference)
    assert report.to_csv() == evaluate(path, reference, labels=LABELS).to_csv()
    assert report.names_from == "headers of the predictions"


@pytest.mark.parametrize("kind", ["seg", "masks"])
def test_names_alone_on_both_sides_are_the_structures(made, kind, tmp_path):
    for side in ("p", "r"):
        write_reference(made, kind, tmp_path / side / "ct")
    report = evaluate(tmp_path / "p", tmp_path / "r")
    assert {name.lower() for name in report.labels.names} == {"liver", "kidney_left", "lost"}
    assert {s.value for s in report.scores if s.metric == "dice" and s.structure.lower() != "lost"} == {1.0}
    assert report.names_from == "names of the masks"


def test_the_command_line_says_what_reading_a_reference_had_to_assume(made, tmp_path, capsys):
    folder = write_reference(made, "masks", tmp_path / "references" / "ct")
    (folder / "lost.nii.gz").unlink()
    path = prediction(made, tmp_path / "ct_seg.nii.gz")
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"labels": LABELS.mapping()}))
    assert run(["evaluate", str(path), str(folder), "--labels", str(labels)]) == 0
    assert "warning: " in (said := capsys.readouterr().err)
    assert "warning: ct: no structure 'lost' in the reference: taken as empty" in " ".join(said.split())


@pytest.mark.parametrize("kind", KINDS)
def test_training_reads_them_on_the_images_grid(made, kind, tmp_path):
    write_reference(made, kind, tmp_path / "labels" / "ct")
    config = DataConfig(layout="folder", images=tmp_path / "images", labels=tmp_path / "labels")
    (case,) = list_cases(config, LABELS)
    (facts,) = check_dataset([case], LABELS)
    counts = {s.name: int(np.count_nonzero(made.label_map.data == s.value)) for s in LABELS.structures}
    assert facts.voxels == counts
    write_label_map(tmp_path / "plain.nii.gz", made.label_map)
    plan = tiny_plan(labels=LABELS.mapping(), spacing_mm=[1.5, 1.25, 2.0])
    plain = loading(plan)(Case("ct", "ct", case.images, tmp_path / "plain.nii.gz"))[1]
    np.testing.assert_array_equal(loading(plan)(case)[1].data, plain.data)


def test_in_an_archive_they_are_refused_and_never_read_by_their_own_numbers(made, tmp_path):
    reference = write_reference(made, "seg", tmp_path / "ct")
    with ZipFile(tmp_path / "ct.zip", "w") as archive:
        archive.write(reference, "ct.dcm")
    with pytest.raises(DataError, match=r"ct\.zip"):
        evaluate(prediction(made, tmp_path / "p" / "ct.nii.gz"), tmp_path / "ct.zip", labels=LABELS)


def test_what_infer_writes_beside_a_prediction_is_no_case_of_its_own(made, tmp_path):
    path = prediction(made, tmp_path / "predictions" / "ct_seg.nii.gz")
    for kind, name in (("seg", "ct_seg"), ("rtstruct", "ct_seg_rtstruct"), ("masks", "ct_seg")):
        write_reference(made, kind, path.parent / name)
    for file, content in WRITERS["seg-nrrd"].contents(replace(made, place=path.parent / "ct_seg")).items():
        file.write_bytes(content)
    references = write_reference(made, "rtstruct", tmp_path / "references" / "ct").parent
    assert [case.id for case in evaluate(path.parent, references, labels=LABELS).cases] == ["ct"]


def test_a_folder_of_slicers_segmentations_is_one_of_label_maps(made, tmp_path):
    place = tmp_path / "references" / "ct"
    place.parent.mkdir()
    for file, content in WRITERS["seg-nrrd"].contents(replace(made, place=place)).items():
        file.write_bytes(content)
    report = evaluate(prediction(made, tmp_path / "p" / "ct_seg.nii.gz").parent, place.parent, labels=LABELS)
    assert report.mean("dice", "liver") == 1.0
