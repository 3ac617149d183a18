"""Preprocessed cases on disk: made once, found again, whole or not there."""

import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.core.case import Case
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.store import LOCATIONS, build_store, store_key
from tests.models.tiny_model import tiny_plan

GRID = Geometry((30, 20, 16), np.eye(4))
CASES = [Case(name, name, (), Path("label.nii")) for name in ("a", "b", "c/d")]


def load(case: Case) -> tuple[Volume, LabelMap]:
    random = np.random.default_rng(len(case.id))
    reference = np.zeros(GRID.shape, np.uint8)
    reference[2:20, 3:18, 1:15] = 1
    reference[5:7, 5:7, 5:7] = 2
    return Volume(random.normal(size=(1, *GRID.shape)).astype(np.float32), GRID), LabelMap(reference, GRID)


def test_what_is_stored_is_what_was_loaded(tmp_path):
    stored = build_store(tmp_path, CASES, tiny_plan(), load)
    assert [s.id for s in stored] == ["a", "b", "c/d"]
    for case, found in zip(CASES, stored, strict=True):
        image, reference = load(case)
        np.testing.assert_array_equal(found.image, image.data)
        np.testing.assert_array_equal(found.reference, reference.data)


def test_locations_are_voxels_of_their_channel_spread_over_it(tmp_path):
    (stored,) = build_store(tmp_path, CASES[:1], tiny_plan(), load)
    channels, voxels = stored.locations[:, 0], stored.locations[:, 1:]
    np.testing.assert_array_equal(stored.reference[tuple(voxels.T)], channels)
    assert (channels == 1).sum() == LOCATIONS
    assert (channels == 2).sum() == 8
    assert len(np.unique(voxels, axis=0)) == len(voxels)
    np.testing.assert_allclose(voxels[channels == 1].mean(0), (10.5, 10, 7.5), atol=0.5)


def test_a_case_without_structures_has_no_locations(tmp_path):
    def empty(case: Case) -> tuple[Volume, LabelMap]:
        image, reference = load(case)
        return image, LabelMap(np.zeros_like(reference.data), GRID)

    (stored,) = build_store(tmp_path, CASES[:1], tiny_plan(), empty)
    assert stored.locations.shape == (0, 4)


def test_a_second_start_loads_nothing_again(tmp_path):
    build_store(tmp_path, CASES[:2], tiny_plan(), load)
    asked = []

    def counted(case: Case) -> tuple[Volume, LabelMap]:
        asked.append(case.id)
        return load(case)

    build_store(tmp_path, CASES, tiny_plan(), counted)
    assert asked == ["c/d"]


def test_a_case_whose_record_is_missing_is_made_again(tmp_path):
    """As after a kill between its arrays and its record, which is written last."""
    (stored,) = build_store(tmp_path, CASES[:1], tiny_plan(), load)
    stored.file("json").unlink()
    stored.file("image.npy").write_bytes(b"half")
    (again,) = build_store(tmp_path, CASES[:1], tiny_plan(), load)
    np.testing.assert_array_equal(again.image, load(CASES[0])[0].data)


def case_of(folder: Path, *names: str) -> Case:
    """A case whose image and label map are files with their own name as content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return Case("a", "a", (folder / names[0],), folder / names[-1])


@pytest.mark.parametrize("which", [0, 1], ids=["image", "label map"])
@pytest.mark.parametrize("keep_date", [True, False])
def test_a_scan_that_was_edited_between_two_starts_is_made_again(tmp_path, which, keep_date):
    """Same size, and the same date if need be: content alone counts."""
    case = case_of(tmp_path, "image.nii", "label.nii")
    asked: list[str] = []

    def counted(case: Case) -> tuple[Volume, LabelMap]:
        asked.append(case.images[0].read_text())
        return load(case)

    build_store(tmp_path / "store", [case], tiny_plan(), counted)
    edited = (*case.images, case.reference)[which]
    before = edited.stat()
    edited.write_text(edited.read_text().upper())
    if keep_date:
        os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns))
    build_store(tmp_path / "store", [case], tiny_plan(), counted)
    build_store(tmp_path / "store", [case], tiny_plan(), counted)
    assert len(asked) == 2
    os.utime(edited)  # a new date is no new content
    build_store(tmp_path / "store", [case], tiny_plan(), counted)
    assert len(asked) == 2
    changed = [replace(case, left_out=(3,))]
    build_store(tmp_path / "store", changed, tiny_plan(), counted)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("names", "edited", "image"),
    [
        (("scan/1.dcm", "scan/deep/2.dcm", "label.nii"), "scan/deep/2.dcm", "scan"),
        (("scan.mhd", "scan.raw", "label.nii"), "scan.raw", "scan.mhd"),
    ],
    ids=["DICOM folder", "header beside its voxels"],
)
def test_every_file_of_a_scan_counts(tmp_path, names, edited, image):
    case = replace(case_of(tmp_path, *names), images=(tmp_path / image,))
    asked: list[str] = []

    def counted(case: Case) -> tuple[Volume, LabelMap]:
        asked.append(case.id)
        return load(case)

    for content in ("x", "x", "y"):
        (tmp_path / edited).write_text(content)
        build_store(tmp_path / "store", [case], tiny_plan(), counted)
    assert len(asked) == 2


def test_killed_while_it_is_made_again_a_case_is_not_there(tmp_path):
    case = case_of(tmp_path, "image.nii", "label.nii")
    (stored,) = build_store(tmp_path / "store", [case], tiny_plan(), load)
    case.reference.write_text("edited")

    def killed(case: Case) -> tuple[Volume, LabelMap]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_store(tmp_path / "store", [case], tiny_plan(), killed)
    assert not stored.file("json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": [1, 1, 1]},
        {"labels": {"background": 0, "liver": 1, "tumour": 3}},
        {"channels": 2, "intensity": [{"scheme": "z_score"}] * 2},
    ],
)
def test_what_changes_the_voxels_changes_the_place(change):
    assert store_key(tiny_plan(**change)) != store_key(tiny_plan())


def test_what_does_not_change_the_voxels_keeps_the_place():
    assert store_key(tiny_plan(steps=7, learning_rate=0.1, patch_size=[4, 4, 4], seed=5)) == store_key(tiny_plan())


def test_more_cases_than_file_descriptors_can_be_used(tmp_path):
    cases = [Case(str(n), str(n), (), Path("label.nii")) for n in range(40)]
    stored = build_store(tmp_path, cases, tiny_plan(), load)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        total = sum(float(s.image[0, 0, 0, 0]) + int(s.reference[5, 5, 5]) + len(s.locations) for s in stored)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.isfinite(total)
