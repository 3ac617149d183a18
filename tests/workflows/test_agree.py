import csv
import math

import nibabel as nib
import numpy as np
import pytest

from medseg import evaluate
from medseg.core.errors import ConfigError, DataError
from medseg.workflows.agree import agree
from tests.workflows.test_evaluate import AFFINE, LABELS, boxes, save

FILES = {"agreement.html", "agreement.csv", "agreement.png", "agreement.svg", "pairs.csv", "methods.md"}
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
    found = agree(readers[:2], labels=LABELS | {"cyst": 9})
    assert [row[0] for row in found.table()[1:]] == ["liver", "tumour"]
    assert len(found.pair_table()) == 3
    assert found.nowhere().endswith("readers: cyst.")
    nowhere = of(found.structures, structure="cyst")
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
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES
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


# Models among the readers


def test_a_model_against_readers_by_hand(readers, tmp_path):
    for n in range(4):
        save(tmp_path / "model" / f"c{n}.nii.gz", boxes(tumour=n != 0))
    found = agree(readers, models=[tmp_path / "model"], labels=LABELS, margin=0.1)
    tumour = of(found.models, structure="tumour", model="model")
    # Dice of b with a and c is 0.8; a = c but in case 3, where c has none. The model has none in case 0, else it is a.
    between = [(0.8 + 1 + 0.8) / 3] * 3 + [(0.8 + 0 + 0) / 3]
    with_model = [0.0, *[(1 + 0.8 + 1) / 3] * 2, (1 + 0.8 + 0) / 3]
    assert (tumour.found.readers, tumour.found.model) == pytest.approx((np.mean(between), np.mean(with_model)))
    assert tumour.found.index == pytest.approx(sum(with_model) / sum(between))
    assert tumour.not_inferior is False
    assert found.conclusions()[0].endswith("for liver; this was not shown for tumour.")
    assert of(found.alone, structure="tumour", reader="c").dice == pytest.approx((3 * (1 + 0.8) / 2 + 0) / 4)


def test_what_a_model_alone_drew_is_spurious_and_without_a_margin_nothing_is_claimed(readers, tmp_path):
    for n in range(4):
        data = boxes()
        data[0, 0, 0] = 9
        save(tmp_path / "model" / f"c{n}.nii.gz", data)
    found = agree(readers, models=[tmp_path / "model"])
    nine = of(found.models, structure="9")
    assert (nine.found.cases, nine.found.spurious, nine.not_inferior) == (0, 4, None)
    assert "no claim of non-inferiority" in found.conclusions()[0]
    assert of(found.structures, structure="9").cases == 0


def test_the_page_and_the_methods_speak_of_models_and_consensus(readers, tmp_path, capsys):
    from medseg.cli.app import run

    model = readers[2].rename(tmp_path / "<c>")
    for n in range(4):
        save(tmp_path / "d" / f"c{n}.nii.gz", boxes(1))
    out = tmp_path / "out"
    given = [*map(str, readers[:2]), str(tmp_path / "d"), "--model", str(model), "--margin", "0.05"]
    assert run(["agree", *given, "--consensus", "staple", "--output", str(out), "--group", "^c."]) == 0
    printed = capsys.readouterr().out
    for words in ("Williams' index", "readers by STAPLE", "not shown"):
        assert words in printed
    assert {p.name for p in out.iterdir()} == FILES | {"models.csv", "readers.csv", "consensus"}
    page, methods = (out / "agreement.html").read_text(), (out / "methods.md").read_text()
    assert "<c>" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    for words in ("10.2307/2529750", "10.1109/TMI.2004.828354", "10.1001/jama.2012.87802", "`^c.`", "−0.05"):
        assert words in methods
    rows = list(csv.DictReader((out / "models.csv").read_text().splitlines()))
    assert {"readers", "model", "difference", "interval_low", "index_interval_high", "not_inferior"} <= set(rows[0])
    assert [(r["structure"], r["not_inferior"]) for r in rows] == [("1", "True"), ("5", "False")]
    assert len((out / "readers.csv").read_text().splitlines()) == 1 + 2 * 3


