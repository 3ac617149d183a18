"""What an inference will hold: promised, kept by choice, refused where it cannot be; and measured in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.core.errors import ResourceError
from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.inference import memory
from medseg.inference.bricks import cuts_for, most_voxels
from medseg.inference.memory import fitted
from medseg.inference.segment import segment
from medseg.inference.settings import InferenceSettings
from medseg.inference.windows import window_starts
from medseg.io.recorded import Recorded
from tests.models.tiny_model import tiny_plan

MIB = 2**20
WINDOW = 32
MANY = {"background": 0} | {f"structure_{n}": n for n in range(1, 50)}
AS_IT_IS = {"intensity": [{"scheme": {"name": "ct_window", "lower": -1e3, "upper": 1e3, "mean": 0.0, "sd": 300.0}}]}


def plan_of(labels: dict[str, int]):
    return tiny_plan(spacing_mm=[3.0] * 3, patch_size=[WINDOW] * 3, labels=labels, modality="CT", **AS_IT_IS)


def outputs(patches: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(patches), len(MANY), *patches.shape[2:])


@pytest.fixture
def steady(monkeypatch):
    """A process that holds 100 MiB, and 30 MiB more for each window that it predicts."""
    monkeypatch.setattr(memory, "resident_bytes", lambda: 100 * MIB)
    monkeypatch.setattr(memory, "_peak_of", lambda work: 30 * MIB)


def fit(gives: int | None, **asked) -> InferenceSettings:
    frame = Geometry((100, 90, 80), np.diag([3.0, 3.0, 3.0, 1.0]))
    said: list[str] = []
    found = fitted(frame, plan_of(MANY), InferenceSettings(max_memory=gives, **asked), outputs, said.append, held=50)
    assert len(said) == (gives is not None)
    return found


def test_fewer_windows_come_first_then_half_precision_then_a_refusal(steady):
    """Sums of 50 outputs in the bricks that are open at one time, four bytes each in f32, two in f16."""
    shape, window, order = (100, 90, 80), (WINDOW,) * 3, (0, 1, 2)
    starts = window_starts(shape, window, 0.5)
    open_voxels = most_voxels(starts, window, cuts_for(starts, window, shape, order, planes=False))
    sums, norm, constant = 50 * open_voxels * 4, open_voxels * 4, 50 * WINDOW**3 * 4
    scan = 100 * 90 * 80
    least = 100 * MIB + memory.SLACK + scan + norm + constant + 30 * MIB
    assert fit(None, batch=4) == InferenceSettings(accumulators="f32", batch=4)
    for gives, wanted in (
        (least + sums + 90 * MIB, ("f32", 4)),
        (least + sums + 70 * MIB, ("f32", 3)),
        (least + sums, ("f32", 1)),
        (least + sums // 2, ("f16", 1)),
    ):
        found = fit(gives, batch=4)
        assert (found.accumulators, found.batch) == wanted
    with pytest.raises(
        ResourceError, match=r"max-memory 0\.\d\d GiB does not suffice: .* need .*give more, crop the scan"
    ):
        fit(least + sums // 2 - MIB, batch=4)
    with pytest.raises(ResourceError):
        fit(least + sums // 2, accumulators="f32")
    with pytest.raises(
        ResourceError, match=r"add up with --accumulators f32, which holds less of this model, give more"
    ):
        fit(least, accumulators="nnunet")


def test_the_result_says_in_which_type_the_memory_let_it_add_up(steady, monkeypatch):
    """Of 50 outputs: with the memory that f32 needs, and with a byte less."""
    volume = Volume(np.zeros((1, 40, 40, 40), np.int16), Geometry((40,) * 3, np.diag([3.0, 3.0, 3.0, 1.0])))
    peaks, estimated = [], memory._estimate

    def noted(*args, **kwargs):
        peaks.append(estimated(*args, **kwargs))
        return peaks[-1]

    monkeypatch.setattr(memory, "_estimate", noted)

    def kind(given):
        asked = InferenceSettings(max_memory=given)
        return segment(volume, plan_of(MANY), outputs, settings=asked).accumulators

    assert kind(None) == "f32"
    assert kind(2**40) == "f32"
    needed = peaks[-1].peak
    assert (kind(needed), kind(needed - 1)) == ("f32", "f16")


def test_what_cannot_fit_is_refused_before_anything_is_computed():
    def predict(patches: torch.Tensor) -> torch.Tensor:
        raise AssertionError("a window was predicted")

    volume = Volume(np.zeros((1, 40, 40, 40), np.int16), Geometry((40, 40, 40), np.diag([3.0, 3.0, 3.0, 1.0])))
    with pytest.raises(ResourceError) as refused:
        segment(volume, plan_of(MANY), predict, settings=InferenceSettings(max_memory=MIB))
    assert refused.value.exit_code == 5


def test_a_device_that_is_full_gets_fewer_windows_at_once_and_the_labels_stay():
    """A device for three windows at most; and one that has no room for a single one."""
    data = np.random.default_rng(0).normal(0, 300, (1, 60, 50, 40)).astype(np.int16)
    volume = Volume(data, Geometry((60, 50, 40), np.diag([3.0, 3.0, 3.0, 1.0])))
    sizes: list[int] = []

    def with_room_for(room: int):
        def predict(patches: torch.Tensor) -> torch.Tensor:
            sizes.append(len(patches))
            if len(patches) > room:
                raise torch.OutOfMemoryError("injected")
            return torch.cat([1 - patches, patches], dim=1)

        return predict

    plan, said = plan_of({"background": 0, "liver": 1}), []
    eight = InferenceSettings(batch=8)
    found = segment(volume, plan, with_room_for(3), settings=eight, say=said.append).label_map.data
    assert said == [f"out of memory with {n} windows at once; going on with {n // 2}" for n in (8, 4)]
    assert (sizes[:2], max(sizes[2:])) == ([8, 4], 2)
    np.testing.assert_array_equal(found, segment(volume, plan, with_room_for(9), settings=eight).label_map.data)
    with pytest.raises(torch.OutOfMemoryError):
        segment(volume, plan, with_room_for(0), settings=eight)


def test_half_precision_sums_give_the_labels_of_single_precision():
    """Fifty smooth outputs on noise: where two are nearer than a rounding, either may win."""
    data = np.random.default_rng(0).normal(0, 300, (1, 60, 50, 40)).astype(np.int16)
    weights = torch.linspace(-2, 2, len(MANY)).view(1, -1, 1, 1, 1)

    def predict(patches: torch.Tensor) -> torch.Tensor:
        return weights * torch.nn.functional.avg_pool3d(patches, 3, 1, 1) * 8 - weights**2

    volume = Volume(data, Geometry((60, 50, 40), np.diag([3.0, 3.0, 3.0, 1.0])))
    half, single = (
        segment(volume, plan_of(MANY), predict, settings=InferenceSettings(accumulators=kind)).label_map.data
        for kind in ("f16", "f32")
    )
    assert len(np.unique(single)) > 20
    assert (half == single).mean() > 0.998


def test_what_was_promised_is_kept_on_a_real_scan_and_with_many_structures(real_data):
    """In a process of its own: 3 structures on a CT, alone and with their probabilities, then 50 on the same scan finer."""
    script = [
        sys.executable,
        "-m",
        "tests.inference.test_memory",
        str(real_data / "totalseg_ct/images/ct_abdpelvis.nii.gz"),
    ]
    done = subprocess.run(script, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for promised, measured in json.loads(done.stdout):
        assert 0.5 * promised < measured <= promised


def measure(scan: str) -> None:
    from medseg.inference.backends.torch_backend import torch_predict
    from medseg.io.reading import read_volume
    from medseg.models.bundle import network_for

    torch.set_num_threads(1)
    volume, figures = read_volume(Path(scan)), []
    few = plan_of({"background": 0, "liver": 1, "spleen": 2})
    three = torch_predict([network_for(few)], torch.device("cpu"))
    fine = plan_of(MANY).model_copy(update={"spacing_mm": (1.5, 1.5, 3.0), "patch_size": (64, 64, 48)})
    for plan, predict, recorded in ((few, three, False), (few, three, True), (fine, outputs, False)):
        said: list[str] = []
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        with Recorded(Path(tempfile.gettempdir()), probabilities=True, entropy=True) as record:
            segment(
                volume,
                plan,
                predict,
                settings=InferenceSettings(max_memory=2**40),
                record=record if recorded else None,
                say=said.append,
            )
            for _ in record.maps() if recorded else ():
                pass
        promised = float(said[0].split("at most ")[1].split(" GiB")[0]) * 2**30
        # Not ru_maxrss, which begins with what the parent held when it started this process.
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        figures.append((promised, int(peak.split()[1]) * 1024))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    measure(sys.argv[1])
