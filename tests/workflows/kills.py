"""SIGKILL a training at random moments, resume it, and compare every file with the unbroken run's.

    python -m tests.workflows.kills --kills 100          # `make kill`

Every start is a fork of this process, which has everything imported, so that the kills fall into the work. Two folds of a
small network with two passes a step; validation, checkpoints and model folder included, pictures not. A run that ends is
compared and the next one begins, until so many kills were made. Prints one table and, for no failure in n tries, the bound
of 3/n.
"""

import argparse
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml

from medseg.cli.app import run as medseg_command
from medseg.core.files import sha256_of
from medseg.training import loop
from medseg.workflows import train_fold
from tests.data.tiny_dataset import config, tiny
from tests.workflows.forks import ended, fork, silenced

SETTINGS = {
    "folds": 2,
    "fold": "all",
    "accumulate": 2,
    "ema": 0.9,
    "validate_every": 7,
    "validation_cases": 1,
}
STAGES = ("start", "check", "preprocess", "train", "validate", "final validation")
CHECKPOINT_SECONDS = 0.1  # instead of three minutes, so that a run of seconds has several


class Shared:
    """Where a child is: its stage, its steps and the time of its last checkpoint, seen by the parent after its death."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 32)
        self.set(0, 0, 0.0)

    def set(self, stage: int, step: int, saved: float) -> None:
        self._memory[:24] = struct.pack("qqd", stage, step, saved)

    def get(self) -> tuple[int, int, float]:
        return struct.unpack("qqd", self._memory[:24])


@dataclass
class Found:
    """What so many kills showed."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    failed: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    lost_seconds: list[float] = field(default_factory=list)


def start(folder: Path, shared: Shared, *, output: str = "run") -> int:
    """A process of `medseg train --resume`, told by ``shared``."""

    def watched(*args: Any, **kwargs: Any) -> Callable[[str, int, int], None]:
        def progress(stage: str, done: int, total: int) -> None:
            shared.set(STAGES.index(stage) if stage in STAGES else 0, done, shared.get()[2])

        return progress

    def work() -> int:
        save = loop.save_checkpoint

        def saved(*args: Any, **kwargs: Any) -> None:
            save(*args, **kwargs)
            shared.set(*shared.get()[:2], time.monotonic())

        loop.save_checkpoint = saved
        loop.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
        for picture in ("save_curves", "save_overlays"):  # three quarters of so short a run
            setattr(train_fold, picture, lambda *args, **kwargs: None)
        import medseg.cli.console as console

        console.plain_lines = watched
        silenced(str(folder / "output.txt"))
        torch.set_num_threads(1)
        code = medseg_command(
            ["train", "--config", str(folder / "config.yaml"), "--output", str(folder / output), "--resume"]
        )
        (folder / "modules.txt").write_text("\n".join(sys.modules))
        return code

    shared.set(0, 0, time.monotonic())
    return fork(work)


def content(run: Path) -> dict[str, str]:
    """The hash of every file of a run that does not say when it was made."""
    times = ("config.yaml", "summary.json", "model.json", "README.md", "plan.json", "run.lock")
    kept = [p for p in sorted(run.rglob("*")) if p.is_file() and p.name not in times]
    kept = [p for p in kept if not p.name.startswith("checkpoint-") and p.suffix != ".png"]
    found = {str(p.relative_to(run)): sha256_of(p) for p in kept}
    plan = json.loads((run / "plan.json").read_text())
    weights = json.loads((run / "model" / "model.json").read_text())["weights"]
    return found | {
        "plan": json.dumps({k: v for k, v in plan.items() if k != "reasons"}),
        "weights": json.dumps(weights),
    }


def kill_and_resume(place: Path, *, kills: int, steps: int, seed: int, say: Callable[[str], None]) -> Found:
    """Runs in ``place``, killed ``kills`` times at moments drawn by ``seed``, each compared with the unbroken one."""
    draw, shared, found = random.Random(seed), Shared(), Found()
    root = tiny(place / "data").finish()
    (place / "config.yaml").write_text(yaml.safe_dump(config(root, train=SETTINGS | {"steps": steps})))
    for name in ("whole", "again"):
        begun = time.monotonic()
        if (code := ended(start(place, shared, output=name), 300)) != 0:
            raise RuntimeError(f"the unbroken run ends with {code}: {(place / 'output.txt').read_text()[-2000:]}")
        whole_seconds = time.monotonic() - begun
        for module in (
            (place / "modules.txt").read_text().splitlines()
        ):  # what is imported late, so that no kill falls there
            with suppress(Exception):
                import_module(module)
    expected = content(place / "whole")
    found.different += [f"again: {k}" for k, v in content(place / "again").items() if expected.get(k) != v]
    say(f"unbroken: {whole_seconds:.1f} s, {len(expected)} files compared; seed {seed}")
    number = 0
    while found.kills.total() < kills:
        child = start(place, shared, output=f"run{number}")
        code = ended(child, draw.uniform(0, 0.6 * whole_seconds))
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            stage, _, saved = shared.get()
            found.kills[STAGES[stage]] += 1
            if STAGES[stage] == "train":
                found.lost_seconds.append(time.monotonic() - saved)
            if found.kills.total() < kills:
                continue
            code = ended(start(place, shared, output=f"run{number}"), 300)
        found.runs += 1
        if code != 0:
            found.failed.append(f"run {number} ends with {code}: {(place / 'output.txt').read_text()[-1000:]}")
        else:
            ours = content(place / f"run{number}")
            found.different += [
                f"run {number}: {k}" for k in expected.keys() | ours.keys() if expected.get(k) != ours.get(k)
            ]
            left = list((place / f"run{number}").rglob("*.tmp"))
            found.failed += [f"run {number}: {path.name} is left" for path in left]
        number += 1
    return found


def race(place: Path, processes: int, number: int) -> list[int]:
    """The exit codes of so many trainings into one new folder, begun at the same moment."""
    shared = Shared()
    children = [start(place, shared, output=f"race{number}") for _ in range(processes)]
    return sorted(code for child in children if (code := ended(child, 300)) is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=30, help="of each of the two folds")
    parser.add_argument("--races", type=int, default=0, help="of 8 processes each for one output folder")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medseg-kills-") as folder:
        found = kill_and_resume(Path(folder), kills=options.kills, steps=options.steps, seed=options.seed, say=print)
        print("| killed during | times |\n|---|---|")
        for stage, times in found.kills.most_common():
            print(f"| {stage} | {times} |")
        kills, bound = found.kills.total(), f"{300 / max(1, found.kills.total()):.1f} %"
        print(
            f"\n{kills} kills over {found.runs} runs of {2 * options.steps} steps: {len(found.failed)} failed to resume or left"
        )
        print(
            f"something, {len(found.different)} files differ from the unbroken run's (0 of {kills}: rate below {bound})."
        )
        worst = max(found.lost_seconds, default=0.0)
        print(f"Training lost by a kill: at most {worst:.2f} s, checkpoints every {CHECKPOINT_SECONDS} s.")
        for problem in [*found.failed, *found.different]:
            print(problem)
        codes = [race(Path(folder), 8, number) for number in range(options.races)]
        wrong = [c for c in codes if c != [0] + [4] * 7]
        if codes:
            print(
                f"{len(codes)} races of 8 for one folder: {len(wrong)} where not one won and seven ended with 4 {wrong}"
            )
    return 1 if found.failed or found.different or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
