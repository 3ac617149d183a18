"""Training on a GPU: how long a step waits for data, what bf16 and torch.compile win, and Dice against steps.

    medseg train --config X --set train.steps=1 --output RUN       # anywhere: checks, splits, plan and store
    python benchmarks/gpu.py RUN --state STATE --steps 20000 --seconds 570     # again and again, until it says `done`

Needs torch, lightning, pydantic, safetensors, numpy and scipy; of RUN only plan.json, splits.json and store/ are read. A call
ends after `--seconds` with a checkpoint in STATE, and the next goes on there: the weights are those of one long call.
Dice is that of whole held-out cases on the store's grid, the mean over cases by structure. Prints what is known so far.
"""

import argparse
import itertools
import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from medseg.core.errors import Interrupted
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.data.store import StoredCase
from medseg.inference.backends.torch_backend import torch_predict
from medseg.inference.stream import stream_logits
from medseg.models.bundle import network_for, weights_of
from medseg.training.log import read_log
from medseg.training.loop import train_loop
from medseg.training.step import Stepper


def stored_cases(run: Path) -> dict[str, StoredCase]:
    """The cases of the run's store by id."""
    records = {record: json.loads(record.read_text()) for record in sorted(run.glob("store/*/*.json"))}
    return {told["case"]: StoredCase(told["case"], record.with_suffix("")) for record, told in records.items()}


def dice_of(
    state: dict[str, torch.Tensor], plan: Plan, cases: list[StoredCase], device: torch.device
) -> dict[str, float]:
    """Mean Dice of each structure over ``cases``, by sliding windows over the stored volumes; NaN where none holds it."""
    network = network_for(plan)
    weights_of(network).load_state_dict(state)
    predict, labels = torch_predict([network], device), Labels.from_mapping(plan.labels)
    found: dict[str, list[float]] = {name: [] for name in labels.names}
    for case in cases:
        reference, window = np.asarray(case.reference), plan.patch_size
        slabs = stream_logits(
            np.asarray(case.image), predict, channels=len(plan.labels), window=window, axis=0, batch=4
        )
        predicted = torch.cat([slab.argmax(0) for slab in slabs]).numpy()
        for channel, name in enumerate(labels.names, 1):
            ours, theirs = predicted == channel, reference == channel
            if theirs.any():
                found[name].append(2.0 * float((ours & theirs).sum()) / float(ours.sum() + theirs.sum()))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}


def speed(plan: Plan, stored: list[StoredCase], device: torch.device, steps: int) -> dict[str, float]:
    """Milliseconds of a step and the share of it spent waiting for the next batch, after ten steps that make ready."""
    stepper = Stepper(plan, stored, device)
    waited = started = 0.0
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(stepper.load, 0)
        for step in range(steps + 10):
            if step == 10:
                _finish(device)
                waited, started = 0.0, time.perf_counter()
            asked = time.perf_counter()
            batches = upcoming.result()
            waited += time.perf_counter() - asked
            upcoming = ahead.submit(stepper.load, step + 1)
            loss = stepper.run(step, batches)
            _finish(device)
        float(loss)
    took = time.perf_counter() - started
    return {"ms a step": 1e3 * took / steps, "waits for data": waited / took}


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def variants(options: argparse.Namespace, plan: Plan, stored: list[StoredCase], device: torch.device) -> None:
    """Time what STATE/speed.json does not hold yet: each precision, compiled or not."""
    file = options.state / "speed.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    for precision, compiled in itertools.product(("f32", "bf16"), (False, True)):
        name = f"{precision}{', compiled' if compiled else ''}"
        if name not in known and time.monotonic() < options.until:
            changed = plan.model_copy(update={"precision": precision, "compile": compiled})
            known[name] = speed(changed, stored, device, options.timed)
            file.write_text(json.dumps(known, indent=2))
    print(f"| {device.type}, {plan.batch_size} x {'x'.join(map(str, plan.patch_size))} | ms a step | waits for data |")
    print("|---|---|---|")
    for name, told in known.items():
        print(f"| {name} | {told['ms a step']:.1f} | {100 * told['waits for data']:.1f} % |")


def trained(options: argparse.Namespace, plan: Plan, stored: dict[str, StoredCase], device: torch.device) -> bool:
    """Train on towards `--steps`; True when it is done. Prints the Dice of each validation so far."""
    split = json.loads((options.run / "splits.json").read_text())[0]
    held_out = [stored[case] for case in split["validation"]][: options.cases]

    def in_time(stage: str, done: int, total: int) -> None:
        if time.monotonic() > options.until:
            signal.raise_signal(signal.SIGTERM)  # as a scheduler would: train_loop saves and stops

    folder, done = options.state / "training", True
    try:
        train_loop(
            plan,
            [stored[case] for case in split["train"]],
            folder=folder,
            device=device,
            validate=lambda state: dice_of(state, plan, held_out, device),
            progress=in_time,
        )
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        done = False
    print("\n| steps | patches | mean Dice |\n|---|---|---|")
    for row in read_log(folder / "log.csv", until=plan.steps):
        if "val_dice" in row:
            print(f"| {row['step']} | {int(row['step']) * plan.patches_per_step} | {float(row['val_dice']):.4f} |")
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=570.0)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=1_000, help="steps between validations")
    parser.add_argument("--cases", type=int, default=20, help="held-out cases in a validation")
    parser.add_argument("--timed", type=int, default=100, help="steps timed of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    options.until = time.monotonic() + options.seconds
    options.state.mkdir(parents=True, exist_ok=True)
    device, stored = torch.device(options.device), stored_cases(options.run)
    plan = Plan.model_validate_json((options.run / "plan.json").read_text())
    length = {"steps": options.steps, "validate_every": options.every, "validation_cases": options.cases}
    plan = plan.model_copy(update={**length, "precision": options.precision, "compile": options.compile})
    variants(options, plan, list(stored.values()), device)
    print("done" if trained(options, plan, stored, device) else "not done: run the same command again")


if __name__ == "__main__":
    main()
