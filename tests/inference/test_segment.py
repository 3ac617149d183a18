"""One scan in, one label map out: on the scan's own grid, whatever its storage, spacing or size."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry, order_between
from medseg.core.volume import Volume
from medseg.data.preprocess import framed, is_by_window, preprocess
from medseg.inference.backends.torch_backend import torch_predict
from medseg.inference.segment import segment
from medseg.inference.settings import InferenceSettings
from medseg.inference.windows import gaussian_weights, window_starts
from medseg.io.reading import read_volume
from medseg.models.bundle import network_for
from tests.models.tiny_model import OBLIQUE, texture, tiny_plan

ALL_48 = [np.column_stack([p, s]) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]
BRIGHT = {"intensity": [{"scheme": {"name": "ct_window", "lower": -1e9, "upper": 1e9, "mean": 0.0, "sd": 1.0}}]}


def threshold(patches: torch.Tensor) -> torch.Tensor:
    """Two structures by intensity alone: liver above 0.5, tumour above 1.5."""
    image = patches[:, 0]
    return torch.stack([0.5 - image, 1 - (image - 1).abs() * 1.0 - 0.5, image - 1.5], dim=1)


def volume_of(data: np.ndarray, affine: np.ndarray) -> Volume:
    return Volume(data[None], Geometry(data.shape, affine))


def test_all_48_storage_orders_give_the_same_labels_in_their_own_order():
    torch.manual_seed(0)
    plan = tiny_plan(spacing_mm=[1.2, 1.2, 1.7])
    predict = torch_predict([network_for(plan)], torch.device("cpu"))
    first = segment(volume_of(texture(), OBLIQUE), plan, predict).label_map
    assert len(np.unique(first.data)) > 1
    for ornt in ALL_48:
        stored = nib.Nifti1Image(texture(), OBLIQUE).as_reoriented(ornt)
        found = segment(volume_of(np.asanyarray(stored.dataobj), stored.affine), plan, predict).label_map
        wanted = nib.Nifti1Image(first.data, OBLIQUE).as_reoriented(ornt)
        np.testing.assert_array_equal(found.data, np.asanyarray(wanted.dataobj))
        np.testing.assert_allclose(found.geometry.affine, stored.affine, atol=1e-12)


def test_on_the_plans_grid_a_ct_is_normalised_window_by_window_and_gets_the_same_bits():
    """The network sees what `preprocess` makes, whatever the storage order; other schemes and grids are made whole."""
    random = np.random.default_rng(0)
    ct = {"intensity": [{"scheme": {"name": "ct_window", "lower": -160, "upper": 240, "mean": 37.7, "sd": 61.3}}]}
    affine = np.diag([1.5, 1.5, 2.0, 1.0])
    data = random.integers(-1000, 1000, (18, 15, 12)).astype(np.int16)
    plan = tiny_plan(spacing_mm=[1.5, 1.5, 2.0], patch_size=[8, 8, 8], **ct)
    stored = nib.Nifti1Image(data, affine).as_reoriented([[2, -1], [0, 1], [1, -1]])
    scan = volume_of(np.asanyarray(stored.dataobj), stored.affine)
    frame, _ = framed(scan, plan)
    assert is_by_window(frame.geometry, plan)
    whole = preprocess(scan, plan).data
    seen: list[np.ndarray] = []

    def predict(patches: torch.Tensor) -> torch.Tensor:
        seen.extend(patches.numpy().copy())
        return threshold(patches)

    segment(scan, plan, predict)
    starts = sorted(window_starts(whole.shape[1:], (8, 8, 8), 0.5), key=lambda s: (s[0], s))
    assert len(seen) == len(starts) > 8
    for patch, (i, j, k) in zip(seen, starts, strict=True):
        np.testing.assert_array_equal(patch, whole[:, i : i + 8, j : j + 8, k : k + 8])
    for other in (
        tiny_plan(spacing_mm=[1.5, 1.5, 2.0], patch_size=[8, 8, 8]),  # z-score
        tiny_plan(spacing_mm=[1.5, 1.5, 1.0], patch_size=[8, 8, 8], **ct),
        tiny_plan(spacing_mm=[1.5, 1.5, 2.0], patch_size=[8, 8, 16], **ct),
    ):
        assert not is_by_window(frame.geometry, other)


@pytest.mark.parametrize("wanted", [(1, 1, 1), (2, 3, 4), (0.5, 0.7, 0.9), (1, 1.5, 2)], ids=str)
@pytest.mark.parametrize("shape", [(30, 26, 22), (6, 40, 5), (3, 2, 1)], ids=str)
def test_two_boxes_come_back_where_they_were(wanted, shape):
    """Half the scan 1, a quarter 2: the border may move by the interpolation, never by a voxel."""
    data = np.zeros(shape, np.float32)
    data[shape[0] // 2 :] = 1
    data[shape[0] // 2 :, shape[1] // 2 :] = 2
    volume = volume_of(data, OBLIQUE)
    plan = tiny_plan(spacing_mm=wanted, labels={"background": 0, "liver": 4, "tumour": 9}, **BRIGHT)
    found = segment(volume, plan, threshold).label_map
    assert found.geometry == volume.geometry
    assert found.data.dtype == np.uint8
    expected = np.array([0, 4, 9])[data.astype(int)]
    # Linear interpolation of 0 and 2 crosses 1, so a plan coarser than the scan has liver between air and tumour.
    inside = np.ones(shape, bool)
    if min(shape) > 4:
        reach = [int(np.ceil(max(w / s, 1))) for w, s in zip(wanted, volume.geometry.spacing_mm, strict=True)]
        inside[shape[0] // 2 - reach[0] : shape[0] // 2 + reach[0]] = False
        inside[:, shape[1] // 2 - reach[1] : shape[1] // 2 + reach[1]] = False
        np.testing.assert_array_equal(found.data[inside], expected[inside])
    elif wanted == (1, 1.5, 2):
        np.testing.assert_array_equal(found.data, expected)


def test_the_figures_say_what_was_done():
    calls = []

    def counted(patches: torch.Tensor) -> torch.Tensor:
        calls.append(len(patches))
        return threshold(patches)

    told = []
    plan = tiny_plan(spacing_mm=[1, 1.5, 2])
    found = segment(
        volume_of(texture((16, 12, 8)), OBLIQUE),
        plan,
        counted,
        settings=InferenceSettings(batch=2),
        progress=lambda *what: told.append(what),
    )
    assert found.windows == sum(calls) == 3 * 2 * 1
    assert told[-1] == ("windows", 6, 6)
    assert set(found.seconds) == {"preprocess", "network", "blend_and_restore", "postprocess"}
    assert min(found.seconds.values()) >= 0


def test_two_folds_are_averaged():
    plan = tiny_plan()
    torch.manual_seed(0)
    networks = [network_for(plan).eval() for _ in range(3)]
    patches = torch.randn(2, 1, 8, 8, 8)
    with torch.no_grad():
        wanted = sum(network(patches) for network in networks) / 3
    torch.testing.assert_close(torch_predict(networks, torch.device("cpu"))(patches), wanted)


def test_more_than_256_structures_come_back_with_their_values():
    labels = {"background": 0, **{f"s{n}": 2 * n for n in range(1, 301)}}
    plan = tiny_plan(labels=labels, spacing_mm=[1, 1.5, 2], **BRIGHT)
    data = np.zeros((8, 8, 8), np.float32)
    data[4:] = 300

    def predict(patches: torch.Tensor) -> torch.Tensor:
        return -(patches - torch.arange(301.0)[None, :, None, None, None]).abs()

    found = segment(volume_of(data, OBLIQUE), plan, predict).label_map
    assert found.data.dtype == np.uint16
    assert set(np.unique(found.data)) == {0, 600}


def test_a_scan_with_other_channels_is_refused():
    volume = Volume(np.zeros((2, 8, 8, 8), np.float32), Geometry((8, 8, 8), OBLIQUE))
    with pytest.raises(DataError, match="channel"):
        segment(volume, tiny_plan(), threshold)


def test_a_real_scan_in_slabs_gets_the_labels_that_it_gets_all_at_once(real_data):
    """Three outputs of filters on a CT at 6 mm: blended in one float64 array and interpolated by torch, voxel by voxel."""
    volume = read_volume(real_data / "totalseg_ct" / "images" / "ct_abdpelvis.nii.gz")
    scheme = {"name": "ct_window", "lower": -1000.0, "upper": 1000.0, "mean": 0.0, "sd": 300.0}
    plan = tiny_plan(spacing_mm=[6.0] * 3, patch_size=[16, 20, 24], modality="CT", intensity=[{"scheme": scheme}])
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 8, 5, padding=2), torch.nn.Tanh(), torch.nn.Conv3d(8, 3, 1)).eval()
    predict = torch_predict([network], torch.device("cpu"))
    prepared = preprocess(volume, plan)
    source = torch.from_numpy(prepared.data)
    weights = torch.from_numpy(gaussian_weights(plan.patch_size)).double()
    sums, norm = torch.zeros(3, *source.shape[1:]).double(), torch.zeros(source.shape[1:]).double()
    for start in window_starts(prepared.geometry.shape, plan.patch_size, 0.5):
        place = tuple(slice(s, s + w) for s, w in zip(start, plan.patch_size, strict=True))
        sums[(slice(None), *place)] += predict(source[(slice(None), *place)][None])[0] * weights
        norm[place] += weights
    ras = volume.canonical()
    at_scan = interpolate((sums / norm)[None], size=ras.geometry.shape, mode="trilinear", align_corners=False)[0]
    two = at_scan.topk(2, dim=0).values
    clear = (two[0] - two[1] > 1e-5).numpy()
    assert clear.mean() > 0.999
    order = order_between(ras.geometry, volume.geometry)
    found = segment(volume, plan, predict).label_map.data
    wanted = order.array(at_scan.argmax(0).numpy())
    assert min(np.bincount(found.ravel(), minlength=3)) > 1000
    np.testing.assert_array_equal(found[order.array(clear)], wanted[order.array(clear)])


def test_an_imported_plan_gives_the_same_labels_whatever_the_storage_and_background_outside_its_crop():
    torch.manual_seed(0)
    feed = {
        "orientation": "LPS",
        "crop": "nonzero",
        "image": {"order": 3, "order_thick": 0},
        "logits": {"order": 1, "order_thick": 0},
        "blend": "nnunet",
    }
    plan = tiny_plan(spacing_mm=[1.2, 1.2, 1.7], feed=feed)
    predict = torch_predict([network_for(plan)], torch.device("cpu"))
    data = np.where(texture() == 0, np.int16(1), texture())
    data[:2], data[:, -3:] = 0, 0
    first = segment(volume_of(data, OBLIQUE), plan, predict).label_map
    assert len(np.unique(first.data)) > 1
    assert not first.data[:2].any()
    assert not first.data[:, -3:].any()
    for ornt in ALL_48[::7]:
        stored = nib.Nifti1Image(data, OBLIQUE).as_reoriented(ornt)
        found = segment(volume_of(np.asanyarray(stored.dataobj), stored.affine), plan, predict).label_map
        wanted = nib.Nifti1Image(first.data, OBLIQUE).as_reoriented(ornt)
        np.testing.assert_array_equal(found.data, np.asanyarray(wanted.dataobj))
