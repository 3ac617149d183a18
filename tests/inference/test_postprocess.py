"""Post-processing against hand geometry, skimage and scipy, on grids that are oblique and stored in every order."""

import json

import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from medseg.core.component import Component
from medseg.core.config_inference import postprocess_from
from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.inference.postprocess import POSTPROCESSES, postprocess, steps_of
from medseg.inference.settings import InferenceOptions, settings_for
from medseg.models.how_to_run import HowToRun
from tests.models.tiny_model import OBLIQUE, tiny_plan

LABELS = Labels.from_mapping({"background": 0, "liver": 1, "tumour": 2, "kidney": 7})
VOXEL_ML = 0.003  # 1 x 1.5 x 2 mm
OPTIONS = {
    "largest_component": [{}, {"count": 2}, {"connectivity": 6}],
    "minimum_volume": [{"ml": 10 * VOXEL_ML}, {"ml": 3 * VOXEL_ML, "connectivity": 18}],
    "fill_holes": [{}, {"connectivity": 6}, {"within": "axial"}, {"within": "coronal"}, {"within": "sagittal"}],
}
CASES = [(name, options) for name, all_options in OPTIONS.items() for options in all_options]


def on_grid(data: np.ndarray, affine: np.ndarray = OBLIQUE) -> LabelMap:
    return LabelMap(data, Geometry(data.shape, affine), LABELS)


def run(data: np.ndarray, steps: object, affine: np.ndarray = OBLIQUE) -> np.ndarray:
    return postprocess(on_grid(data, affine), {"liver": tuple(map(Component.model_validate, steps))}, LABELS)[0].data


def noise(shape: tuple[int, int, int] = (13, 11, 9), seed: int = 0) -> np.ndarray:
    """Structures with islands, with holes, and with each other inside them."""
    rng, values = np.random.default_rng(seed), np.array([0, 1, 2, 7], np.uint8)
    dense, sparse = (rng.choice(values, shape, p=p) for p in ([0.06, 0.82, 0.06, 0.06], [0.86, 0.06, 0.04, 0.04]))
    data = np.where(np.arange(shape[0])[:, None, None] < 7, dense, sparse)
    data[2:5, 2:5, 2:5] = 1
    data[3, 3, 3] = 0
    return data


def test_every_entry_is_in_the_contract():
    assert set(OPTIONS) == set(POSTPROCESSES)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("seed", range(4))
def test_a_step_changes_its_structure_alone_once_and_alike_in_every_storage_order(name, options, seed):
    label_map, step = on_grid(noise(seed=seed)), Component(name=name, options=options)
    before = label_map.data.copy()
    found, changes = postprocess(label_map, {"liver": (step,)}, LABELS)
    np.testing.assert_array_equal(label_map.data, before)  # what is given stays as it is
    changed = found.data != before
    assert changed.any()
    assert set(np.unique(np.stack([before, found.data])[:, changed])) == {0, 1}
    assert changes["liver"].removed == np.count_nonzero(changed & (before == 1))
    assert changes["liver"].added == np.count_nonzero(changed & (before == 0))
    assert (changes["liver"].removed == 0) == (name == "fill_holes")
    assert (changes["liver"].added == 0) == (name != "fill_holes")
    again, nothing = postprocess(found, {"liver": (step,)}, LABELS)
    np.testing.assert_array_equal(again.data, found.data)
    assert (nothing["liver"].removed, nothing["liver"].added) == (0, 0)
    for order in all_storage_orders()[seed::4]:
        stored = label_map.reordered(order)
        other = postprocess(LabelMap(np.ascontiguousarray(stored.data), stored.geometry), {"liver": (step,)}, LABELS)[0]
        np.testing.assert_array_equal(other.reordered(order.inverse).data, found.data)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_nothing_stays_nothing(name, options):
    for data in (np.zeros((4, 5, 6), np.uint8), np.full((4, 5, 6), 7, np.uint16)):
        found, changes = postprocess(on_grid(data), {"liver": (Component(name=name, options=options),)}, LABELS)
        np.testing.assert_array_equal(found.data, data)
        assert found.data.dtype == data.dtype
        assert (changes["liver"].removed, changes["liver"].added) == (0, 0)


