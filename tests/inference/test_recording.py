"""Probabilities and entropy on the scan's own grid: those of the interpolated logits, agreeing with the label map."""

import json
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from medseg.cli.app import run
from medseg.core.errors import ResourceError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import Volume
from medseg.inference.decide import largest, regions_in_order
from medseg.inference.recording import exclusive_steps, recorded_slabs, region_steps
from medseg.inference.restore import restore
from medseg.inference.segment import segment
from medseg.io.recorded import STEPS, Recorded
from medseg.workflows.infer import infer
from tests.inference.test_regions import REGIONS
from tests.inference.test_restore import cut
from tests.models.tiny_model import OBLIQUE, tiny_model, tiny_plan, write_scan

SOURCE = (14, 11, 9)
LABELS = Labels.from_mapping({"background": 0, "liver": 4, "tumour": 9, "spleen": 2})
OVERLAPPING = Labels.from_mapping(LABELS.mapping(), {r["name"]: r["structures"] for r in REGIONS})


def recorded(tmp_path, logits, target, axis, labels):
    """The maps of ``logits`` and the channels that restore finds, in slabs of a few planes."""
    channels = np.zeros(target, np.uint8)
    decide = regions_in_order(labels.region_writes) if labels.regions else largest
    with Recorded(tmp_path, probabilities=True, entropy=True) as record:
        slabs = recorded_slabs(
            cut(logits, axis, [3, 1, 4]), record, channels=channels, source=SOURCE, axis=axis, labels=labels
        )
        restore(slabs, source=SOURCE, target=target, axis=axis, dtype=np.uint8, decide=decide, into=channels)
        record.place(lambda data, outside: data, Geometry(target, np.eye(4)))
        maps = np.stack([*record.maps()])
        return maps.astype(float) / STEPS, record.map(record.count - 1).astype(float) / STEPS, channels


