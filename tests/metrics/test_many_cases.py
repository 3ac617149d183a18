"""Cases on child processes: the scores of one process, in the same order, to the last bit; and when it is worth it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg import evaluate
from medseg.cli.app import run
from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.nifti import write_label_map
from medseg.metrics import many_cases

LABELS = {"background": 0, "liver": 1, "tumour": 7}
OPTIONS = {
    "labels": LABELS,
    "metrics": ["all"],
    "tolerance_mm": {"": 1.0, "tumour": 3.0},
    "lesions": ["tumour"],
    "regions": {"both": ["liver", "tumour"]},
    "resample": True,
}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Twelve cases: noise, one resampled, one where the tumour is missed, one name that is no UTF-8."""
    rng = np.random.default_rng(0)
    grid = Geometry((12, 11, 9), np.diag([0.7, 1.1, 3.0, 1.0]))
    moved = grid.affine.copy()
    moved[:3, 3] = 0.4
    for n in range(12):
        name = "caf\udce9" if n == 11 else f"c{n:02}"
        for folder in ("p", "r"):
            data = rng.choice(np.array([0, 0, 0, 1, 7], np.uint8), grid.shape)
            if n == 5 and folder == "p":
                data[data == 7] = 0
            on = Geometry(grid.shape, moved) if n == 3 and folder == "p" else grid
            write_label_map(tmp_path / folder / f"{name}.nii.gz", LabelMap(data, on, Labels.from_mapping(LABELS)))
    return tmp_path / "p", tmp_path / "r"


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the children started at once and there were two cores."""
    monkeypatch.setattr(many_cases, "START_SECONDS", -1e9)
    monkeypatch.setattr(many_cases, "cores", lambda: 2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many cases went to children, one entry for each time."""
    seen: list[int] = []

    def spy(module, common, orders, *, processes):
        seen.append(len(orders))
        return many_cases_answers(module, common, orders, processes=processes)

    many_cases_answers = many_cases.answers
    monkeypatch.setattr(many_cases, "answers", spy)
    return seen


def test_children_give_the_scores_of_one_process_in_the_same_order(folders, children, asked, monkeypatch):
    spread = evaluate(*folders, **OPTIONS)
    assert asked == [9]  # two are timed here, and one was being read
    monkeypatch.setattr(many_cases, "cores", lambda: 1)
    alone = evaluate(*folders, **OPTIONS)
    assert asked == [9]
    assert spread.to_csv() == alone.to_csv()
    assert repr(spread.scores) == repr(alone.scores)  # states too
    assert spread.cases == alone.cases
    assert spread.cases[3].resampled_from
    assert spread.summaries.__repr__() == alone.summaries.__repr__()


def test_names_and_values_without_labels_are_the_same_too(folders, children, asked, monkeypatch):
    spread = evaluate(*folders, resample=True)
    monkeypatch.setattr(many_cases, "cores", lambda: 1)
    alone = evaluate(*folders, resample=True)
    assert asked == [9]
    assert spread.to_csv() == alone.to_csv()
    assert spread.labels == alone.labels


def test_a_bad_case_in_a_child_is_the_error_of_one_process_or_skipped(folders, children, asked):
    (folders[0] / "c08.nii.gz").write_bytes(b"nothing")
    (folders[0] / "c10.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"c08\.nii\.gz"):
        evaluate(*folders, **OPTIONS)
    report = evaluate(*folders, **OPTIONS, skip_bad=True)
    assert [case for case, _ in report.skipped] == ["c08", "c10"]
    assert len(report.cases) == 10
    assert asked == [9, 9]


def test_few_small_cases_start_no_process(folders, asked):
    evaluate(*folders, **OPTIONS)
    assert asked == []


@pytest.mark.parametrize(
    ("cores", "left", "voxels", "expected"),
    [(8, 100, 10**6, 8), (8, 3, 10**6, 3), (64, 100, 10**6, 16), (64, 100, 512 * 512 * 1000, 4), (8, 9, 2**31, 1)],
)
def test_processes_are_as_many_as_cores_cases_and_memory_allow(monkeypatch, cores, left, voxels, expected):
    monkeypatch.setattr(many_cases, "cores", lambda: cores)
    watch = many_cases.Watch()
    watch.most_voxels = voxels
    assert watch.processes(left) == expected


@pytest.mark.parametrize(
    ("seconds", "cpu_seconds", "left", "expected"),
    [
        (0.01, 0.01, 1000, True),  # one core works, the other waits: 10 s against 0.8 + 5
        (0.01, 0.01, 200, False),  # 2 s against 0.8 + 1: not worth it
        (1.0, 2.0, 100, False),  # its threads use both cores already
        (0.04, 0.01, 300, True),  # a busy machine: all of it takes four times as long
        (0.04, 0.01, 60, False),
    ],
)
def test_children_are_started_where_the_rest_takes_clearly_longer_here(
    monkeypatch, seconds, cpu_seconds, left, expected
):
    monkeypatch.setattr(many_cases, "cores", lambda: 2)
    ticks = iter(range(10))
    cpu_ticks = iter(range(10))
    monkeypatch.setattr(many_cases.time, "perf_counter", lambda: next(ticks) * seconds)
    monkeypatch.setattr(many_cases.time, "process_time", lambda: next(cpu_ticks) * cpu_seconds)
    watch = many_cases.Watch()
    for _ in range(3):
        watch.case_done(10**6, left)
    assert watch.over is expected


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_child_that_is_killed_ends_the_command_with_one_line_and_exit_code_5(
    folders, children, monkeypatch, capsys, tmp_path
):
    from medseg.core import workers

    started = workers._started

    def killed():
        child = started()
        os.kill(child.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(workers, "_started", killed)
    assert run(["evaluate", *map(str, folders), "--resample", "--output", str(tmp_path / "out")]) == 5
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "c03.nii.gz: a process that worked on several cases was ended by signal 9" in error
    assert not (tmp_path / "out").exists()


def test_a_script_without_a_main_guard_may_evaluate_on_children(folders, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "import medseg\nfrom medseg.metrics import many_cases\n"
        "many_cases.START_SECONDS, many_cases.cores = -1e9, lambda: 2\n"
        "print('started')\n"
        "report = medseg.evaluate(sys.argv[1], sys.argv[2], resample=True)\n"
        "print(len(report.cases))\n"
    )
    done = subprocess.run([sys.executable, script, *folders], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["started", "12"]
    assert done.stderr == ""
