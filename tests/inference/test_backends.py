"""The contract that every backend keeps, and what each adds."""

import json
import os
import subprocess
import sys

import numpy as np
import platformdirs
import pytest
import torch

from medseg.core.errors import ConfigError, ModelError, ResourceError
from medseg.core.files import sha256_of
from medseg.inference.backends import BACKENDS, chosen_backend, openvino_model, start
from medseg.inference.backends import conversions as conversions_module
from medseg.inference.backends.conversions import NotConverted
from medseg.inference.backends.openvino_backend import load_openvino, openvino_backend
from medseg.inference.backends.openvino_model import example_patch
from medseg.inference.backends.torch_backend import torch_predict
from medseg.inference.device import bf16_pays
from medseg.inference.precision import bf16_dice_loss, precision_for
from medseg.models.bundle import load_model, open_model
from medseg.models.how_to_run import Bf16DiceLoss, HowToRun
from tests.models.tiny_model import tiny_model, tiny_plan

CPU = torch.device("cpu")
FLAT = {
    "name": "resenc_unet",
    "options": {
        "features": [4, 8],
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2]],
        "blocks_per_stage": [1, 1],
        "decoder_convs_per_stage": [1],
    },
}
PLANS = {
    "3d": tiny_plan(patch_size=[8, 12, 16]),
    "2d": tiny_plan(dimensions=2, slice_axis=2, patch_size=[16, 12, 1], architecture=FLAT, spacing_mm=[1, 1, 3]),
    "channels": tiny_plan(channels=2, intensity=[{"scheme": "z_score"}] * 2, patch_size=[8, 8, 8]),
}
# Largest difference of the logits from those of PyTorch in f32, over their spread.
TOLERANCE = {"f32": 2e-3, "bf16": 0.1}


def quiet(line):
    pass


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: load_model(tiny_model(folder / name, plan=plan, folds=2)) for name, plan in PLANS.items()}


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        pytest.param(name, plan, marks=[pytest.mark.slow] * (name == "onnxruntime" and plan != "3d"))
        for name in BACKENDS
        for plan in PLANS
    ],
)
def test_every_backend_gives_the_logits_of_each_fold_that_torch_gives(name, plan, models):
    model = models[plan]
    predicts = BACKENDS[name](model, CPU, "f32", quiet)
    assert len(predicts) == 2
    torch.manual_seed(1)
    earlier = []
    for batch in (1, 3, 2):
        patches = torch.randn(batch, model.plan.channels, *model.plan.patch_size)
        for network, predict in zip(model.networks, predicts, strict=True):
            with torch.inference_mode():
                expected = network.eval()(patches)
            logits = predict(patches)
            assert (logits.shape, logits.dtype, logits.device) == (expected.shape, torch.float32, CPU)
            assert (logits - expected).abs().max() < TOLERANCE["f32"] * expected.std()
            assert torch.equal(predict(patches), logits), "the same patches, the same logits"
            assert torch.equal(predict(patches[-1:])[0], logits[-1]) or name == "torch", "whatever the batch"
            earlier.append((logits[:, 1:], logits[:, 1:].clone()))  # a view keeps its memory
    assert all(torch.equal(*pair) for pair in earlier), "later calls do not write into earlier results"


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_takes_patches_in_any_memory_order(name, models):
    (predict, _) = BACKENDS[name](models["3d"], CPU, "f32", quiet)
    patches = torch.randn(2, 1, 8, 12, 16)
    torch.testing.assert_close(predict(patches.mT.contiguous().mT), predict(patches))


@pytest.mark.skipif(not bf16_pays(CPU), reason="no arithmetic for bf16 on this CPU")
@pytest.mark.parametrize("name", sorted({*BACKENDS} - {"onnxruntime"}))
def test_bf16_is_near_f32_and_not_the_same(name, models):
    model = models["3d"]
    patches = torch.randn(1, 1, *model.plan.patch_size)
    f32, bf16 = (BACKENDS[name](model, CPU, precision, quiet)[0](patches) for precision in ("f32", "bf16"))
    assert bf16.dtype == torch.float32
    assert 0 < (bf16 - f32).abs().max() < TOLERANCE["bf16"] * f32.std()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda app: tmp_path / "cache" / app)
    return tiny_model(tmp_path / "place" / "model", plan=PLANS["3d"])


