"""Tuning a model of a small structure in large scans: a preset that looks first, and what it says of itself.

The network finds by intensity alone, and a clock counts its forward passes: what is measured is known.
"""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from medseg.cli.app import run as command
from medseg.inference import backends, device, precision, segment, windows_of_scan
from medseg.models.bundle import load_model
from medseg.workflows import tune_measure
from tests.data.tiny_dataset import Tiny
from tests.models.tiny_model import tiny_model, tiny_plan, tiny_states

SHAPE = (40, 40, 24)
PLAN = tiny_plan(
    modality="CT",
    mirror_axes=[],
    spacing_mm=[1.5, 1.25, 2.0],
    intensity=[{"scheme": {"name": "ct_window", "options": {"lower": 0, "upper": 200, "mean": 0, "sd": 200}}}],
)
SPLITS = [{"train": ["case_1"], "validation": ["case_0"]}, {"train": ["case_0"], "validation": ["case_1"]}]


def made_run(folder):
    """A run of two folds on two scans: a liver of 6 x 6 x 6 voxels with a tumour of 2 x 2 x 2."""
    data, run = Tiny(folder / "data"), folder / "run"
    for n in range(2):
        label = np.zeros(SHAPE, np.uint8)
        label[4 + n : 10 + n, 4:10, 4:10] = 1
        label[6 + n : 8 + n, 6:8, 6:8] = 2
        noise = np.random.default_rng(n).integers(-30, 30, SHAPE)  # without it equal windows are computed once
        data.add(f"case_{n}", (np.array([30, 100, 170])[label] + noise).astype(np.int16), label)
    data.finish()
    run.mkdir()
    (run / "splits.json").write_text(json.dumps(SPLITS))
    config = {"name": "tiny", "data": {"root": str(data.root)}, "labels": PLAN.labels, "modality": "CT"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    training = {"splits_sha256": hashlib.sha256((run / "splits.json").read_bytes()).hexdigest()}
    states = tiny_states(PLAN, 2)
    return tiny_model(run / "model", plan=PLAN, states=states, training=dict.fromkeys(states, training))


def by_intensity(patches, lowest, highest):
    """Logits (B, 3, I, J, K) of the nearest of three intensities: the lowest one, the highest one, that between."""
    levels = torch.linspace(lowest, highest, 3).view(1, 3, 1, 1, 1)
    return -100 * (patches - levels).abs()


@pytest.fixture
def passes(monkeypatch):
    """The forward passes so far, by which everything is timed."""
    count, start = [0], backends.start

    def predict(patches):
        count[0] += len(patches)
        return by_intensity(patches, 0.15, 0.85)

    def started(model, *args, **kwargs):
        return replace(start(model, *args, **kwargs), predicts=[predict] * len(model.card.weights))

    clock = SimpleNamespace(perf_counter=lambda: float(count[0]))
    for module in (device, precision):
        monkeypatch.setattr(module, "bf16_pays", lambda chosen: False)
    monkeypatch.setattr(backends, "start", started)
    monkeypatch.setattr(segment, "time", clock)
    monkeypatch.setattr(windows_of_scan, "time", clock)
    monkeypatch.setattr(tune_measure, "perf_counter", clock.perf_counter)
    return count


def test_a_preset_looks_first_where_that_is_quicker_and_infer_does_so_and_quotes_it(tmp_path, passes, capsys):
    model = made_run(tmp_path)
    assert command(["tune", str(model), "--device", "cpu", "--quiet"]) == 0
    table = capsys.readouterr().out
    how = load_model(model).card.inference
    assert {name: (p.overlap, p.roi) for name, p in how.presets.items()} == {
        "fast": (0.25, True),
        "balanced": (0.25, True),
        "accurate": (0.25, False),
    }
    # Windows of 8 voxels at most 6 apart, over 40, 40 and 24: 7 x 7 x 4, and as many again for the second fold.
    assert how.presets["accurate"].seconds_per_scan == 392
    assert how.presets["fast"].mean_dice == 1
    assert [one.settings["roi"] for one in how.predicted_dice] == [False, False]
    section = (model / "README.md").read_text().partition("## Presets")[2].partition("##")[0]
    head, line, fast, *_ = (line for line in section.splitlines() if line.startswith("|"))
    assert head.count("|") == line.count("|") == fast.count("|")
    assert "| fast | 0.25 | off | on | – | 1.0000 |" in fast

    used = []
    for n in range(2):
        scan, before = tmp_path / "data" / "imagesTr" / f"case_{n}.nii.gz", passes[0]
        asked = ["infer", str(scan), "--model", str(model), "-o", str(tmp_path), "--preset", "fast", "--device", "cpu"]
        assert command(asked) == 0
        used.append(passes[0] - before)
        manifest = json.loads((tmp_path / f"case_{n}_seg.json").read_text())
        assert manifest["settings"]["roi"] is True
        assert used[-1] == manifest["roi"]["first_look_windows"] + 2 * manifest["roi"]["windows"] < 392
    assert how.presets["fast"].seconds_per_scan == pytest.approx(np.mean(used))
    said = " ".join(capsys.readouterr().err.split())
    assert "preset fast, looking first (roi): measured Dice 1.000" in said
    row = next(line.split("│")[1:] for line in table.splitlines() if "fast, balanced" in line)
    assert [cell.strip() for cell in row[1:6]] == [
        "0.25",
        "off",
        "on",
        f"{np.mean(used) / 392:.0%}",
        f"{np.mean(used):.3g}",
    ]
