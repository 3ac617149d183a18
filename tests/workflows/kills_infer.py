"""SIGKILL a cohort at random moments, run the same command again, and compare every file with the unbroken run's.

    python -m tests.workflows.kills_infer --kills 200 --cases 40 --scans ../shared/data/Task04_Hippocampus/imagesTr

This is `make kill-infer`; without --scans on phantoms. Every start is a fork of this process, which has everything
imported. After each kill every file under a final name must be whole: a label map with the hash of the unbroken run, JSON
that can be read. A run that ends is compared and the next one begins, until so many kills were made. Prints the kills by
stage, cases recorded twice, cases whose work was lost, partial files, hashes that differ, and races of 8 processes.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch

from medseg.cli.app import run as medseg_command
from medseg.core.files import sha256_of
from medseg.core.journal import Journal
from medseg.workflows.infer_case import Job
from tests.models.tiny_model import texture, tiny_model, tiny_plan, write_scan
from tests.workflows.forks import ended, fork, silenced

STAGES = ("read", "segment", "write", "journal")


@dataclass
class Found:
    """What so many kills showed."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    cases: int = 0
    twice: list[str] = field(default_factory=list)
    lost: int = 0
    partial: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def start(place: Path, scans: Sequence[Path], output: str, *, log: Path | None = None) -> int:
    """A process of ``medseg infer SCANS --output``; ``log`` gets a line as each case enters and leaves a stage."""

    def work() -> int:
        if log is not None:
            handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            for stage in STAGES[:3]:
                setattr(Job, stage, _watched(getattr(Job, stage), stage, handle))
            write = Journal.write

            def written(self: Journal, name: str, record: dict[str, object]) -> None:
                write(self, name, record)
                os.write(handle, f"recorded {name}\n".encode())

            Journal.write = written
        silenced(str(place / "output.txt"))
        torch.set_num_threads(1)
        options = ["--model", str(place / "model"), "--output", str(place / output), "--device", "cpu"]
        code = medseg_command(["infer", *map(str, scans), *options])
        (place / "modules.txt").write_text("\n".join(sys.modules))
        return code

    return fork(work)


def _watched(stage: Callable[..., object], name: str, log: int) -> Callable[..., object]:
    def watched(self: Job, *arguments: object) -> object:
        os.write(log, f"{name} +\n".encode())
        try:
            return stage(self, *arguments)
        finally:
            os.write(log, f"{name} -\n".encode())

    return watched


def content(folder: Path) -> dict[str, str]:
    """The hash of every label map, and results.json without what is measured or says when."""
    found = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*_seg.nii.gz"))}
    results = json.loads((folder / "results.json").read_text())
    for case in results["cases"]:
        del case["seconds"]
        case["outputs"] = sorted(case["outputs"])
    return found | {"results.json": json.dumps([results["cases"], results["counts"]])}


def partial_files(folder: Path, expected: dict[str, str]) -> list[str]:
    """Files under a final name that are not whole."""
    wrong = []
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.name.startswith(".") or path.is_dir():
            continue
        if name.endswith(".nii.gz") and sha256_of(path) != expected.get(name):
            wrong.append(name)
        if name.endswith(".json"):
            try:
                json.loads(path.read_text())
            except ValueError:
                wrong.append(name)
    return wrong


def kill_and_resume(
    place: Path, scans: Sequence[Path], *, cases: int, kills: int, seed: int, say: Callable[[str], None]
) -> Found:
    """Cohorts in ``place``, killed ``kills`` times at moments drawn by ``seed``, each compared with the unbroken one."""
    draw, found = random.Random(seed), Found()
    for name in ("whole", "again"):
        begun = time.monotonic()
        if (code := ended(start(place, scans, name), 600)) != 0:
            raise RuntimeError(f"the unbroken run ends with {code}: {(place / 'output.txt').read_text()[-2000:]}")
        whole_seconds = time.monotonic() - begun
        for module in (place / "modules.txt").read_text().splitlines():  # so that no kill falls into an import
            with suppress(Exception):
                import_module(module)
    expected = content(place / "whole")
    found.different += [f"again: {k}" for k, v in content(place / "again").items() if expected.get(k) != v]
    say(f"unbroken: {whole_seconds:.2f} s, {len(expected) - 1} cases; seed {seed}")
    number = 0
    while found.kills.total() < kills:
        output, log = place / f"run{number}", place / f"log{number}"
        child = start(place, scans, output.name, log=log)
        code = ended(child, draw.uniform(0, 0.8 * whole_seconds))
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            found.kills[_stage_of(log)] += 1
            found.partial += [f"run {number}: {name}" for name in partial_files(output, expected)]
            if found.kills.total() < kills:
                continue
            code = ended(start(place, scans, output.name, log=log), 600)
        _compare(place, number, code, expected, found)
        found.cases += cases
        number += 1
    return found


