"""Coarse to fine: in the box the labels of the whole scan, to the voxel; a mask that goes on is followed; nothing goes unsaid."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.core.geometry import Geometry
from medseg.core.volume import Volume
from medseg.inference.decide import largest
from medseg.inference.restore import needed, restore
from medseg.inference.roi import Scout, pays
from medseg.inference.segment import segment
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import stream_logits
from medseg.inference.windows import window_starts
from tests.inference.test_stream import CHANNELS, image_of, joined, one_by_one, predictor
from tests.models.tiny_model import OBLIQUE, tiny_plan

RAW = {"intensity": [{"scheme": {"name": "none"}}], "patch_size": [12, 12, 12]}
SPACING = [1.0, 1.5, 2.0]
ROI = InferenceSettings(roi=True)


@st.composite
def boxes(draw, shape):
    sides = []
    for n in shape:
        start = draw(st.integers(0, n - 1))
        sides.append(slice(start, draw(st.integers(start + 1, n))))
    return tuple(sides)


@settings(deadline=None, max_examples=25)
@given(
    data=st.data(),
    shape=st.tuples(*[st.integers(1, 22)] * 3),
    window=st.tuples(*[st.sampled_from([4, 7, 8])] * 3),
    axis=st.integers(0, 2),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
)
def test_within_a_box_the_logits_have_the_bits_of_the_whole_scan(data, shape, window, axis, overlap):
    image, calls, box = image_of(shape), [], data.draw(boxes(shape))

    def predict(patches):
        calls.append(len(patches))
        return one_by_one(predictor(window))(patches)

    def found(within):
        return joined(
            stream_logits(image, predict, channels=CHANNELS, window=window, axis=axis, overlap=overlap, within=within),
            axis,
        )

    whole = found(None)
    calls.clear()
    assert torch.equal(found(box), whole[(slice(None), *box)])
    outer = tuple(max(n, w) for n, w in zip(shape, window, strict=True))
    before = [(o - n) // 2 for o, n in zip(outer, shape, strict=True)]
    reach = [
        all(s < p + b.stop and s + w > p + b.start for s, w, p, b in zip(start, window, before, box, strict=True))
        for start in window_starts(outer, window, overlap)
    ]
    assert sum(calls) == sum(reach)


@settings(deadline=None, max_examples=25)
@given(
    data=st.data(),
    source=st.tuples(*[st.integers(1, 24)] * 3),
    target=st.tuples(*[st.integers(1, 24)] * 3),
    axis=st.integers(0, 2),
    orders=st.sampled_from([(1, 1, 1), (0, 1, 1), (1, 1, 0)]),
)
def test_a_part_is_restored_as_the_whole_is(data, source, target, axis, orders):
    torch.manual_seed(0)
    logits, part = torch.randn(3, *source), data.draw(boxes(target))

    def restored(values, within):
        slabs = values.movedim(axis + 1, 1).split(3, dim=1)
        return restore(
            slabs, source=source, target=target, axis=axis, dtype=np.uint8, decide=largest, orders=orders, within=within
        )

    inside = logits[(slice(None), *needed(part, source, target, orders))]
    np.testing.assert_array_equal(restored(inside, part), restored(logits, None)[part])


def by_place(window, regions=False):
    """Liver where the scan is about 1, tumour where it is 2; how sure also depends on the place in the window."""
    place = torch.randn(window, generator=torch.Generator().manual_seed(0)) * 0.03

    def predict(patches):
        image = patches[:, 0]
        if regions:
            return torch.stack([image - 0.5 + place, image - 1.5 - place], dim=1) * 10
        return torch.stack([0.5 - image + place, 0.5 - (image - 1).abs(), image - 1.5 - place], dim=1) * 10

    return predict


def blind_to_liver(window):
    """As ``by_place``, but it sees the tumour alone: structures that a first look misses."""
    see = by_place(window)

    def predict(patches):
        logits = see(patches).clone()
        logits[:, 1] = logits[:, 0] - 50
        logits[:, 2] = torch.where(patches[:, 0] > 1.5, 20.0, -50.0)
        logits[:, 0] = 0
        return logits

    return predict


def scan_of(shape, *organs, noise=0.05):
    """A scan of noise about 0 on which each of ``organs`` (box, value) has its value."""
    data = np.random.default_rng(0).normal(0, noise, shape).astype(np.float32).clip(-0.1, 0.1)
    for box, value in organs:
        data[tuple(slice(*side) for side in box)] += value
    return Volume(data[None], Geometry(shape, OBLIQUE))


def assert_whole_within(found, whole):
    """Every voxel has the whole scan's label or, together with all that it is connected to, background. Gives the box."""
    same = found.label_map.data == whole.label_map.data
    assert not found.label_map.data[~same].any()
    pieces, count = ndimage.label(whole.label_map.data > 0, np.ones((3, 3, 3)))
    kept = ndimage.mean(same, pieces, range(1, count + 1))
    assert set(np.unique(kept)) <= {0.0, 1.0}
    return [n + 1 for n in range(count) if kept[n]]


