"""`medseg plan`: what training would decide, why, and what it would cost; nothing is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.cli.app import run
from medseg.core.plan import Plan
from medseg.training.estimate import LIBRARIES, step_bytes
from medseg.workflows.plan import plan
from medseg.workflows.train import train
from tests.data.tiny_dataset import config
from tests.models.tiny_model import tiny_plan
from tests.workflows.train_command import tree, written

pytestmark = pytest.mark.usefixtures("one_thread")
BY_TIME = {"steps", "validate_every", "validation_cases", "ema", "reasons"}


def test_the_plan_is_the_one_that_training_makes(root, tmp_path, no_pictures):
    content = config(root)
    found = plan(content)
    made = train(content, output=tmp_path / "run").plan
    assert found.plan.model_dump(exclude=BY_TIME) == made.model_dump(exclude=BY_TIME)
    assert found.plan.steps == made.steps == 2
    assert found.cost is not None
    assert found.cost.total == pytest.approx(found.cost.preprocessing + found.cost.training + found.cost.validation)
    assert min(found.cost.step, found.cost.case, found.cost.preprocessing) > 0


def test_every_decision_has_a_value_a_reason_and_a_key_of_the_config(root, tmp_path, capsys):
    before = tree(tmp_path)
    path = written(tmp_path, config(root, train={"steps": None, "budget": "30s", "folds": 2}))
    assert run(["plan", "--config", str(path), "--no-timing", "-q"]) == 0
    out = capsys.readouterr().out
    assert "by time" in out
    assert "--no-timing" in out
    assert tree(tmp_path) - before == {path}
    for key, value, why in plan(json.loads(json.dumps(config(root))), timing=False).decisions():
        assert value, key
        assert why, key
        section, name = key.split(".")
        assert run(["plan", "--config", str(path), "--set", f"{section}.{name}x=1"]) == 2
        assert f"did you mean '{name}'" in capsys.readouterr().err


def test_json_holds_the_plan_and_what_is_open_is_null(root, tmp_path, capsys):
    path = written(tmp_path, config(root, train={"steps": None, "budget": "30s", "folds": 2, "ema": 0.5}))
    assert run(["plan", "--config", str(path), "--no-timing", "--json", "-q", "--set", "plan.batch_size=3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["plan"]["batch_size"], found["plan"]["ema"], found["plan"]["steps"]) == (3, 0.5, None)
    assert found["plan"]["reasons"]["batch_size"] == "given"
    assert found["seconds"] is None
    assert found["fingerprint"]["cases"] == 4
    assert found["memory_bytes"] > LIBRARIES


def test_with_times_the_budget_becomes_steps(root, tmp_path, capsys):
    path = written(tmp_path, config(root, train={"steps": None, "budget": "40s", "folds": 2}))
    assert run(["plan", "--config", str(path), "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    Plan.model_validate(found["plan"])
    assert found["plan"]["steps"] > 20
    assert 5 < found["seconds"]["total"] < 60


def test_wrong_data_and_settings_are_the_errors_of_training(root, tmp_path, capsys):
    path = written(tmp_path, config(root))
    assert run(["plan", "--config", str(path), "--set", "data.root=/nowhere"]) == 3
    assert run(["plan", "--config", str(path), "--set", "train.schedule=polly"]) == 2
    assert "did you mean 'poly'" in capsys.readouterr().err
    assert run(["plan", "--config", str(path), "--set", "plan.mirror_axes=[3]"]) == 2
    assert "plan.mirror_axes" in capsys.readouterr().err


def test_memory_grows_with_patch_batch_and_precision():
    small = step_bytes(tiny_plan())
    assert step_bytes(tiny_plan(patch_size=[64, 64, 64])) > step_bytes(tiny_plan(patch_size=[32, 64, 64])) > small
    assert step_bytes(tiny_plan(patch_size=[64, 64, 64], batch_size=4)) > step_bytes(tiny_plan(patch_size=[64, 64, 64]))
    large = {"patch_size": [64, 64, 64], "batch_size": 2}
    assert step_bytes(tiny_plan(precision="bf16", **large)) < step_bytes(tiny_plan(**large))


MEASURE = """
import sys, torch
from pathlib import Path
from medseg.training.step import Stepper
from tests.training.stored_cases import quick_plan, stored_cases
from tests.workflows.test_plan import measured_plan
plan = measured_plan(sys.argv[2])
stepper = Stepper(plan, stored_cases(Path(sys.argv[1]), plan), torch.device("cpu"))
for step in range(3):
    stepper.run(step, stepper.load(step))
print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def measured_plan(precision: str) -> Plan:
    architecture = {
        "name": "unet",
        "options": {
            "features": [16, 32, 64],
            "kernel_sizes": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "convs_per_stage": [2, 2, 2],
            "decoder_convs_per_stage": [2, 2],
        },
    }
    return tiny_plan(patch_size=[64, 64, 48], batch_size=2, architecture=architecture, precision=precision)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_memory_estimate_is_within_a_quarter_of_a_training_process(tmp_path, precision):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", MEASURE, str(tmp_path), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280, env=environment)
    peak = int(done.stdout.split()[-1])
    assert LIBRARIES + step_bytes(measured_plan(precision)) == pytest.approx(peak, rel=0.25)
