"""Checkpoints for resuming: safetensors with the step and a hash in a JSON beside, two generations, never half a file."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medseg.core.errors import ModelError
from medseg.core.files import sha256_of, write_durable, write_json
from medseg.training.ema import Ema

GENERATIONS = ("a", "b")


def save_checkpoint(
    folder: Path, *, step: int, network: nn.Module, ema: Ema, optimizer: Optimizer, facts: dict[str, Any]
) -> None:
    """Write the older of two generations in ``folder``; the newer stays whole until the new one is. ``facts`` is JSON."""
    newest = _readable(folder)
    target = "a" if not newest or newest[0][1] == "b" else "b"
    tensors: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        tensors[f"network.{key}"] = value
    for key, value in ema.state.items():
        tensors[f"ema.{key}"] = value
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
    content = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    digest = write_durable(folder / f"checkpoint-{target}.safetensors", safetensors.torch.save(content))
    write_json(folder / f"checkpoint-{target}.json", {"step": step, "sha256": digest, **facts})


def load_checkpoint(folder: Path, *, network: nn.Module, ema: Ema, optimizer: Optimizer) -> dict[str, Any] | None:
    """Restore the newest whole generation and return its facts with ``step``; None where there is none.

    A generation that is not whole (killed between its two files, or damaged) loses its record, so that the next
    checkpoint replaces it and not the whole one. Raises ModelError if a whole checkpoint belongs to another network.
    """
    for facts, generation in _readable(folder):
        file = folder / f"checkpoint-{generation}.safetensors"
        if not file.is_file() or sha256_of(file) != facts["sha256"]:
            (folder / f"checkpoint-{generation}.json").unlink()
            continue
        tensors = safetensors.torch.load_file(file)
        try:
            network.load_state_dict(_part(tensors, "network."))
            ema.load(_part(tensors, "ema."))
        except (RuntimeError, KeyError) as error:
            raise ModelError(f"{file}: checkpoint does not fit the plan's network: {error}") from None
        groups = optimizer.state_dict()["param_groups"]
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return facts
    return None


def seconds_trained(folder: Path) -> float:
    """Seconds that the training in ``folder`` took up to its newest checkpoint, all its starts together; 0 without one."""
    newest = _readable(folder)
    return float(newest[0][0].get("seconds", 0.0)) if newest else 0.0


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _readable(folder: Path) -> list[tuple[dict[str, Any], str]]:
    """Facts and generation of the checkpoints whose JSON can be read, newest first."""
    found = []
    for generation in GENERATIONS:
        try:
            facts = json.loads((folder / f"checkpoint-{generation}.json").read_text())
            found.append((int(facts["step"]), {**facts, "sha256": str(facts["sha256"])}, generation))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [(facts, generation) for _, facts, generation in sorted(found, key=lambda item: -item[0])]
