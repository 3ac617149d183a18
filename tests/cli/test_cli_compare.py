import json

import pytest

from medseg.cli.app import run
from tests.workflows.test_evaluate import boxes, save

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture
def arguments(tmp_path):
    for n in range(3):
        save(tmp_path / "ref" / f"c{n}.nii.gz", boxes())
        save(tmp_path / "a" / f"c{n}.nii.gz", boxes(1))
        save(tmp_path / "b[red]" / f"c{n}.nii.gz", boxes(2 if n else 0))
    return ["compare", *map(str, (tmp_path / "a", tmp_path / "b[red]", "--reference", tmp_path / "ref"))]


def test_the_table_says_which_is_less_which_and_what_the_signs_mean(arguments, capsys):
    assert run([*arguments, "--margin", "dice=0.02"]) == 0
    out = capsys.readouterr().out
    for words in ("b[red] (second) less a (first)", "dice ↑", "not shown", "Holm", "3 case(s) of 3 patient(s)"):
        assert words in out


def test_json_is_one_object(arguments, capsys):
    assert run([*arguments, "--json", "--metric", "dice, iou"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == ["a", "b[red]"]
    assert [row["endpoint"]["metric"] for row in found["rows"]] == ["dice", "dice", "iou", "iou"]


def test_output_is_named_and_quiet_says_nothing(arguments, tmp_path, capsys):
    assert run([*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "methods.md" in capsys.readouterr().err
    assert run([*arguments, "--output", str(tmp_path / "out"), "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("margin", ["much", "dice=", "=0.1", "dice"])
def test_a_margin_that_is_no_number_is_a_usage_error(arguments, margin, capsys):
    assert run([*arguments, "--margin", margin]) == 2
    assert "margin" in capsys.readouterr().err


def test_a_model_that_lacks_a_case_is_refused_or_the_rest_compared_with_exit_code_1(arguments, tmp_path, capsys):
    (tmp_path / "a" / "c1.nii.gz").unlink()
    assert run(arguments) == 3
    capsys.readouterr()
    assert run([*arguments, "--skip-bad"]) == 1
    captured = capsys.readouterr()
    assert "against a" in " ".join(captured.out.split())
    assert "c1" in captured.err
