"""A model of more structures than features: windows are blended before its last layer, and the labels are the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.inference.backends import BACKENDS
from medseg.inference.segment import segment
from medseg.inference.segmenter import Segmenter
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import stream_bricks
from medseg.inference.windows import gaussian_weights, window_starts
from medseg.io.recorded import Recorded
from medseg.models.bundle import load_model
from medseg.models.head import AT_ONCE, Head, features_of, head_key
from tests.models.tiny_model import OBLIQUE, texture, tiny_model, tiny_plan

MANY = {"background": 0} | {f"structure_{n}": n for n in range(1, 25)}
SIDES = {"background": 0, "left": 1, "right": 2} | {f"structure_{n}": n for n in range(3, 25)}
RESIDUAL = {
    "name": "resenc_unet",
    "options": {
        "features": [4, 8],
        "kernel_sizes": [[3, 3, 3]] * 2,
        "strides": [[1, 1, 1], [2, 2, 2]],
        "blocks_per_stage": [1, 1],
        "decoder_convs_per_stage": [1],
    },
}
FLAT = {
    "dimensions": 2,
    "slice_axis": 2,
    "patch_size": [8, 8, 1],
    "architecture": {
        "name": "unet",
        "options": {
            "features": [4, 8],
            "kernel_sizes": [[3, 3]] * 2,
            "strides": [[1, 1], [2, 2]],
            "convs_per_stage": [1, 1],
            "decoder_convs_per_stage": [1],
        },
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("many") / "model", plan=tiny_plan(labels=MANY))


def scan() -> Volume:
    data = texture((20, 18, 16))
    return Volume(data[None], Geometry(data.shape, OBLIQUE))


def test_a_voxels_logits_are_those_of_the_last_layer_and_do_not_depend_on_the_others():
    torch.manual_seed(0)
    head = Head(torch.randn(40, 32), torch.randn(40))
    features = torch.randn(32, 3, 80, 100)
    whole = head.logits(features)
    exact = (
        torch.einsum("kc,cnab->knab", head.weight.double(), features.double()) + head.bias.double()[:, None, None, None]
    )
    torch.testing.assert_close(whole.double(), exact, rtol=0, atol=1e-5)
    for cut in (np.s_[:, :1], np.s_[:, 1:2, 3:4, 5:6], np.s_[:, :, 10:31, ::2], np.s_[:, 1:, 7:]):
        assert torch.equal(head.logits(features[cut]), whole[cut])
    for width, rows in ((100, 80), (AT_ONCE + 3, 1), (3, 1)):
        brick = torch.randn(32, 2, rows, width)
        box = (slice(5, 7), slice(1, 1 + rows), slice(0, width))
        found = torch.full((40, 7, 1 + rows, width), torch.nan)
        for (i, j, k), logits in head.pieces(box, brick):
            assert found[:, i, j, k].isnan().all()
            found[:, i, j, k] = logits
        assert torch.equal(found[:, 5:, 1:], head.logits(brick))
    assert torch.equal(torch.cat(list(head.slabs(features)), dim=1), whole)


@pytest.mark.parametrize("changes", [{}, {"architecture": RESIDUAL}, FLAT], ids=["unet", "resenc_unet", "2d"])
def test_a_network_without_its_head_gives_the_features_of_which_the_head_makes_its_logits(changes, tmp_path):
    plan = tiny_plan(labels=MANY, **changes)
    model = load_model(tiny_model(tmp_path / "model", plan=plan))
    patches = torch.randn(2, 1, *plan.patch_size)
    headless, head = replace(model, headless=True), model.head(0)
    with torch.inference_mode():
        wanted, features = model.network(0).eval()(patches), headless.network(0).eval()(patches)
    assert features.shape[1] == headless.outputs == features_of(plan) == head.features == 4
    for one, logits in zip(features, wanted, strict=True):
        torch.testing.assert_close(head.logits(one), logits)


def test_architectures_that_end_otherwise_keep_their_last_layer():
    plan = tiny_plan(labels=MANY, architecture={"name": "segresnet", "options": {}})
    assert head_key(plan) is None
    assert features_of(plan) == len(MANY)


@pytest.mark.parametrize("precision", ["f32", "f16"])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.5, 2.0), (1.3, 1.2, 2.9)], ids=["own grid", "another"])
@pytest.mark.parametrize("mirror", [(), (0, 1)], ids=["plain", "mirrored"])
def test_labels_are_those_of_blended_logits(folder, precision, spacing_mm, mirror, tmp_path):
    """Where the two largest logits differ by more than rounding; and what is recorded agrees with them to the voxel."""
    plan = tiny_plan(labels=MANY, spacing_mm=spacing_mm)
    model = load_model(folder)
    head = model.head(0)
    networks = [replace(model, headless=headless).network(0).eval() for headless in (False, True)]
    settings = InferenceSettings(accumulators=precision, mirror=mirror)
    with torch.inference_mode():
        whole, parts = (lambda patches, network=network: network(patches) for network in networks)
        wanted = segment(scan(), plan, whole, settings=settings).label_map.data
        found = segment(scan(), plan, parts, settings=settings, head=head).label_map.data
        assert len(np.unique(wanted)) > 5
        assert (found == wanted).mean() > (0.9995 if precision == "f32" else 0.99)
        with Recorded(tmp_path, probabilities=True, entropy=False) as record:
            again = segment(scan(), plan, parts, settings=settings, head=head, record=record).label_map.data
    np.testing.assert_array_equal(again, found)


def test_streamed_features_are_those_of_all_windows_at_once(folder):
    """To the bit in float32: the sums over all windows, then the last layer."""
    model = load_model(folder)
    head, network = model.head(0), replace(model, headless=True).network(0).eval()
    image, window = np.random.default_rng(0).normal(size=(1, 20, 14, 17)).astype(np.float32), (8, 8, 8)
    weights = torch.from_numpy(gaussian_weights(window))
    sums, norm = torch.zeros(4, *image.shape[1:]), torch.zeros(image.shape[1:])
    with torch.inference_mode():
        for i, j, k in window_starts((20, 14, 17), window, 0.5):
            cut = slice(i, i + 8), slice(j, j + 8), slice(k, k + 8)
            sums[(slice(None), *cut)].addcmul_(network(torch.from_numpy(image[(slice(None), *cut)])[None])[0], weights)
            norm[cut] += weights
        wanted = head.logits(sums / norm)
        found = torch.full_like(wanted, torch.nan)
        for brick, mean in stream_bricks(image, network, channels=4, window=window, order=(0, 1, 2)):
            for box, logits in head.pieces(brick, mean):
                found[(slice(None), *box)] = logits
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_runs_a_network_without_its_last_layer(folder, backend):
    wanted = Segmenter.load(folder, backend="torch", accumulators="nnunet", device="cpu")
    found = Segmenter.load(folder, backend=backend, precision="f32", device="cpu")
    assert wanted.head is None
    assert found.head is not None
    assert "structure_8 and 16 more); device: cpu" in found.describe()
    agreement = found(scan()).label_map.data == wanted(scan()).label_map.data
    assert agreement.mean() > 0.98  # nnU-Net's roundings make close calls of a random network ties
    box = found.segment(scan(), "scan")
    again = replace(found, settings=replace(found.settings, roi=True)).segment(scan(), "scan")
    assert again.roi is not None
    inside = again.label_map.data != 0
    np.testing.assert_array_equal(again.label_map.data[inside], box.label_map.data[inside])


@pytest.mark.parametrize(
    ("labels", "folds", "options", "expected"),
    [
        (MANY, 1, {}, True),
        (MANY, 1, {"accumulators": "f16"}, True),
        (MANY, 1, {"accumulators": "nnunet"}, False),
        (MANY, 1, {"mirror": "i,j"}, True),
        (SIDES, 1, {"mirror": "j,k"}, True),
        (SIDES, 1, {"mirror": "i"}, False),
        (MANY, 2, {}, False),
        (MANY, 2, {"folds": "0"}, True),
        ({"background": 0, "liver": 1, "tumour": 2}, 1, {}, False),
    ],
)
def test_features_are_blended_where_they_are_fewer_and_all_after_them_is_linear(
    labels, folds, options, expected, tmp_path
):
    folder = tiny_model(tmp_path / "model", plan=tiny_plan(labels=labels), folds=folds)
    assert (Segmenter.load(folder, device="cpu", **options).head is not None) is expected


def test_sides_of_a_mirrored_patient_are_swapped(tmp_path):
    """Mirroring left and right with a model of both sides: blended as logits, each side's with its own."""
    folder = tiny_model(tmp_path / "model", plan=tiny_plan(labels=SIDES))
    found = Segmenter.load(folder, device="cpu", mirror="i", backend="torch")
    flipped = Volume(np.ascontiguousarray(scan().data[:, ::-1]), scan().geometry)
    here, there = (found.segment(one, "scan").label_map.data for one in (scan(), flipped))
    swap = np.arange(len(SIDES))
    swap[[1, 2]] = 2, 1
    assert (swap[there[::-1]] == here).mean() > 0.99