def _stage_of(log: Path) -> str:
    """What the killed process was at, in words: the stages that it had entered and not left since its start."""
    lines = log.read_text().splitlines() if log.exists() else []
    inside = Counter(line.split()[0] for line in lines if line.endswith("+"))
    inside.subtract(line.split()[0] for line in lines if line.endswith("-"))
    with log.open("a") as file:
        file.writelines(f"{stage} -\n" for stage, count in inside.items() for _ in range(count))
    names = [stage for stage in STAGES if inside[stage] > 0]
    return " and ".join(names) or "between"


def _compare(place: Path, number: int, code: int | None, expected: dict[str, str], found: Found) -> None:
    output, lines = place / f"run{number}", (place / f"log{number}").read_text().splitlines()
    found.runs += 1
    if code != 0:
        found.failed.append(f"run {number} ends with {code}: {(place / 'output.txt').read_text()[-1000:]}")
        return
    ours = content(output)
    found.different += [f"run {number}: {k}" for k in expected.keys() | ours.keys() if expected.get(k) != ours.get(k)]
    found.failed += [f"run {number}: {path.name} is left" for path in output.rglob("*.tmp")]
    recorded = Counter(line for line in lines if line.startswith("recorded"))
    found.twice += [f"run {number}: {name}" for name, times in recorded.items() if times > 1]
    found.lost += lines.count("segment +") - (len(expected) - 1)


def race(place: Path, scans: Sequence[Path], number: int) -> list[int]:
    """The exit codes of 8 cohorts into one new folder, begun at the same moment."""
    children = [start(place, scans, f"race{number}") for _ in range(8)]
    return sorted(code for child in children if (code := ended(child, 600)) is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--scans", type=Path, help="folder of real scans; without it phantoms are made")
    parser.add_argument("--races", type=int, default=0, help="of 8 processes each for one output folder")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medseg-kills-") as name:
        place = Path(name)
        scans = _inputs(place, options.scans, options.cases)
        found = kill_and_resume(*(place, scans), cases=options.cases, kills=options.kills, seed=options.seed, say=print)
        print("| killed during | times |\n|---|---|")
        for stage, times in found.kills.most_common():
            print(f"| {stage} | {times} |")
        kills = found.kills.total()
        print(
            f"\n{kills} kills over {found.runs} runs of {options.cases} cases (0 of {kills}: rate below {300 / kills:.1f} %):"
        )
        print(f"{len(found.failed)} failed or left something, {len(found.partial)} partial files, ", end="")
        print(f"{len(found.different)} hashes differ, {len(found.twice)} of {found.cases} cases recorded twice.")
        print(f"Cases whose network had begun and began again: {found.lost}, {found.lost / kills:.2f} a kill.")
        codes = [race(place, scans, number) for number in range(options.races)]
        # One that begins when the winner is done finds nothing to do: 0, too.
        wrong = [code for code in codes if 0 not in code or not {*code} <= {0, 4}]
        if codes:
            print(
                f"{len(codes)} races of 8: {len(wrong)} where none won, or another ended otherwise than with 4 {wrong}"
            )
        problems = [*found.failed, *found.partial, *found.different, *found.twice]
        for problem in problems:
            print(problem)
    return 1 if problems or wrong else 0


def _inputs(place: Path, scans: Path | None, cases: int) -> list[Path]:
    """A tiny model and that many scans in ``place``; real ones are taken again under another name where there are too few."""
    tiny_model(
        place / "model",
        plan=tiny_plan() if scans is None else tiny_plan(patch_size=[24, 32, 24], spacing_mm=[2.0, 2.0, 2.0]),
    )
    folder = place / "scans"
    real = sorted(scans.glob("*.nii.gz")) if scans is not None else []
    for number in range(cases):
        path = folder / f"case_{number:03d}.nii.gz"
        if real:
            path.parent.mkdir(exist_ok=True)
            path.symlink_to(real[number % len(real)].resolve())
        else:
            write_scan(path, texture(seed=number))
    return [folder]


if __name__ == "__main__":
    sys.exit(main())