ORGAN = [([[30, 42], [14, 22], [16, 30]], 1), ([[34, 38], [16, 19], [20, 24]], 1)]
WAYS = {
    "usual": ({}, {}),
    "f16": ({}, {"accumulators": "f16"}),
    "mirrored": ({}, {"mirror": (0, 1)}),
    "finer plan": ({"spacing_mm": [0.8, 1.1, 1.3]}, {}),
    "coarser plan": ({"spacing_mm": [1.3, 1.9, 2.2]}, {}),
    "quarter overlap": ({}, {"overlap": 0.25, "mirror": (0, 1, 2)}),
    "2D": ({"dimensions": 2, "slice_axis": 2, "patch_size": [12, 12, 1]}, {"mirror": (0,)}),
}


@pytest.mark.parametrize(("changes", "how"), WAYS.values(), ids=WAYS)
def test_the_labels_in_the_box_are_those_of_the_whole_scan(changes, how):
    plan, volume = tiny_plan(**RAW | changes), scan_of((60, 40, 48), *ORGAN)
    predict = by_place(plan.patch_size)
    whole = segment(volume, plan, predict, settings=InferenceSettings(**how))
    found = segment(volume, plan, predict, settings=InferenceSettings(**how, roi=True))
    assert set(np.unique(whole.label_map.data)) == {0, 1, 2}
    np.testing.assert_array_equal(found.label_map.data, whole.label_map.data)
    assert found.roi.whole_because == ""
    assert found.roi.windows < found.roi.whole_scan_windows == whole.windows
    assert found.roi.unseen == found.roi.warnings == ()


def test_regions_and_the_probabilities_of_an_ensemble_are_looked_for_alike():
    regions = [
        {"name": "liver_all", "structures": ["liver", "tumour"]},
        {"name": "tumour_core", "structures": ["tumour"]},
    ]
    for plan, outputs in (
        (tiny_plan(**RAW, regions=regions), torch.sigmoid),
        (tiny_plan(**RAW), lambda logits: torch.softmax(logits, dim=1)),
    ):
        volume, logits = scan_of((60, 40, 48), *ORGAN), by_place(plan.patch_size, bool(plan.structure_labels.regions))

        def predict(patches, logits=logits, outputs=outputs):
            return outputs(logits(patches))

        whole = segment(volume, plan, predict, outputs="probabilities")
        for scout in (None, Scout(logits, folds=5)):
            found = segment(volume, plan, predict, outputs="probabilities", settings=ROI, scout=scout)
            assert set(np.unique(found.label_map.data)) == {0, 1, 2}
            np.testing.assert_array_equal(found.label_map.data, whole.label_map.data)
            assert found.roi.windows < found.roi.whole_scan_windows
            assert not found.roi.whole_because


@pytest.mark.parametrize("spacing_mm", [SPACING, [1.3, 1.9, 1.6]], ids=str)
def test_the_box_grows_as_far_as_a_mask_goes_on_and_no_further(spacing_mm):
    """A liver bent over three axes, of which the first look sees only the tumour; a second one that hangs on nothing."""
    bent = [([[8, 50], [4, 10], [4, 10]], 1), ([[46, 50], [4, 34], [4, 10]], 1), ([[46, 50], [30, 34], [4, 40]], 1)]
    other = ([[72, 80], [26, 34], [34, 42]], 1)
    parts = np.zeros((84, 40, 48), np.float32)
    for box, value in (*bent, other):
        parts[tuple(slice(*side) for side in box)] = value
    volume = scan_of(parts.shape, ([[10, 14], [6, 8], [6, 8]], 1))
    volume = Volume(volume.data + parts[None], volume.geometry)
    plan = tiny_plan(**RAW, spacing_mm=spacing_mm)
    predict, said = by_place(plan.patch_size), []
    whole = segment(volume, plan, predict)
    scout = Scout(blind_to_liver(plan.patch_size))
    found = segment(volume, plan, predict, settings=ROI, scout=scout, say=said.append)
    assert_whole_within(found, whole)
    for (i, j, k), _ in bent:
        inside = tuple(slice(low + 1, high - 1) for low, high in (i, j, k))
        assert found.label_map.data[inside].all()
    assert not found.label_map.data[70:].any()
    assert whole.label_map.data[74:78, 28:32, 36:40].all()
    assert found.roi.grown >= 3
    assert f"which grew {found.roi.grown} times" in said[-1]


