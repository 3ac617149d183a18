"""The policy's group model as checkpoints in a folder of nnU-Net, and the child that reads them."""

import re
import shutil
import zipfile

import numpy as np
import pytest
import torch

from medseg.cli.app import run
from medseg.models.importers import torch_checkpoint
from medseg.models.importers.torch_checkpoint import read_checkpoint
from tests.models.bad_model import FIRST, LAST, ROWS, WEIGHTS, Canary
from tests.models.importers.nnunet_folder import decoded_here, nnunet_folder
from tests.models.tiny_model import tiny_model

CHECKPOINT = "fold_0/checkpoint_final.pth"
HINTS = {row.id: row.hints[0] for row in ROWS} | {
    **dict.fromkeys(("m-axes-doubled", "m-axes-out-of-range", "m-axes-no-list"), "mirroring_axes are .* expected axes"),
    "m-repeated-bytes": "more bytes than the file",
    "m-sparse": "not dense",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "nn"
    nnunet_folder(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "in" / "nn")


@pytest.fixture
def in_this_process(monkeypatch):
    """The child's code here: what it does not execute there, it does not execute here."""
    monkeypatch.setattr(torch_checkpoint, "decoded", decoded_here)


def _changed(change):
    def make(folder):
        file = folder / CHECKPOINT
        content = torch.load(file, weights_only=False)
        change(content["network_weights"])
        torch.save(content, file)

    return make


def _bytes(change):
    return lambda folder: (folder / CHECKPOINT).write_bytes(change((folder / CHECKPOINT).read_bytes()))


def _flipped(folder):
    """One bit of the last tensor's bytes, where only the checksum can tell."""
    file = folder / CHECKPOINT
    with zipfile.ZipFile(file) as archive:
        record = max(archive.infolist(), key=lambda one: one.file_size * ("/data/" in one.filename))
    raw = bytearray(file.read_bytes())
    raw[record.header_offset + 200 + record.file_size // 2] ^= 1
    file.write_bytes(raw)


def _foreign(row):
    """The row's file in the place of the checkpoint; of a row about safetensors, those."""

    def make(folder):
        model = tiny_model(folder.parent / "m" / "model")
        found = row.make(model)
        shutil.copy(found if found.is_file() else model / WEIGHTS, folder / CHECKPOINT)
        shutil.rmtree(folder.parent / "m")

    return make


def _as_all_names(key, change):
    """nnU-Net lists one tensor under several names."""

    def on(state):
        inside = key.replace(".conv.weight", ".all_modules.0.weight")
        for name in (key, inside, f"decoder.encoder.{key}", f"decoder.encoder.{inside}"):
            if name in state:
                state[name] = change(state[name])

    return _changed(on)


def _value(number):
    return _as_all_names(FIRST, lambda t: torch.full_like(t, number))


def _without(key):
    return _changed(lambda state: [state.pop(name) for name in list(state) if name.endswith(key)])


def _with_canary(folder):
    torch.save({"network_weights": {"a": torch.ones(1)}, "trainer_name": Canary(folder.parent)}, folder / CHECKPOINT)


def _other_outputs(state):
    for name in (LAST, LAST.replace("weight", "bias")):
        state[name] = state[name][:2].clone()


def _content(**changes):
    def make(folder):
        file = folder / CHECKPOINT
        torch.save(torch.load(file, weights_only=False) | changes, file)

    return make


def _doubled(times):
    """A list of lists that all are one and the same: small on the disk, 2 ** ``times`` entries once each is told."""
    found = [0]
    for _ in range(times):
        found = [found, found]
    return found


FOREIGN = ("m-html", "m-exec", "m-torchscript", "m-whole-module", "m-zip", "m-safetensors")
BAD = {
    **{row.id: _foreign(row) for row in ROWS if row.id.startswith(FOREIGN)},
    "m-empty": _bytes(lambda raw: b""),
    **{f"m-trunc-{s}": _bytes(lambda raw, s=s: raw[: int(len(raw) * s)]) for s in (0.1, 0.5, 0.9, 0.999)},
    "m-bitflip-weights": _flipped,
    "m-exec-in-a-fact": _with_canary,
    "m-axes-doubled": _content(inference_allowed_mirroring_axes=_doubled(60)),
    "m-axes-out-of-range": _content(inference_allowed_mirroring_axes=(0, 3)),
    "m-axes-no-list": _content(inference_allowed_mirroring_axes=2),
    "m-repeated-bytes": _changed(lambda state: state.update(endless=torch.zeros(1).expand(2**40))),
    "m-sparse": _changed(lambda state: state.update(extra=torch.zeros(2, 2).to_sparse())),
    "m-missing-keys": _without(FIRST.removeprefix("encoder.stages.0.0.")),
    "m-extra-keys": _changed(lambda state: state.update(extra=torch.zeros(2))),
    "m-wrong-shape": _as_all_names(FIRST, lambda t: t[..., :1].clone()),
    "m-other-labels": _changed(_other_outputs),
    "m-nan": _value(float("nan")),
    "m-inf": _value(float("inf")),
    "m-no-meta": lambda folder: (folder / "plans.json").unlink(),
    "m-wrong-dtype": _as_all_names(FIRST, lambda t: t.to(torch.int64)),
}
# A version is written in none of nnU-Net's files.
NOT_HERE = {"m-future"}


def test_every_bad_kind_of_the_policy_is_tried():
    assert {row.id for row in ROWS} - NOT_HERE <= set(BAD)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.usefixtures("in_this_process")
def test_a_bad_checkpoint_is_refused_by_name_and_nothing_is_left(folder, capsys, kind):
    BAD[kind](folder)
    place = folder.parent.parent
    before = sorted(place.rglob("*"))
    assert run(["models", "import", str(folder), "--output", str(place / "out" / "model")]) == 3
    said = capsys.readouterr().err
    assert re.search(HINTS.get(kind, "unsafe"), said, re.IGNORECASE), said
    assert str(folder) in said
    assert "Traceback" not in said
    assert sorted(place.rglob("*")) == before


def test_a_child_reads_the_weights_and_refuses_code(folder, tmp_path):
    found = read_checkpoint(
        folder / CHECKPOINT, weights="network_weights", facts={"epochs": ("current_epoch",), "x": ("a",)}
    )
    assert found.facts == {"epochs": 4}
    expected = torch.load(folder / CHECKPOINT, weights_only=False)["network_weights"]
    assert torch.equal(found.weights[FIRST], expected[FIRST])
    assert len(found.weights) < len(expected)
    _with_canary(folder)
    assert run(["models", "import", str(folder), "--output", str(tmp_path / "model")]) == 3
    assert not list(tmp_path.rglob("canary"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("in_this_process")
def test_weights_keep_their_type(tmp_path, dtype):
    torch.save({"w": {"a": torch.arange(6.0).reshape(2, 3).to(dtype)}, "n": np.float32(1)}, tmp_path / "c.pth")
    found = read_checkpoint(tmp_path / "c.pth", weights="w", facts={})
    assert torch.equal(found.weights["a"], torch.arange(6.0).reshape(2, 3).to(dtype))
