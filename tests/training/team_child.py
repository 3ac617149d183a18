"""What one process of a team does in the tests: `torchrun --nproc_per_node 2 -m tests.training.team_child FOLDER WHAT`.

Prints nothing; the leader leaves FOLDER/NAME.safetensors with the weights of each training of ``PLANS``.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from medseg.cli.app import run
from medseg.core.errors import Interrupted
from medseg.core.plan import Plan
from medseg.training.loop import train_loop
from medseg.training.team import Team, team
from tests.training.stored_cases import quick_plan, stored_cases

CPU = torch.device("cpu")
SGD = {"name": "sgd", "momentum": 0.9}
BATCH_DICE = {"name": "dice_ce", "options": {"batch_dice": True}}
PLANS = {
    "per sample": {"optimizer": SGD},
    "batch dice": {"optimizer": SGD, "loss": BATCH_DICE},
    "two passes": {"optimizer": SGD, "accumulate": 2, "batch_size": 2},
    "stopped": {"optimizer": SGD},
}


def plan_of(name: str, processes: int) -> Plan:
    """The training called ``name``: three steps of eight patches, shared by so many ``processes``.

    Nothing is augmented: patches and their order are those of one process, but draws belong to a pass.
    """
    changes = {"steps": 3, "batch_size": 4, "mirror_axes": [], "augmentation": [], **PLANS[name]}
    return quick_plan(**{**changes, "batch_size": changes["batch_size"] * 2 // processes, "processes": processes})


def state_of(name: str, folder: Path, here: Team, plan: Plan) -> dict[str, torch.Tensor]:
    """The weights after training; `stopped` is stopped by a signal to one process after step 1, and resumed."""
    stored = stored_cases(folder / "store", plan) if here.leads else []
    here.wait()
    stored = stored or stored_cases(folder / "store", plan)

    def stop(stage: str, done: int, total: int) -> None:
        if name == "stopped" and here.rank == here.count - 1 and done == 1 and stored:
            signal.raise_signal(signal.SIGTERM)

    try:
        return train_loop(plan, stored, folder=folder / name, device=CPU, validate=None, progress=stop, team=here)
    except Interrupted:
        return train_loop(plan, stored, folder=folder / name, device=CPU, validate=None, team=here)


def main() -> int:
    folder, what = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    if what == "command":
        return run(["train", "--config", str(folder / "config.yaml"), "--output", str(folder / "run"), *sys.argv[3:]])
    with team() as here:
        if what == "killed":
            (folder / str(here.rank)).write_text(str(os.getpid()))
            while True:
                here.wait()
        for name in PLANS:
            state = state_of(name, folder, here, plan_of(name, here.count))
            if here.leads:
                save_file(state, folder / f"{name}.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
