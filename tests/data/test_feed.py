"""How an imported model is fed: orientation, crop, mask, native axes and thick slices, by hand."""

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.plan import Plan
from medseg.core.volume import LabelMap, Volume
from medseg.data.preprocess import framed, preprocess, preprocess_reference, restore_orders, thick_axis
from tests.models.tiny_model import tiny_plan

CUBIC = {"order": 3, "order_thick": 0, "thick": 3.0}
LINEAR = {"order": 1, "order_thick": 0, "thick": 3.0}


def feed(**changes):
    return {"crop": "nonzero", "image": CUBIC, "logits": LINEAR, **changes}


def scan(seed: int = 0) -> Volume:
    """Two channels in RAS, 0 but in a box from (2, 3, 1) to (10, 9, 8), one of them with a hole in it."""
    data = np.zeros((2, 12, 11, 9), np.float32)
    data[:, 2:10, 3:9, 1:8] = np.random.default_rng(seed).uniform(1, 50, (2, 8, 6, 7))
    data[0, 5, 5, 4] = 0
    data[:, 6, 6, 5] = 0  # 0 in every channel, but enclosed
    return Volume(data, Geometry(data.shape[1:], np.diag([1.0, 1.5, 2.0, 1.0])))


def plan_of(**changes) -> Plan:
    z_score = {"scheme": "z_score", "within": "nonzero"}
    return tiny_plan(**{"channels": 2, "intensity": [z_score, z_score], "feed": feed(), **changes})


def test_the_frame_is_the_box_around_what_is_not_zero():
    frame, box = framed(scan(), plan_of())
    assert box == (slice(2, 10), slice(3, 9), slice(1, 8))
    np.testing.assert_allclose(frame.geometry.affine[:3, 3], [2.0, 4.5, 2.0])
    empty = Volume(np.zeros((2, 4, 5, 6)), Geometry((4, 5, 6), np.eye(4)))
    assert framed(empty, plan_of())[1] == (slice(0, 4), slice(0, 5), slice(0, 6))


def test_the_mask_holds_what_is_enclosed_and_the_mean_is_of_it_alone():
    volume = scan()
    found = preprocess(volume, plan_of()).data[1]
    box = volume.data[1, 2:10, 3:9, 1:8]  # of the scan's own spacing, so nothing is resampled
    np.testing.assert_allclose(found, (box - box.mean()) / box.std(), atol=1e-5)
    data = volume.data.copy()
    data[:, 2, 3:9, 1:8] = 0
    data[:, 2, 3, 1] = 7  # the box stays, a face of it is outside
    found = preprocess(Volume(data, volume.geometry), plan_of()).data[1]
    assert (found[0, 1:, 1:] == 0).all()
    np.testing.assert_allclose(np.append(found[1:].ravel(), found[0, 0, 0]).std(), 1, atol=1e-4)


def test_the_network_is_fed_in_the_orientation_that_it_was_trained_in():
    plain = preprocess(scan(), plan_of()).data
    for orientation, flip in {"LPS": (1, 2), "RPI": (2, 3), "LAS": (1,)}.items():
        fed = preprocess(scan(), plan_of(feed=feed(orientation=orientation)))
        assert fed.geometry.orientation == orientation
        np.testing.assert_allclose(fed.data, np.flip(plain, flip), atol=1e-5)


def test_a_native_axis_keeps_its_voxels():
    plan = plan_of(spacing_mm=[0.5, 0.5, 9.0], feed=feed(native_axes=[2]))
    assert preprocess(scan(), plan).data.shape == (2, 16, 18, 7)


@pytest.mark.parametrize(
    ("own", "planned", "there", "back"),
    [
        ((1, 1, 4), (1, 1, 1), 2, 2),
        ((1, 1, 1), (1, 1, 4), 2, 2),
        ((5, 1, 1), (1, 1, 4), 0, 2),  # each looks at the grid that it comes from first
        ((4, 4, 1), (1, 1, 1), None, None),  # two long axes: none is resampled on its own
        ((4, 4, 1), (1, 1, 5), None, 2),
        ((3, 1, 1), (1, 1, 1), None, None),
    ],
)
def test_the_thick_axis_is_nnunets(own, planned, there, back):
    """determine_do_sep_z_and_axis of nnU-Net 2.8.1, worked by hand for threshold 3."""
    plan = plan_of(spacing_mm=[float(s) for s in planned])
    spacing = tuple(float(s) for s in own)
    assert thick_axis(spacing, plan, plan.feed.image) == there
    assert restore_orders(spacing, plan) == tuple(0 if axis == back else 1 for axis in range(3))
    assert restore_orders(spacing, tiny_plan()) == (1, 1, 1)


def test_an_imported_plan_prepares_no_references():
    volume = scan()
    with pytest.raises(DataError, match="imported"):
        preprocess_reference(LabelMap(np.zeros(volume.geometry.shape, np.uint8), volume.geometry), volume, plan_of())


def test_nibabel_agrees_on_where_the_fed_voxels_lie():
    """The value at a world position is the same before and after (no resampling)."""
    volume = scan()
    none = {"scheme": "none"}
    fed = preprocess(volume, plan_of(intensity=[none, none], feed=feed(orientation="LPI")))
    inverse = np.linalg.inv(volume.geometry.affine)
    for index in [(0, 0, 0), (3, 2, 5), (7, 5, 6)]:
        i, j, k = np.round(nib.affines.apply_affine(inverse @ fed.geometry.affine, index)).astype(int)
        assert fed.data[1][index] == volume.data[1, i, j, k]