CONVERTS = {
    "openvino": (openvino_model, "_convert"),
    "onnxruntime": (sys.modules["medseg.inference.backends.onnxruntime_backend"], "write_onnx"),
}


def conversions(folder, monkeypatch, backend="openvino"):
    """The number of networks converted to run the model once, and its logits."""
    made = []
    module, name = CONVERTS[backend]
    inner = getattr(module, name)
    with monkeypatch.context() as patched:
        patched.setattr(module, name, lambda *args: (made.append(1), inner(*args))[1])
        (predict,) = BACKENDS[backend](open_model(folder), CPU, "f32", quiet)
    return len(made), predict(torch.ones(1, 1, *PLANS["3d"].patch_size))


@pytest.mark.parametrize("backend", CONVERTS)
def test_a_network_is_converted_once_and_kept_beside_the_model_folder(folder, monkeypatch, backend):
    before = sorted(path.name for path in folder.rglob("*"))
    (first, expected), (second, logits) = (conversions(folder, monkeypatch, backend) for _ in range(2))
    assert (first, second) == (1, 0)
    assert torch.equal(logits, expected)
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model", f"model.{backend}"]
    (kept,) = (folder.parent / f"model.{backend}").iterdir()
    weights = max(kept.iterdir(), key=lambda path: path.stat().st_size)
    weights.write_bytes(weights.read_bytes()[:-100])
    made, logits = conversions(folder, monkeypatch, backend)
    assert made == 1, "a damaged one is made anew"
    assert torch.equal(logits, expected)


def test_onnxruntime_runs_what_cannot_be_kept_and_refuses_what_differs(folder, monkeypatch):
    (folder.parent / "model.onnxruntime").write_text("a file, in which nothing can be written")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda app: folder.parent / "model.onnxruntime")
    model = open_model(folder)
    patch = torch.randn(1, 1, *PLANS["3d"].patch_size)
    running = start(model, CPU, backend="onnxruntime")
    assert (running.backend, running.precision) == ("onnxruntime", "f32")
    expected = torch_predict(model.networks, CPU)(patch)
    torch.testing.assert_close(running.predicts[0](patch), expected, atol=1e-4, rtol=1e-3)
    monkeypatch.setattr("medseg.models.exporters.onnx_network.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(NotConverted, match=r"ONNX Runtime's logits of the network unet differ .* use --backend torch"):
        start(model, CPU, backend="onnxruntime")


def test_what_was_kept_is_read_without_the_networks_of_the_model(folder, monkeypatch):
    conversions(folder, monkeypatch)
    model = open_model(folder)
    openvino_backend(model, CPU, "f32", quiet)
    assert "networks" not in vars(model)


def test_other_weights_are_converted_anew(folder, monkeypatch):
    _, old = conversions(folder, monkeypatch)
    model = load_model(folder)
    state = {key: value + 0.1 for key, value in model.networks[0].state_dict().items()}
    tiny_model(folder, plan=PLANS["3d"], states={"fold_0": state})
    made, new = conversions(folder, monkeypatch)
    assert made == 1
    assert not torch.equal(old, new)


def test_folds_that_run_alone_are_kept_side_by_side_and_the_oldest_goes_first(folder, monkeypatch):
    monkeypatch.setattr(conversions_module, "MOST_KEPT", 2)
    model, said = open_model(tiny_model(folder, plan=PLANS["3d"], folds=3)), []
    for n, fold in enumerate([0, 1, 0, 1, 2, 1, 0]):
        openvino_backend(model.of_folds([f"fold_{fold}"]), CPU, "f32", lambda line, n=n: said.append(n))
    assert said == [0, 1, 4, 6]
    assert len(list((folder.parent / "model.openvino").iterdir())) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "hashed", "json", "link", "pipe"])