def test_all_steps_for_all_structures_are_done_at_once():
    steps = postprocess_from(["[fill_holes, {name: minimum_volume, ml: 0.01}, largest_component]"])
    for seed in range(6):
        once, _ = postprocess(on_grid(noise(seed=seed)), steps, LABELS)
        twice, changes = postprocess(once, steps, LABELS)
        np.testing.assert_array_equal(twice.data, once.data)
        assert {change.removed + change.added for change in changes.values()} == {0}


@pytest.mark.parametrize("joined", [1, 2, 3])
def test_the_largest_component_is_that_of_skimage(joined):
    data = (np.random.default_rng(1).random((20, 15, 12)) < (0.25, 0.12, 0.08)[joined - 1]).astype(np.uint8)
    numbers = measure.label(data, connectivity=joined)
    sizes = np.bincount(numbers.ravel())[1:]
    step = {"name": "largest_component", "connectivity": (6, 18, 26)[joined - 1]}
    np.testing.assert_array_equal(run(data, [step]), numbers == np.argmax(sizes) + 1)
    kept = np.isin(numbers, np.argsort(-sizes, kind="stable")[:3] + 1)
    np.testing.assert_array_equal(run(data, [step | {"count": 3}]), kept)


def test_of_two_equal_components_the_left_one_stays_wherever_it_is_stored():
    data = np.zeros((9, 6, 5), np.uint8)
    data[1:3, 2:4, 1:3] = data[6:8, 1:3, 2:4] = 1
    left = np.where(np.arange(9)[:, None, None] < 5, data, 0)  # i runs to the right in RAS
    np.testing.assert_array_equal(run(data, ["largest_component"]), left)
    flipped = Geometry((9, 6, 5), OBLIQUE @ np.diag([-1.0, 1.0, 1.0, 1.0]))  # i runs to the left
    found = run(data, ["largest_component"], flipped.affine)
    np.testing.assert_array_equal(found, np.where(np.arange(9)[:, None, None] > 5, data, 0))


def test_a_component_of_exactly_the_minimum_stays():
    data = np.zeros((12, 6, 5), np.uint8)
    data[1:3, 1:3, 1:3] = 1  # 8 voxels of 0.003 ml
    data[5:8, 1:3, 1:3] = 1  # 12 voxels
    data[10, 3, 3] = 1
    assert np.count_nonzero(run(data, [{"name": "minimum_volume", "ml": 0.024}])) == 20
    assert np.count_nonzero(run(data, [{"name": "minimum_volume", "ml": 0.0241}])) == 12
    assert not run(data, [{"name": "minimum_volume", "ml": 0.04}]).any()


def test_holes_are_those_of_scipy():
    data = (np.random.default_rng(3).random((14, 12, 10)) < 0.75).astype(np.uint8)
    np.testing.assert_array_equal(run(data, ["fill_holes"]), ndimage.binary_fill_holes(data))
    corners = ndimage.binary_fill_holes(data, np.ones((3, 3, 3)))  # a way out through edges and corners, too
    np.testing.assert_array_equal(run(data, [{"name": "fill_holes", "connectivity": 6}]), corners)
    for within, axis in {"sagittal": 0, "coronal": 1, "axial": 2}.items():
        slices = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(data, axis, 0)]
        found = run(data, [{"name": "fill_holes", "within": within}])
        np.testing.assert_array_equal(found, np.stack(slices, axis))


def test_a_cup_that_opens_to_the_border_of_the_scan_is_no_hole_and_a_tube_has_holes_in_its_slices_alone():
    cup = np.zeros((7, 7, 6), np.uint8)
    cup[1:6, 1:6, :5] = 1
    cup[3, 3, 1:4] = 0
    closed = cup.copy()
    closed[3, 3, 1:4] = 1
    np.testing.assert_array_equal(run(cup, ["fill_holes"]), closed)
    cup[3, 3, 0] = 0
    np.testing.assert_array_equal(run(cup, ["fill_holes"]), cup)
    closed[3, 3, 0] = 1
    np.testing.assert_array_equal(run(cup, [{"name": "fill_holes", "within": "axial"}]), closed)
    np.testing.assert_array_equal(run(cup, [{"name": "fill_holes", "within": "coronal"}]), cup)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_hole_in_a_2d_picture_is_closed(axis):
    ring = np.ones((5, 6), np.uint8)
    ring[2, 2:4] = 0
    ring[0, 0] = 0
    expected = ring.copy()
    expected[2, 2:4] = 1
    found = run(np.expand_dims(ring, axis), ["fill_holes"])
    np.testing.assert_array_equal(found, np.expand_dims(expected, axis))


