"""What the dataset check measures and refuses, on small scans with facts known by construction."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from medseg.core.case import Case
from medseg.core.errors import DataError
from medseg.core.labels import Labels
from medseg.data.check import FOREGROUND_SAMPLES, check_dataset, joined, warnings_of
from medseg.data.fingerprint import fingerprint
from medseg.data.split import split_by_patient
from tests.data.tiny_dataset import AFFINE, LABELS, SHAPE, pair, save

NAMED = Labels.from_mapping(LABELS)


def case(folder, name, image, label, affine=AFFINE):
    return Case(
        name, name, (save(folder / "images" / f"{name}.nii.gz", image, affine),),
        save(folder / "labels" / f"{name}.nii.gz", label, affine),
    )  # fmt: skip


def reoriented(data, codes):
    """``data`` on AFFINE stored in another orientation, by nibabel."""
    wanted = nib.orientations.axcodes2ornt(tuple(codes))
    change = nib.orientations.ornt_transform(nib.orientations.io_orientation(AFFINE), wanted)
    image = nib.Nifti1Image(data, AFFINE).as_reoriented(change)
    return np.asanyarray(image.dataobj), image.affine


def test_facts_are_those_of_the_files(tmp_path):
    image, label = pair(0)
    (facts,) = check_dataset([case(tmp_path, "a", image, label)], NAMED)
    assert facts.shape == SHAPE
    np.testing.assert_allclose(facts.spacing_mm, (1.5, 1.25, 2.0), rtol=1e-5)
    assert facts.voxels == {"liver": int((label == 1).sum()), "tumour": int((label == 2).sum())}
    assert facts.channels == 1
    assert facts.warnings == ()
    assert sorted(facts.foreground[0].tolist()) == sorted(image[label > 0].tolist())  # fewer than the sample


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
def test_facts_do_not_depend_on_the_storage_order(tmp_path, codes):
    image, label = pair(0)
    image = np.tile(image, (1, 1, 30))  # more foreground than is sampled
    label = np.tile(label, (1, 1, 30))
    (stored, affine), (stored_label, _) = reoriented(image, codes), reoriented(label, codes)
    (a,) = check_dataset([case(tmp_path, "a", image, label)], NAMED)
    (b,) = check_dataset([case(tmp_path, "b", stored, stored_label, affine)], NAMED)
    assert a.foreground.shape == (1, FOREGROUND_SAMPLES)
    np.testing.assert_array_equal(a.foreground, b.foreground)
    assert (a.shape, a.voxels, a.content) == (b.shape, b.voxels, b.content)
    np.testing.assert_allclose(a.spacing_mm, b.spacing_mm, rtol=1e-5)


def test_the_sample_is_the_same_every_time_and_lies_inside(tmp_path):
    image, label = (np.tile(part, (2, 2, 30)) for part in pair(0))
    given = case(tmp_path, "a", image, label)
    (a,), (b,) = check_dataset([given], NAMED), check_dataset([given], NAMED)
    np.testing.assert_array_equal(a.foreground, b.foreground)
    assert a.foreground.mean() == pytest.approx(image[label > 0].mean(), abs=2)


@pytest.mark.parametrize("how", ["byte for byte", "as float", "stored flipped"])
def test_one_scan_under_two_names_is_a_leak(tmp_path, how):
    image, label = pair(0)
    other, affine = image, AFFINE
    if how == "as float":
        other = image.astype(np.float32)
    if how == "stored flipped":
        other, affine = reoriented(image, "LPI")
        label_other, _ = reoriented(label, "LPI")
    cases = [
        case(tmp_path, "a", image, label),
        case(tmp_path, "b", *pair(1)),
        case(tmp_path, "c", other, label_other if how == "stored flipped" else label, affine),
    ]
    with pytest.raises(DataError, match=r"a and c have identical images \(duplicate\)"):
        check_dataset(cases, NAMED)


def test_two_constant_images_are_no_duplicates(tmp_path):
    _, label = pair(0)
    cases = [case(tmp_path, name, np.full(SHAPE, 7, np.int16), label) for name in "ab"]
    facts = check_dataset(cases, NAMED)
    assert warnings_of(facts, NAMED) == ["a: the image is constant", "b: the image is constant"]


def test_what_many_cases_share_is_said_once(tmp_path):
    _, label = pair(0)
    cases = [case(tmp_path, name, np.full(SHAPE, 7, np.int16), label) for name in "abcd"]
    assert warnings_of(check_dataset(cases, NAMED), NAMED) == ["a and 3 more: the image is constant"]


def test_a_case_without_any_structure_is_told_and_kept(tmp_path):
    image, label = pair(0)
    other, _ = pair(1)
    facts = check_dataset([case(tmp_path, "a", image, label), case(tmp_path, "b", other, label * 0)], NAMED)
    assert warnings_of(facts, NAMED) == ["b: the label holds no structure"]
    measured = fingerprint(facts)
    assert measured.cases_per_structure == {"liver": 1, "tumour": 1}


def test_a_structure_that_is_nowhere_is_told(tmp_path):
    image, label = pair(0)
    facts = check_dataset([case(tmp_path, "a", image, np.minimum(label, 1))], NAMED)
    assert warnings_of(facts, NAMED) == ["structure 'tumour' is in no case: it will not be learnt"]


def test_every_bad_case_is_told_at_once_in_the_order_of_the_cases(tmp_path):
    cases = [case(tmp_path, f"c{n}", *pair(n)) for n in range(8)]
    for bad in cases[1:]:
        assert bad.reference is not None
        bad.reference.write_bytes(b"nothing")
    with pytest.raises(DataError) as caught:
        check_dataset(cases, NAMED)
    message = str(caught.value)
    assert message.startswith("7 problem(s) in the dataset: label ")
    assert "(and 2 more)" in message
    assert [message.index(f"c{n}.nii.gz") for n in range(1, 6)] == sorted(
        message.index(f"c{n}.nii.gz") for n in range(1, 6)
    )


def test_progress_counts_every_case(tmp_path):
    told = []
    check_dataset(
        [case(tmp_path, f"c{n}", *pair(n)) for n in range(3)], NAMED, progress=lambda *what: told.append(what)
    )
    assert told == [("check", 1, 3), ("check", 2, 3), ("check", 3, 3)]


def test_the_fingerprint_by_hand(tmp_path):
    image, label = pair(0)
    second = image[:, :, :10] + 5
    measured = fingerprint(
        check_dataset(
            [case(tmp_path, "a", image, label), case(tmp_path, "b", second, np.minimum(label[:, :, :10], 1))], NAMED
        )
    )
    inside = np.concatenate([image[label > 0], second[label[:, :, :10] > 0]]).astype(float)
    (intensity,) = measured.foreground
    assert (measured.cases, measured.channels) == (2, 1)
    assert measured.median_shape == (24, 20, 13)
    assert measured.shapes == ((24, 20, 16), (24, 20, 10))
    assert intensity.mean == pytest.approx(inside.mean())
    assert intensity.sd == pytest.approx(inside.std())
    assert intensity.percentile_0_5 == pytest.approx(np.percentile(inside, 0.5))
    assert intensity.percentile_99_5 == pytest.approx(np.percentile(inside, 99.5))
    assert (intensity.minimum, intensity.maximum) == (inside.min(), inside.max())
    assert measured.cases_per_structure == {"liver": 2, "tumour": 1}
    assert measured.voxels_per_structure["tumour"] == (label == 2).sum()


def overlapping(folder):
    """Four cases, of which b is a part of a, elsewhere in the world."""
    image, label = pair(0)
    moved = AFFINE.copy()
    moved[:3, 3] += (246, 0, 0)
    return [
        case(folder, "a", image, label),
        case(folder, "b", image[:, :, 2:-2], label[:, :, 2:-2], moved),
        case(folder, "c", *pair(1)),
        case(folder, "d", *pair(2)),
    ]


def test_parts_of_one_scan_become_one_patient(tmp_path):
    cases = overlapping(tmp_path)
    facts = check_dataset(cases, NAMED)
    kept = joined(cases, facts)
    assert [one.patient for one in kept] == ["a", "a", "c", "d"]
    (line,) = warnings_of(facts, NAMED)
    assert line.startswith("a, b show one scan: they share 100% of the smaller image's voxels")
    for split in split_by_patient(kept, folds=3, seed=0):
        assert ("a" in split["train"]) == ("b" in split["train"])


def test_one_dicom_patient_under_two_names_is_told_unless_all_are_one(tmp_path):
    cases = [case(tmp_path, name, *pair(n)) for n, name in enumerate("abcd")]
    facts = check_dataset(cases, NAMED)
    some = [replace(f, patient_id=who) for f, who in zip(facts, ("7", "8", "7", ""), strict=True)]
    (line,) = warnings_of(some, NAMED)
    assert line.startswith("a, c have the same DICOM PatientID")
    anonymous = [replace(f, patient_id="ANON") for f in facts]
    assert warnings_of(anonymous, NAMED) == []


def test_ignored_voxels_and_structures_not_annotated_count_nowhere(tmp_path):
    image, label = pair(0)
    label[:, :, 8:] = 255
    one = replace(case(tmp_path, "a", image, label), annotated=("tumour",))
    with pytest.raises(DataError, match="label value 255"):
        check_dataset([one], NAMED)
    (facts,) = check_dataset([one], Labels.from_mapping(LABELS, ignore=255))
    assert facts.voxels == {"liver": 0, "tumour": int((label == 2).sum())}
    assert facts.ignored == int((label == 255).sum())
    assert sorted(facts.foreground[0].tolist()) == sorted(image[label == 2].tolist())
    assert fingerprint([facts]).ignored_voxels == facts.ignored
    assert fingerprint([facts]).cases_per_structure == {"liver": 0, "tumour": 1}