def test_what_was_kept_and_is_damaged_is_made_anew(folder, monkeypatch, damage):
    _, expected = conversions(folder, monkeypatch)
    (kept,) = (folder.parent / "model.openvino").iterdir()
    weights, record = kept / "fold_0.bin", kept / "conversion.json"
    data = weights.read_bytes()
    if damage == "flip":
        weights.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif damage == "json":
        record.write_text("[1")
    elif damage == "link":
        weights.rename(folder.parent / "elsewhere")
        weights.symlink_to(folder.parent / "elsewhere")
    elif damage == "pipe":
        record.unlink()
        os.mkfifo(record)
    else:
        weights.write_bytes(data[:-100])
    if damage == "hashed":  # as a full disk leaves it where the library does not notice
        content = json.loads(record.read_text())
        content["files"]["fold_0.bin"] = sha256_of(weights)
        record.write_text(json.dumps(content))
    made, logits = conversions(folder, monkeypatch)
    assert made == 1
    assert torch.equal(logits, expected)
    assert conversions(folder, monkeypatch)[0] == 0


def test_beside_a_read_only_folder_the_users_cache_keeps_it_and_else_memory(folder, monkeypatch, tmp_path):
    (folder.parent / "model.openvino").write_text("a file, in which nothing can be written")
    made, expected = conversions(folder, monkeypatch)
    assert made == 1
    assert conversions(folder, monkeypatch)[0] == 0
    assert (tmp_path / "cache" / "medseg" / "openvino").is_dir()
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda app: folder.parent / "model.openvino")
    assert torch.equal(conversions(folder, monkeypatch)[1], expected)


def test_a_network_whose_logits_differ_is_refused_or_left_to_torch(folder, monkeypatch):
    monkeypatch.setattr(openvino_model, "LARGEST_DIFFERENCE", 0.0)
    monkeypatch.setattr("medseg.inference.backends.WORTH_OPENVINO", 0)
    with pytest.raises(NotConverted, match="logits of the network unet differ from PyTorch's by"):
        start(open_model(folder), CPU, backend="openvino")
    said = []
    running = start(open_model(folder), CPU, say=said.append)
    assert (running.backend, running.precision) == ("torch", "f32")
    assert "PyTorch runs it instead" in said[-1]


def test_a_network_that_openvino_cannot_convert_is_refused_by_name(folder, monkeypatch):
    monkeypatch.setattr(torch.jit, "trace", lambda *args, **options: 1 / 0)
    with pytest.raises(ModelError, match=r"OpenVINO cannot convert the network unet \(division by zero\)"):
        start(open_model(folder), CPU, backend="openvino")


def test_auto_is_openvino_where_a_window_is_work_enough_and_torch_elsewhere(folder, monkeypatch):
    model = open_model(folder)
    assert chosen_backend("auto", model, CPU) == "torch"
    monkeypatch.setattr("medseg.inference.backends.WORTH_OPENVINO", 1e5)
    assert chosen_backend("auto", model, CPU) == "openvino"
    assert chosen_backend("auto", model, torch.device("cuda")) == "torch"
    monkeypatch.setattr("medseg.inference.backends.find_spec", lambda name: None)
    assert chosen_backend("auto", model, CPU) == "torch"


def test_backends_that_are_unknown_or_on_another_device_or_not_installed_are_refused(folder, monkeypatch):
    model = open_model(folder)
    with pytest.raises(ConfigError, match="unknown 'openvno'; did you mean 'openvino'"):
        start(model, CPU, backend="openvno")
    for backend in CONVERTS:
        with pytest.raises(ConfigError, match=f"backend {backend} runs on the CPU, not on cuda:1"):
            start(model, torch.device("cuda:1"), backend=backend)
    with pytest.raises(ConfigError, match="bf16: backend onnxruntime computes in f32 alone"):
        start(model, CPU, backend="onnxruntime", precision="bf16")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'medseg\[export\]'"):
        start(model, CPU, backend="onnxruntime")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'medseg\[openvino\]'"):
        start(model, CPU, backend="openvino")


def test_openvino_is_loaded_without_its_telemetry():
    assert load_openvino().convert_model
    assert sys.modules["openvino_telemetry"] is None
    assert "openvino.tools.ovc.telemetry_stub" in sys.modules


