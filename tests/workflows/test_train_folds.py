"""`--fold all`: every fold trained, stopped and resumed in any of them, and one report over all cases."""

import csv
import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from medseg.core.config import config_from
from medseg.core.errors import DataError, Interrupted
from medseg.core.scores import ScoredCase
from medseg.data.given_splits import check_split
from medseg.data.layouts import list_cases
from medseg.report.evaluation import Report
from medseg.workflows.train import train
from medseg.workflows.train_cross_validation import cross_validation
from tests.data.tiny_dataset import config, tiny

pytestmark = pytest.mark.usefixtures("one_thread")
ALL = {"fold": "all", "folds": 3, "steps": 3}


def dice_by_case(folder):
    with (folder / "scores.csv").open() as file:
        return {(r["case"], r["structure"]): float(r["value"]) for r in csv.DictReader(file) if r["metric"] == "dice"}


def test_all_folds_are_reported_together_each_case_once(root, tmp_path, no_pictures):
    result = train(config(root, train=ALL), output=tmp_path / "run")
    together = dice_by_case(tmp_path / "run" / "validation")
    apart = [dice_by_case(tmp_path / "run" / f"fold_{n}" / "validation") for n in range(3)]
    assert together == {key: value for fold in apart for key, value in fold.items()}
    assert sorted(together) == [(f"case_{n:02d}", name) for n in range(4) for name in ("liver", "tumour")]
    assert sum(map(len, apart)) == len(together)
    summary = json.loads((tmp_path / "run" / "validation" / "summary.json").read_text())
    liver = next(row for row in summary["summaries"] if (row["metric"], row["structure"]) == ("dice", "liver"))
    values = [value for (_, name), value in together.items() if name == "liver"]
    assert (liver["n"], liver["patients"], liver["interval"]) == (4, 4, "BCa")
    assert liver["mean"] == pytest.approx(sum(values) / 4)
    assert min(values) <= liver["low"] <= liver["mean"] <= liver["high"] <= max(values)
    assert result.dice["liver"] == pytest.approx(sum(values) / 4)
    card = json.loads((result.model_folder / "model.json").read_text())
    assert list(card["validation"]) == ["cross_validation", "fold_0", "fold_1", "fold_2"]
    told = card["validation"]["cross_validation"]
    assert (told["cases"], told["dice"]) == (4, pytest.approx(result.dice))
    assert told["dice_interval"]["liver"] == [liver["low"], liver["high"]]
    (calibration,) = card["inference"]["predicted_dice"]
    assert sorted(calibration["scans"]) == ["fold_0", "fold_1", "fold_2"]
    for n, fold in enumerate(apart):  # each patient has one scan; what was not found has no pair
        measured = [dice for ((_, dice),) in calibration["scans"][f"fold_{n}"].get("liver", [])]
        liver_of_fold = [value for (_, name), value in fold.items() if name == "liver" and value > 0]
        assert sorted(value for value in measured if value > 0) == pytest.approx(sorted(liver_of_fold), abs=1e-6)
    readme = (result.model_folder / "README.md").read_text()
    assert f"| liver | {liver['mean']:.4f} | {liver['low']:.4f} to {liver['high']:.4f} |" in readme
    assert sorted(card["weights"]) == [f"fold_{n}.safetensors" for n in range(3)]
    assert "all folds" in result._repr_html_()


def test_a_run_stopped_in_its_second_fold_goes_on_there_to_the_same_bits(root, tmp_path, no_pictures):
    content = config(root, train=ALL)
    whole = train(content, output=tmp_path / "whole")
    steps = []

    def stop_in_the_second_fold(stage, done, total):
        if stage == "train":
            steps.append(done)
            if steps == [1, 2, 3, 1, 2]:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train(content, output=tmp_path / "run", progress=stop_in_the_second_fold)
    assert (tmp_path / "run" / "model" / "fold_0.safetensors").is_file()
    assert not (tmp_path / "run" / "validation").exists()
    steps.clear()
    result = train(content, output=tmp_path / "run", resume=True, progress=lambda *told: steps.append(told[:2]))
    assert [done for stage, done in steps if stage == "train"] == [3, 1, 2, 3]  # one step of fold 1, and all of fold 2
    for n in range(3):
        resumed = load_file(result.model_folder / f"fold_{n}.safetensors")
        for key, value in load_file(whole.model_folder / f"fold_{n}.safetensors").items():
            assert torch.equal(resumed[key], value)
    assert dice_by_case(tmp_path / "run" / "validation") == dice_by_case(tmp_path / "whole" / "validation")


def test_given_splits_and_a_patient_column_go_all_the_way(tmp_path, no_pictures):
    tiny(tmp_path / "data").finish()
    content = config(tmp_path / "data", layout="csv", train={"fold": 1, "folds": 3, "steps": 1})
    table = tmp_path / "data" / "cases.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([f"{header},patient,fold", *(f"{r},p{n // 2},{n // 2}" for n, r in enumerate(rows))]))
    result = train(content, output=tmp_path / "run")
    assert [case.id for case in result.validation["fold_1"].cases] == ["case_02", "case_03"]
    splits = tmp_path / "run" / "splits.json"
    again = content | {"data": content["data"] | {"splits": str(splits)}, "train": content["train"] | {"fold": 0}}
    other = train(again, output=tmp_path / "again")
    assert [case.id for case in other.validation["fold_0"].cases] == ["case_00", "case_01"]
    assert json.loads((tmp_path / "again" / "splits.json").read_text()) == json.loads(splits.read_text())
    cases = list_cases(config_from(again).data)
    for split in json.loads(splits.read_text()):
        check_split(split, cases)


def test_a_leak_in_given_splits_is_told_before_anything_is_read(root, tmp_path):
    given = tmp_path / "splits.json"
    given.write_text(json.dumps([{"train": ["case_00", "case_01"], "val": ["case_02", "case_03"]}]))
    content = config(root, data={"splits": str(given), "group": r"case_\d(?=[03])|case_0[12]"})
    read = []
    with pytest.raises(DataError, match=r"case_00 \(training\) and case_03 \(validation\) are of one patient"):
        train(content, output=tmp_path / "run", progress=lambda *told: read.append(told))
    assert not read
    assert not (tmp_path / "run").exists()


def report_of(*cases):
    files = tuple(ScoredCase(case, "p", "r", "", "", (1, 1, 1), (1.0, 1.0, 1.0)) for case in cases)
    return Report((), (), None, files)


def test_folds_that_share_a_case_have_no_report_together():
    assert cross_validation({"fold_0": report_of("a")}, []) is None
    assert cross_validation({"fold_0": report_of("a", "b"), "fold_1": report_of("b")}, []) is None
