"""`medseg train` as the tests give it: a config on disk, a run folder beside it, and ways to stop it."""

import re
import signal
from pathlib import Path
from typing import Any

import yaml

from medseg.cli.app import run
from medseg.core.config import config_from
from medseg.core.progress import Progress
from medseg.data.layouts import list_cases
from medseg.data.split import split_by_patient
from medseg.training.run_folder import start_run


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def missing_hints(message: str, hint: str) -> list[str]:
    return [group for group in hint.split("; ") if not re.search(group.replace("/", "|"), message, re.IGNORECASE)]


def command(folder: Path, content: dict[str, Any], *more: str) -> int:
    return run(["train", "--config", str(written(folder, content)), "--output", str(folder / "run"), *more])


def stop_at(step: int, number: int = signal.SIGTERM) -> Progress:
    """A progress listener that sends this process a signal when training reaches ``step``."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == step:
            signal.raise_signal(number)

    return progress


def train_started(content: dict[str, Any], folder: Path) -> None:
    """A run folder as a start leaves it before training."""
    checked = config_from(content)
    cases = list_cases(checked.data)
    start_run(folder, checked, split_by_patient(cases, folds=2, seed=0), cases)