def test_an_organ_inside_another_is_not_overwritten_and_the_innermost_takes_the_hole():
    data = np.zeros((11, 11, 11), np.uint8)
    data[1:10, 1:10, 1:10] = 1
    data[2:9, 2:9, 2:9] = 0  # between liver and tumour
    data[3:8, 3:8, 3:8] = 2
    data[5, 5, 5] = 0
    expected = np.zeros_like(data)
    expected[1:10, 1:10, 1:10] = 1
    expected[3:8, 3:8, 3:8] = 2
    both, changes = postprocess(on_grid(data), postprocess_from(["fill_holes"]), LABELS)
    np.testing.assert_array_equal(both.data, expected)
    assert {name: change.added for name, change in changes.items()} == {"liver": 7**3 - 5**3, "tumour": 1, "kidney": 0}
    alone = expected.copy()
    alone[5, 5, 5] = 1
    np.testing.assert_array_equal(run(data, ["fill_holes"]), alone)


def test_what_an_island_leaves_in_another_structure_is_filled():
    data = np.zeros((12, 9, 9), np.uint8)
    data[1:8, 1:8, 1:8] = 1
    data[3:5, 3:5, 3:5] = 2  # an island of the tumour, which lies elsewhere
    data[9:12, 1:8, 1:8] = 2
    steps = postprocess_from(["tumour: largest_component", "liver: fill_holes"])
    found, changes = postprocess(on_grid(data), steps, LABELS)
    assert (found.data[1:8, 1:8, 1:8] == 1).all()
    assert (changes["tumour"].removed, changes["liver"].added) == (8, 8)


def test_steps_are_asked_for_in_short_and_a_structure_of_its_own_comes_before_all(tmp_path):
    (tmp_path / "steps.yaml").write_text("all: largest_component\nliver: [fill_holes, {name: minimum_volume, ml: 1}]\n")
    asked = postprocess_from([str(tmp_path / "steps.yaml"), "kidney: none"])
    found = {name: [step.name for step in steps] for name, steps in steps_of(asked, LABELS).items()}
    assert found == {"liver": ["fill_holes", "minimum_volume"], "tumour": ["largest_component"]}
    assert steps_of(postprocess_from(["none"]), LABELS) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("largest_componnt", "unknown 'largest_componnt'; did you mean 'largest_component'"),
        ("spleen: fill_holes", "'spleen' is no structure; choose from liver, tumour, kidney, or all"),
        ("{name: minimum_volume, mm3: 3}", "unknown option 'mm3'; .*it has ml, connectivity"),
        ("{name: minimum_volume, ml: -1}", "ml is -1; give a volume above 0 in millilitres"),
        ("{name: largest_component, count: 0}", "count is 0; give 1 or more"),
        ("{name: largest_component, connectivity: 8}", "connectivity is 8; give 6"),
        ("{name: fill_holes, within: slices}", "within is 'slices'; give one of volume, sagittal, coronal, axial"),
        ("3", "postprocess '3': all.0: .*write a name such as largest_component"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(text, words):
    with pytest.raises(ConfigError, match=words):
        steps_of(postprocess_from([text]), LABELS)


def test_the_users_steps_go_before_the_models_which_are_resolved_by_structure():
    wishes = HowToRun.model_validate({"postprocess": {"liver": "largest_component"}})
    for asked, expected in (
        (None, {"liver": ["largest_component"]}),
        ("none", {}),
        ("tumour: fill_holes", {"tumour": ["fill_holes"]}),
    ):
        options = InferenceOptions(postprocess=None if asked is None else postprocess_from([asked]))
        found = settings_for(options, wishes, tiny_plan())
        assert {name: [step.name for step in steps] for name, steps in found.postprocess.items()} == expected
    assert json.loads(json.dumps(found.as_json()))["postprocess"] == {"tumour": [{"name": "fill_holes", "options": {}}]}