def test_a_second_run_gives_the_same_bytes(readers, tmp_path):
    for name in ("one", "two"):
        agree(readers, labels=LABELS, consensus="staple", output=tmp_path / name)
    for path in sorted((tmp_path / "one").rglob("*")):
        if path.is_file() and path.suffix != ".html":  # which says when it was made
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes(), path.name


# Consensus


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("method", ["majority", "staple"])
def test_a_consensus_lies_on_the_first_readers_grid_whatever_the_others_storage_order(readers, tmp_path, method):
    for n in range(4):
        path = readers[2] / f"c{n}.nii.gz"
        image = nib.load(path)
        nib.save(image.as_reoriented(nib.orientations.axcodes2ornt("IPR")), path)
    agree(readers, labels=LABELS, consensus=method, output=tmp_path / "out")
    for n in range(4):
        found = nib.load(tmp_path / "out" / "consensus" / f"c{n}.nii.gz")
        assert np.array_equal(np.asarray(found.dataobj), boxes())  # two of three drew these
        assert found.affine == pytest.approx(AFFINE)
        assert found.header.get_intent()[0] == "label"


@pytest.mark.usefixtures("blank_figures")
def test_two_readers_have_a_majority_where_both_drew_and_the_rest_is_counted(readers, tmp_path):
    found = agree(readers[:2], labels=LABELS, consensus="majority", output=tmp_path / "out")
    data = np.asarray(nib.load(tmp_path / "out" / "consensus" / "c0.nii.gz").dataobj)
    assert (data == 5).sum() == 8
    # Of the plane that b alone calls tumour, both drew something: liver and tumour, one each.
    assert found.undecided_ml == pytest.approx(4 * 4 * VOXEL_ML)
    assert f"{found.undecided_ml:.2f} mL" in found.methods()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"consensus": "median", "output": "out"}, "majority or staple"),
        ({"consensus": "majority"}, "--output"),
        ({"margin": 0.02}, "--model"),
        ({"models": ["c"], "margin": 1.5}, "below 1"),
    ],
)
def test_what_was_asked_wrongly_is_refused(readers, tmp_path, given, message):
    given = given | ({"output": tmp_path / "out"} if "output" in given else {})
    given = given | ({"models": [readers[2]]} if "models" in given else {})
    with pytest.raises(ConfigError, match=message):
        agree(readers[:2], **given)
    assert not (tmp_path / "out").exists()


def test_staple_of_two_readers_is_refused(readers, tmp_path):
    with pytest.raises(ConfigError, match="needs 3 or more"):
        agree(readers[:2], consensus="staple", output=tmp_path / "out")


def test_a_reader_given_as_a_model_is_refused(readers):
    with pytest.raises(ConfigError, match="given twice"):
        agree(readers, models=[readers[0]])


@pytest.mark.usefixtures("blank_figures")
def test_noisy_readers_of_real_scans_make_a_consensus_better_than_each_of_them(real_data, tmp_path):
    labels = real_data / "Task04_Hippocampus" / "labelsTr"
    paths = sorted(labels.glob("hippocampus_0*.nii.gz"))[:4]
    for path in paths:
        image = nib.load(path)
        data = np.asarray(image.dataobj).astype(np.uint8)
        for n, name in enumerate("abc"):
            save(tmp_path / name / path.name, np.roll(data, 1, axis=n), image.affine)
        save(tmp_path / "truth" / path.name, data, image.affine)
    given = [tmp_path / name for name in "abc"]
    for method in ("majority", "staple"):
        agree(given, consensus=method, output=tmp_path / method)
        best = evaluate(tmp_path / method / "consensus", tmp_path / "truth", metrics=["dice"]).mean("dice")
        assert best > max(evaluate(g, tmp_path / "truth", metrics=["dice"]).mean("dice") for g in given)
