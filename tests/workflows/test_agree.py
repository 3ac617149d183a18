import csv
import math

import numpy as np
import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.workflows.agree import agree
from tests.workflows.test_evaluate import LABELS, boxes, save

VOXEL_ML = 0.8 * 1.2 * 3.0 / 1000


@pytest.fixture
def readers(tmp_path):
    """Three readers of four cases: b draws a plane more of the tumour, c leaves the tumour of case 3 out."""
    for n in range(4):
        larger = boxes()
        larger[6, 4:6, 3:5] = 5
        save(tmp_path / "a" / f"c{n}.nii.gz", boxes())
        save(tmp_path / "b" / f"c{n}.nii.gz", larger)
        save(tmp_path / "c" / f"c{n}.nii.gz", boxes(tumour=n != 3))
    return [tmp_path / name for name in "abc"]


def of(rows, **wanted):
    (row,) = [r for r in rows if all(getattr(r, k) == v for k, v in wanted.items())]
    return row


def test_pairs_by_hand(readers):
    found = agree(readers, labels=LABELS)
    ab = of(found.pairs, structure="tumour", first="a", second="b")
    assert (ab.cases, ab.dice) == (4, pytest.approx(2 * 8 / 20))
    assert (ab.bias_ml, ab.low_ml, ab.high_ml) == pytest.approx((4 * VOXEL_ML,) * 3)
    ac = of(found.pairs, structure="tumour", first="a", second="c")
    assert (ac.cases, ac.dice) == (4, pytest.approx(3 / 4))
    assert ac.bias_ml == pytest.approx(-8 * VOXEL_ML / 4)


def test_structures_by_hand_and_a_structure_left_out_lowers_them(readers):
    tumour = of(agree(readers, labels=LABELS).structures, structure="tumour")
    assert (tumour.cases, tumour.least_dice) == (4, 0.0)
    assert tumour.dice == pytest.approx((3 * (0.8 + 1.0 + 0.8) / 3 + (0.8 + 0 + 0) / 3) / 4)
    assert tumour.sdc_ml > 0
    assert tumour.icc < 0.5


def test_cases_without_the_structure_in_any_reader_say_nothing_of_it(readers, tmp_path):
    for reader in readers[:2]:
        save(reader / "c3.nii.gz", boxes(tumour=False))
    found = agree(readers[:2], labels=LABELS)
    assert of(found.structures, structure="tumour").cases == 3
    nowhere = of(agree(readers[:2], labels=LABELS | {"cyst": 9}).structures, structure="cyst")
    assert nowhere.cases == 0
    assert math.isnan(nowhere.dice)
    assert math.isnan(nowhere.icc)


def test_readers_who_drew_the_same_agree_wholly(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(3):
        data = boxes()
        data[: n + 1, 0, 0] = 5
        data[0, int(rng.integers(3, 9)), 8] = 5
        for name in "ab":
            save(tmp_path / name / f"c{n}.nii.gz", data)
    found = of(agree([tmp_path / "a", tmp_path / "b"], labels=LABELS).structures, structure="tumour")
    assert (found.dice, found.icc, found.sdc_ml) == pytest.approx((1.0, 1.0, 0.0), abs=1e-9)


def test_files_and_table_hold_every_structure_and_pair(readers, tmp_path):
    found = agree(readers, labels=LABELS, output=tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "agreement.csv").read_text().splitlines()))
    assert [r["structure"] for r in rows] == ["liver", "tumour"]
    assert len((tmp_path / "out" / "pairs.csv").read_text().splitlines()) == 1 + 2 * 3
    assert len(found.table()) == 3
    liver, tumour = found.table()[1:]
    assert "*" not in liver[2]
    assert "*" not in tumour[2]
    assert len(found.pair_table()) == 7


def test_an_interval_of_two_cases_is_marked(readers):
    for reader in readers:
        for name in ("c2", "c3"):
            (reader / f"{name}.nii.gz").unlink()
    assert agree(readers, labels=LABELS).table()[2][2].endswith("]*")


def test_one_reader_or_a_missing_case_is_refused(readers):
    with pytest.raises(ConfigError, match="two or more"):
        agree(readers[:1])
    with pytest.raises(ConfigError, match="given twice"):
        agree([readers[0], readers[0]])
    (readers[1] / "c2.nii.gz").unlink()
    with pytest.raises(DataError, match="missing for 1 of 4"):
        agree(readers, labels=LABELS)


def test_the_verb_prints_both_tables(readers, capsys):
    from medseg.cli.app import run

    assert run(["agree", *map(str, readers)]) == 0
    out = capsys.readouterr().out
    assert "ICC" in out
    assert "pair by pair" in out
