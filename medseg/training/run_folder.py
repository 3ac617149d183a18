"""The run folder: what a training leaves on disk, and how a later one takes it up."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from medseg.core.case import Case
from medseg.core.config import Config, config_from
from medseg.core.errors import ConfigError, DataError, ModelError, OutputError
from medseg.core.files import check_writable, write_json, write_text
from medseg.core.plan import Fingerprint, Plan
from medseg.data.given_splits import Split
from medseg.training.team import Team

FREE_TO_CHANGE = ("device", "output", "licence", "train.fold", "train.tensorboard")


def folder_of(config: Config, output: Path | None) -> Path:
    """``output``, else the config's, else ``runs/<name>``."""
    return output or config.output or Path("runs") / config.name


def require_free(folder: Path, config: Config, *, resume: bool) -> None:
    """Raise OutputError where ``folder`` is taken, or where the run in it was started with another config."""
    check_writable(folder)
    if not folder.exists() or all(_is_passing(path) for path in folder.iterdir()):
        return
    if not resume:
        raise OutputError(f"{folder}: this run folder exists; go on with --resume, or choose another --output")
    stored = folder / "config.yaml"
    if not stored.is_file():
        raise OutputError(f"{folder}: this folder is no medseg run (no config.yaml); choose another --output")
    try:
        content = yaml.safe_load(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OutputError(f"{stored}: cannot be read ({str(error).splitlines()[0]}); choose another --output") from None
    with suppress(ConfigError, TypeError, ValueError):
        content = _plain(config_from(content))  # what an older medseg did not know has its default
    before = _flat(content)
    now = _flat(_plain(config))
    changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k) and k not in FREE_TO_CHANGE)
    if changed:
        key = changed[0]
        raise OutputError(
            f"{folder}: was started with another config: {key} was {before.get(key)!r}, now {now.get(key)!r}; a resumed "
            "run keeps its config, so restore it, or choose another --output"
        )


def _is_passing(path: Path) -> bool:
    """True for what a run leaves that was killed before it wrote anything: its lock, or a file under a temporary name."""
    return path.name == "run.lock" or path.suffix == ".tmp"


def start_run(folder: Path, config: Config, splits: list[Split], cases: list[Case]) -> list[Split]:
    """Write config.yaml and splits.json, or keep those that are there; return the splits that hold."""
    if not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True))
    file = folder / "splits.json"
    kept = saved_splits(folder)
    listed = {case for split in kept for side in split.values() for case in side}
    if not kept:  # the first start, or a run that has only been `final` so far
        write_json(file, splits)
        return splits
    new = sorted({case.id for case in cases} - listed)
    if new:
        raise DataError(f"{file}: the dataset has gained {new[0]!r} since this run began; choose another --output")
    return kept


def saved_splits(folder: Path) -> list[Split]:
    """The splits of an earlier start, none where it stopped before. Raises DataError where the file is damaged."""
    file = folder / "splits.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        if not isinstance(kept, list):
            raise TypeError(f"got a {type(kept).__name__}")
        return [{side: list(split[side]) for side in ("train", "validation")} for split in kept]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not a list of train and validation cases ({error})") from None


def save_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    """fingerprint.json"""
    write_json(folder / "fingerprint.json", fingerprint.model_dump(mode="json"))


def saved_fingerprint(folder: Path) -> Fingerprint:
    """What the leading process measured. Raises ModelError where the file is not there or damaged."""
    file = folder / "fingerprint.json"
    try:
        return Fingerprint.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None


def require_team(folder: Path, plan: Plan, here: Team) -> None:
    """Raise ConfigError where the run was planned for another number of processes."""
    if plan.processes != here.count:
        raise ConfigError(
            f"{folder}: this run shares its steps between {plan.processes} process(es), not {here.count}; start it with "
            f"torchrun --nproc_per_node {plan.processes} -m medseg train, or choose another --output"
        )


def save_plan(folder: Path, plan: Plan) -> None:
    """plan.json"""
    write_json(folder / "plan.json", plan.model_dump(mode="json"))


def saved_plan(folder: Path) -> Plan | None:
    """The plan of an earlier start; None where it stopped before. Raises ModelError where the file is damaged."""
    file = folder / "plan.json"
    if not file.exists():
        return None
    try:
        return Plan.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, ValueError) as error:
        raise ModelError(
            f"{file}: not a plan that medseg can read ({str(error).splitlines()[0]}); start a new run"
        ) from None


def _plain(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict):
        return {prefix.rstrip("."): content}
    return {k: v for key, value in content.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