@pytest.mark.parametrize("target", [SOURCE, (7, 9, 5), (20, 30, 8)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_comes_after_interpolation_and_agrees_with_the_label_map(tmp_path, target, axis):
    torch.manual_seed(0)
    logits = 3 * torch.randn(4, *SOURCE)
    found, entropy, channels = recorded(tmp_path, logits, target, axis, LABELS)
    at_target = interpolate(logits[None].double(), size=target, mode="trilinear", align_corners=False)[0]
    wanted = torch.softmax(at_target, dim=0)
    assert np.abs(found - wanted.numpy()).max() < 4 / STEPS
    assert (found.sum(axis=0) == 1).all()
    np.testing.assert_array_equal(found.argmax(axis=0), channels)
    nats = torch.distributions.Categorical(probs=wanted.movedim(0, -1)).entropy()
    np.testing.assert_allclose(entropy, (nats / math.log(4)).numpy(), atol=1 / STEPS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("axis", [0, 2])
def test_regions_have_a_probability_each(tmp_path, axis):
    torch.manual_seed(0)
    logits, target = 3 * torch.randn(3, *SOURCE), (20, 12, 8)
    found, entropy, channels = recorded(tmp_path, logits, target, axis, OVERLAPPING)
    at_target = interpolate(logits[None].double(), size=target, mode="trilinear", align_corners=False)[0]
    wanted = torch.sigmoid(at_target)
    assert np.abs(found - wanted.numpy()).max() < 1.01 / STEPS
    written = np.zeros(target, np.uint8)
    for region, channel in zip(found, OVERLAPPING.region_writes, strict=True):
        written[region > 0.5] = channel
    np.testing.assert_array_equal(written, channels)
    bits = torch.distributions.Bernoulli(probs=wanted).entropy().mean(dim=0) / math.log(2)
    np.testing.assert_allclose(entropy, bits.numpy(), atol=1 / STEPS)


def test_probabilities_that_differ_by_less_than_a_step_still_agree_with_the_label_map():
    tied = np.array([[0.3, 0.5, 1 / 3], [0.4, 0.5 - 1e-6, 1 / 3], [0.3, 1e-6, 1 / 3]], np.float32)
    for winner in ([1, 1, 2], [1, 0, 0], [1, 1, 1]):  # the second and third as rounding may decide them
        steps = exclusive_steps(tied, np.array(winner, np.uint8))
        assert (steps.sum(axis=0) == STEPS).all()
        np.testing.assert_array_equal(steps.argmax(axis=0), winner)
        assert np.abs(steps / STEPS - tied).max() < 3 / STEPS
    near = np.array([[0.5000001, 0.4999999]], np.float32)
    for winner in ([0, 0], [1, 1]):
        above = region_steps(near.copy(), np.array(winner, np.uint8), (1,)) > STEPS // 2
        np.testing.assert_array_equal(above[0], np.array(winner) == 1)


@pytest.mark.parametrize("number", [0, 13, 29, 47])
def test_maps_lie_on_the_scans_grid_in_any_storage_order(tmp_path, number):
    """The network's logits are the intensity itself, so that each map must follow it."""
    order = all_storage_orders()[number]
    plan = tiny_plan(spacing_mm=[1.3, 1.3, 1.3], intensity=[{"scheme": "none"}], labels={"background": 0, "bright": 1})
    shape = (13, 12, 9)
    grid = Geometry(shape, OBLIQUE)
    i, j, k = np.meshgrid(*map(np.arange, shape), indexing="ij")
    data = (0.3 * i - 0.4 * j + 0.2 * k).astype(np.float32)
    volume = Volume(order.array(data)[np.newaxis], order.geometry(grid))
    with Recorded(tmp_path, probabilities=True, entropy=False) as record:
        found = segment(
            volume, plan, lambda patches: torch.cat([torch.zeros_like(patches), patches], dim=1), record=record
        )
        bright = record.map(1) / STEPS
    assert record.geometry == volume.geometry
    np.testing.assert_array_equal(bright > 0.5, found.label_map.data == 1)
    expected = 1 / (1 + np.exp(-volume.data[0].astype(float)))
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(bright[inner], expected[inner], atol=0.02)


def test_what_a_plan_crops_away_is_certainly_background(tmp_path):
    plan = tiny_plan(labels={"background": 0, "bright": 1}, feed={"crop": "nonzero"}, intensity=[{"scheme": "none"}])
    data = np.zeros((1, 20, 18, 16), np.float32)
    data[:, 4:15, 5:14, 3:12] = 2
    with Recorded(tmp_path, probabilities=True, entropy=True) as record:
        predict = lambda patches: torch.cat([torch.zeros_like(patches), patches], dim=1)  # noqa: E731
        found = segment(Volume(data, Geometry(data.shape[1:], OBLIQUE)), plan, predict, record=record)
        background, bright, entropy = (record.map(n) / STEPS for n in range(3))
    outside = data[0] == 0
    assert (background[outside] == 1).all()
    assert (bright[outside] == 0).all()
    assert (entropy[outside] == 0).all()
    np.testing.assert_array_equal(bright > 0.5, found.label_map.data == 1)
    np.testing.assert_allclose(bright[~outside], 1 / (1 + np.exp(-2.0)), atol=1e-4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "model", plan=tiny_plan(spacing_mm=[1.3, 1.3, 1.3]), folds=2)


def test_evaluate_reads_what_infer_saves(tmp_path, model, capsys):
    scan = write_scan(tmp_path / "liver_7.nii.gz")
    out = tmp_path / "out"
    options = ["--save-probabilities", "--save-entropy", "--device", "cpu"]
    assert run(["infer", str(scan), "--model", str(model), "--output", str(out), *options]) == 0
    printed = capsys.readouterr().out
    assert f"{out}/probabilities/liver_7_seg.nii.gz" in printed
    assert sorted(p.name for p in out.iterdir()) == [
        *("entropy", "liver_7_seg.json", "liver_7_seg.nii.gz", "probabilities"),
    ]
    saved, labels = (nib.load(out / p / "liver_7_seg.nii.gz") for p in ("probabilities", "."))
    assert saved.shape == (*labels.shape, 3)
    np.testing.assert_array_equal(saved.affine, labels.affine)
    values = np.asarray(saved.dataobj, np.float32)
    assert (values.sum(axis=-1) == 1).all()
    np.testing.assert_array_equal(values.argmax(axis=-1), np.asarray(labels.dataobj))
    entropy = np.asarray(nib.load(out / "entropy" / "liver_7_seg.nii.gz").dataobj)
    assert entropy.shape == labels.shape
    assert 0 <= entropy.min() < entropy.max() <= 1
    manifest = json.loads((out / "liver_7_seg.json").read_text())
    assert manifest["probabilities"]["maps"] == ["background", "liver", "tumour"]
    references = tmp_path / "references"
    references.mkdir()
    (references / "liver_7.nii.gz").write_bytes((out / "liver_7_seg.nii.gz").read_bytes())
    scored = ["evaluate", str(out), str(references), "--probabilities", str(out / "probabilities"), "--json"]
    assert run(scored) == 0
    assert "brier" in capsys.readouterr().out


def test_the_label_map_is_the_same_with_probabilities_and_without(tmp_path, model):
    scan = write_scan(tmp_path / "scan.nii.gz")
    plain = infer(scan, model=model, output=tmp_path / "plain")
    both = infer(scan, model=model, output=tmp_path / "both", also=["probabilities"])
    assert plain.path.read_bytes() == both.path.read_bytes()


def test_no_room_for_the_maps_is_said_before_the_network_runs(tmp_path, model, monkeypatch):
    scan = write_scan(tmp_path / "scan.nii.gz")
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 100}))
    with pytest.raises(ResourceError, match="3 maps of probabilities take 10080 bytes"):
        infer(scan, model=model, output=tmp_path / "out", also=["probabilities"])
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
