"""Several processes under torchrun train as one does with the batch of all; one that dies takes the others with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medseg.core.errors import ConfigError
from medseg.training.loop import train_loop
from medseg.training.run_folder import require_team
from medseg.training.team import ALONE, leads, team
from tests.data.tiny_dataset import config, tiny
from tests.training.stored_cases import quick_plan, stored_cases
from tests.training.team_child import CPU, PLANS, plan_of

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch is built without distributed")


def torchrun(folder: Path, *what: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    return subprocess.Popen(
        [*command, "-m", "tests.training.team_child", str(folder), *what],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_train_as_one_with_the_double_batch(tmp_path):
    """Also where Dice is taken over the whole batch, in several passes, and stopped by a signal to one of them."""
    (tmp_path / "two").mkdir()
    running = torchrun(tmp_path / "two", "train")
    alone = {}
    for name in PLANS:
        plan = plan_of(name, 1)
        stored = stored_cases(tmp_path / "store", plan)
        alone[name] = train_loop(plan, stored, folder=tmp_path / name, device=CPU, validate=None)
    out, err = running.communicate(timeout=200)
    assert running.returncode == 0, out + err
    for name, one in alone.items():
        two = load_file(tmp_path / "two" / f"{name}.safetensors")
        assert max(float((two[key] - one[key]).abs().max()) for key in one) < 1e-6, name


def test_the_tolerance_tells_batch_dice_from_the_mean_of_two(tmp_path):
    """What the test above would see if each process took its own Dice."""
    plan = plan_of("batch dice", 1)
    stored = stored_cases(tmp_path / "store", plan)
    whole = train_loop(plan, stored, folder=tmp_path / "a", device=CPU, validate=None)
    halves = plan.model_copy(update={"batch_size": 4, "accumulate": 2})
    apart = train_loop(halves, stored, folder=tmp_path / "b", device=CPU, validate=None)
    assert max(float((apart[key] - whole[key]).abs().max()) for key in whole) > 3e-5


@pytest.mark.slow
def test_the_death_of_a_process_ends_the_others_with_a_clear_error(tmp_path):
    running = torchrun(tmp_path, "killed")
    until = time.monotonic() + 100
    while not ((tmp_path / "1").exists() and (tmp_path / "1").read_text()) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    died = time.monotonic()
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - died < 30
    assert running.returncode != 0
    assert "another process of this training has ended" in err or "SIGTERM" in err


@pytest.mark.slow
def test_torchrun_trains_from_the_command_line_and_one_process_speaks(tmp_path):
    content = config(tiny(tmp_path / "data", 4).finish(), train={"steps": 4})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    running = torchrun(tmp_path, "command")
    out, err = running.communicate(timeout=200)
    assert running.returncode == 0, out + err
    assert out.splitlines()[-1] == str(tmp_path / "run" / "model")
    assert out.count("validation Dice") == 2  # liver and tumour, once each
    assert err.count("2 processes, device cpu each") == 1
    assert (tmp_path / "run" / "model" / "model.json").is_file()
    again = torchrun(tmp_path, "command")
    _, err = again.communicate(timeout=200)
    assert again.returncode != 0
    assert "go on with --resume" in err


def test_a_run_of_two_processes_goes_on_with_two(tmp_path):
    with pytest.raises(ConfigError, match=r"between 2 process\(es\), not 1; start it with torchrun --nproc_per_node 2"):
        require_team(tmp_path, quick_plan(processes=2), ALONE)


def test_without_torchrun_a_process_is_alone():
    with team() as here:
        assert here == ALONE
        assert here.largest(3.0) == here.mean(3.0) == 3.0
    assert leads()