SIGNALLED = """
import gc, signal, sys, torch
from pathlib import Path
from medseg.inference.backends import start
from medseg.models.bundle import load_model
caught = []
signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
def load():
    return start(load_model(Path(sys.argv[1])), torch.device("cpu"), backend="openvino", precision="f32", say=print)
first, second = load(), load()
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGTERM)
print("caught", len(caught))
"""


def test_a_signal_after_openvino_was_let_go_reaches_its_handler(folder):
    """Of two that go, the second puts back the first's signal stack, which is unmapped: a signal then was a segmentation fault."""
    command = [sys.executable, "-X", "faulthandler", "-c", SIGNALLED, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["caught 1"], done.stderr


def test_the_smallest_patch_of_a_2d_network_is_one_slice():
    assert example_patch((16, 12, 1), FLAT["options"]["strides"], 2) == (4, 2, 1)
    assert example_patch((16, 12, 1), None, 2) == (16, 12, 1)


class Seen(torch.nn.Module):
    """Tells in what type a convolution would compute."""

    def forward(self, x):
        self.kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return x


@pytest.mark.parametrize(
    ("precision", "kind"), [(None, torch.float32), ("f32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_torch_computes_in_the_precision_that_is_asked(precision, kind):
    network = Seen()
    assert torch_predict([network], CPU, precision=precision)(torch.ones(1, 1, 2, 2, 2)).dtype == torch.float32
    assert network.kind == kind


def test_running_out_of_memory_is_left_to_the_caller():
    def full(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = Seen()
    network.forward = full
    with pytest.raises(torch.OutOfMemoryError):
        torch_predict([network], CPU)(torch.ones(1, 1, 2, 2, 2))


def wishes(largest, backend="openvino"):
    return HowToRun(
        bf16_dice_loss=Bf16DiceLoss(mean=largest / 2, largest=largest, structure="a", cases=3, backend=backend)
    )


def test_bf16_is_chosen_where_its_loss_was_measured_and_is_small(monkeypatch):
    monkeypatch.setattr("medseg.inference.precision.bf16_pays", lambda device: True)
    assert precision_for("auto", CPU, "openvino", HowToRun()) == "f32"
    assert precision_for("auto", CPU, "openvino", wishes(0.001)) == "bf16"
    assert precision_for("auto", CPU, "openvino", wishes(0.0011)) == "f32"
    assert precision_for("auto", CPU, "torch", wishes(0.001)) == "f32", "measured on the other backend"
    assert precision_for("auto", torch.device("cuda"), "torch", wishes(1.0)) == "fp16"
    assert precision_for("f32", CPU, "openvino", wishes(0.0)) == "f32"
    assert precision_for("auto", CPU, "onnxruntime", wishes(0.0)) == "f32"
    monkeypatch.setattr("medseg.inference.precision.bf16_pays", lambda device: False)
    assert precision_for("auto", CPU, "openvino", wishes(0.0)) == "f32"
    with pytest.raises(ResourceError, match=r"bf16: this device \(cpu\) has no arithmetic"):
        precision_for("bf16", CPU, "torch", HowToRun())
    with pytest.raises(ConfigError, match="fp16 needs a CUDA GPU"):
        precision_for("fp16", CPU, "torch", HowToRun())
    with pytest.raises(ConfigError, match="'half' is unknown; choose auto, f32, bf16, fp16"):
        precision_for("half", CPU, "torch", HowToRun())


def test_the_dice_lost_in_bf16_is_the_mean_over_cases_and_the_worst_structure_is_named():
    f32 = np.array([[0.9, 0.8, np.nan], [0.7, np.nan, np.nan], [0.5, 0.4, np.nan]])
    bf16 = np.array([[0.9, 0.8, np.nan], [0.6, 0.0, 0.5], [0.5, np.nan, np.nan]])
    loss = bf16_dice_loss(f32, bf16, structures=("a", "b", "c"), backend="openvino")
    assert (loss.structure, loss.cases, loss.backend) == ("b", 3, "openvino")
    assert loss.largest == pytest.approx((0.0 + 0.4) / 2)
    assert loss.mean == pytest.approx((0.1 / 3 + 0.2) / 2)
    assert bf16_dice_loss(f32[:, 2:], bf16[:, 2:], structures=("c",), backend="torch") is None
