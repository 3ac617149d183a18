"""Plan: config -> cases -> check -> split -> fingerprint -> plan, as training makes it, and its cost; nothing is written."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.core.config import Config, config_from, load_config, override
from medseg.core.progress import Progress, silent
from medseg.inference.device import enough_memory
from medseg.report.planning import WAITING, Cost, Planned
from medseg.training.estimate import LIBRARIES, step_bytes, timed_plan
from medseg.training.prepare import prepare


def plan(
    config: Config | Path | str | Mapping[str, Any],
    *,
    overrides: Mapping[str, str] | None = None,
    timing: bool = True,
    progress: Progress = silent,
) -> Planned:
    """The plan that ``medseg train`` would follow, the reason of each decision, and the memory and time it needs.

    ``timing``: measure training steps on this machine; without it the number of steps stays open. The dataset is read and
    checked; the few cases to measure with are preprocessed into a temporary folder. Raises ConfigError, DataError or
    ResourceError as training would.
    """
    started = time.monotonic()
    asked = _config(config, dict(overrides or {}))
    prepared = prepare(asked, progress=progress)
    checking = time.monotonic() - started
    process = 0 if prepared.device.type == "cuda" else LIBRARIES
    if not timing:
        given = {key: value for key in WAITING if (value := getattr(asked.train, key)) not in (None, "auto")}
        drafted = prepared.draft.model_copy(update=given)
        waiting = tuple(key for key in WAITING if key not in given)
        peak = process + step_bytes(drafted)
        return Planned(drafted, prepared.fingerprint, str(prepared.device), peak, waiting=waiting)
    with enough_memory(prepared.device):
        found = timed_plan(prepared.config, prepared, seconds_before=checking, progress=progress)
    decided, held_out = found.plan, len(prepared.held_out)
    while_training = decided.steps // decided.validate_every * decided.validation_cases if held_out else 0
    cost = Cost(
        preprocessing=checking + found.preprocessing,
        step=found.step,
        case=found.case,
        training=decided.steps * found.step,
        validation=(while_training + held_out) * found.case,
    )
    return Planned(decided, prepared.fingerprint, str(prepared.device), process + step_bytes(decided), cost)


def _config(given: Config | Path | str | Mapping[str, Any], overrides: dict[str, str]) -> Config:
    if isinstance(given, Path | str):
        return load_config(given, overrides)
    content = given.model_dump(mode="json") if isinstance(given, Config) else dict(given)
    return config_from(override(content, overrides))