def test_a_separate_structure_that_the_first_look_does_not_see_is_named():
    plan = tiny_plan(**RAW)
    volume = scan_of((64, 40, 48), ([[6, 10], [6, 10], [6, 10]], 2), ([[44, 58], [24, 36], [30, 44]], 1))
    predict, scout = by_place(plan.patch_size), Scout(blind_to_liver(plan.patch_size))
    whole = segment(volume, plan, predict)
    found = segment(volume, plan, predict, settings=ROI, scout=scout)
    assert len(assert_whole_within(found, whole)) == 1
    assert found.roi.unseen == ("liver",)
    assert found.roi.warnings == ("liver not found; outside the box only roi's quick first look searched for it",)
    again = segment(volume, plan, predict, settings=ROI, scout=scout, always={"liver", "tumour"})
    np.testing.assert_array_equal(again.label_map.data, whole.label_map.data)
    assert again.roi.whole_because == "the box does not hold liver, which every training case held"
    assert again.roi.unseen == again.roi.warnings == ()
    assert again.roi.windows == found.roi.windows + whole.windows


def test_where_nothing_is_seen_or_saved_the_whole_scan_runs():
    plan, said = tiny_plan(**RAW), []
    volume = scan_of((40, 30, 30), ([[20, 30], [10, 20], [10, 20]], 1))
    predict, scout = by_place(plan.patch_size), Scout(blind_to_liver(plan.patch_size))
    whole = segment(volume, plan, predict)
    found = segment(volume, plan, predict, settings=ROI, scout=scout, say=said.append)
    np.testing.assert_array_equal(found.label_map.data, whole.label_map.data)
    assert whole.label_map.data.any()
    assert "the whole scan, because the first look saw no structure" in said[-1]
    assert found.roi.shape == (40, 30, 30)
    small = scan_of((8, 8, 12), ([[2, 6], [2, 6], [2, 6]], 1))
    found = segment(small, plan, predict, settings=ROI, scout=scout)
    assert (found.roi.first_look_windows, found.roi.windows) == (0, found.roi.whole_scan_windows)
    assert found.roi.whole_because == "it has too few windows for a first look to save any"


def test_an_aorta_of_a_real_scan_is_followed_from_its_upper_end_to_its_lower_one(real_data):
    """The aorta of a CT as intensities of 1, its uppermost centimetre 2, which is all that the first look sees."""
    place = real_data / "totalseg_ct"
    names = json.loads((place / "label_map.json").read_text())["total"]
    value = next(int(number) for number, name in names.items() if name == "aorta")
    file = nib.load(place / "labels" / "ct_abdpelvis.nii.gz")
    aorta = np.asarray(file.dataobj) == value
    top = np.flatnonzero(aorta.any((0, 1)))[-1]
    data = aorta.astype(np.float32)
    data[:, :, top - 3 :] *= 2
    volume = Volume(data[None], Geometry(data.shape, file.affine))
    plan = tiny_plan(**RAW | {"patch_size": [32, 32, 32]}, spacing_mm=[3.0, 3.0, 3.0])
    predict = by_place(plan.patch_size)
    whole = segment(volume, plan, predict)
    found = segment(volume, plan, predict, settings=ROI, scout=Scout(blind_to_liver(plan.patch_size)))
    assert (whole.label_map.data[aorta] > 0).mean() > 0.99
    np.testing.assert_array_equal(found.label_map.data, whole.label_map.data)
    assert found.roi.grown >= 1
    assert found.roi.windows < 0.7 * found.roi.whole_scan_windows


def test_a_first_look_pays_where_it_costs_less_than_half_of_the_whole_scan():
    plan = tiny_plan()  # windows of 8 voxels
    mirrored = InferenceSettings(mirror=(0, 1, 2))
    quarter = InferenceSettings(overlap=0.25)
    assert pays((64, 64, 64), plan, ROI)  # 8^3 of 15^3
    assert not pays((10, 8, 8), plan, ROI)  # 2 of 2
    assert pays((10, 8, 8), plan, mirrored)  # 2 of 2 x 8
    assert not pays((8, 8, 8), plan, mirrored)  # a single window, nothing to leave out
    assert not pays((64, 8, 8), plan, quarter)  # 8 of 11
    assert pays((64, 8, 8), plan, quarter, folds=5)
