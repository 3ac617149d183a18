"""Mutants of every format: refused in one line that names the file, or read as a second reader reads them."""

from collections import Counter
from pathlib import Path

import pytest

from tests.io.fuzz import judge
from tests.io.fuzz.mutate import mutant
from tests.io.fuzz.run import SECONDS, Child, outcomes, table
from tests.io.fuzz.seeds import SEEDS

MUTANTS, SEED = 200, 2026


@pytest.mark.timeout(120)
def test_no_mutant_crashes_hangs_takes_memory_or_is_read_otherwise_than_by_a_second_reader() -> None:
    found = list(outcomes(SEED, 0, MUTANTS))
    assert not [one for one in found if one.failed], "python -m tests.io.fuzz.run --seed 2026 --first N --mutants 1"
    counts = Counter(one.outcome for one in found)
    assert counts["refused"] > MUTANTS / 4
    assert counts["agreed"] > MUTANTS / 5
    assert counts["alone"] < MUTANTS / 10
    assert f"| all | {MUTANTS} |" in table(found)


def test_a_mutant_can_be_made_again() -> None:
    import numpy as np

    files = {"a.mha": b"NDims = 3\nDimSize = 4 5 6\nElementDataFile = LOCAL\n" + bytes(240)}
    made = [[mutant(files, "text", np.random.default_rng([SEED, n])) for n in range(20)] for _ in range(2)]
    assert made[0] == made[1]
    assert sum(one != files for one in made[0]) > 15


def test_the_child_tells_a_crash_a_hang_and_an_answer_apart_and_is_started_again(tmp_path: Path, monkeypatch) -> None:
    scan = SEEDS["NIfTI-1 .nii"].build(tmp_path)
    child = Child()
    try:
        assert child.outcome(scan) == ("agreed", "")
        (tmp_path / "empty.nii").write_bytes(b"")
        assert child.outcome(tmp_path / "empty.nii")[0] == "refused"
        monkeypatch.setattr("tests.io.fuzz.run.SECONDS", 0.2)
        child.freeze()
        assert child.outcome(scan)[0] == "hung"
        monkeypatch.setattr("tests.io.fuzz.run.SECONDS", SECONDS)
        assert child.outcome(scan) == ("agreed", "")
        assert child.starts == 2
        child.kill()
        assert child.outcome(scan)[0] == "crashed"
    finally:
        child.stop()


def test_the_judge_sees_a_shift_a_changed_voxel_and_a_refusal_without_the_name(tmp_path: Path) -> None:
    import dataclasses

    from medseg.core.geometry import Geometry

    path = SEEDS["NIfTI-1 .nii"].build(tmp_path)
    scan = judge.read(path)
    assert not isinstance(scan, judge.Verdict)
    assert judge.check(path, scan).outcome == "agreed"
    affine = scan.volume.geometry.affine.copy()
    affine[0, 3] += 0.02
    moved = dataclasses.replace(scan.volume, geometry=Geometry(scan.volume.geometry.shape, affine))
    assert "0.02 mm" in judge.check(path, dataclasses.replace(scan, volume=moved)).words
    data = scan.volume.data.copy()
    data[0, 1, 2, 3] += 1
    changed = dataclasses.replace(scan, volume=dataclasses.replace(scan.volume, data=data))
    assert "1 of 210 voxels" in judge.check(path, changed).words
    assert judge._refusal("it is wrong", path).outcome == "wrong"
    assert judge._refusal(f"{path}: of Secret^Name", path).outcome == "wrong"
    assert judge._refusal(f"{path}: two\nlines", path).outcome == "wrong"
