import numpy as np
import pytest

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry
from medseg.metrics.pairs import CasePair, MaskPair

OBLIQUE = np.array([[0.8, -0.5, 0.1, 10.0], [0.6, 1.1, -0.3, -20.0], [0.0, 0.4, 3.0, 30.0], [0, 0, 0, 1]])


def box(shape, start, stop, value=True):
    data = np.zeros(shape, np.asarray(value).dtype)
    data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return data


def test_counts_of_two_boxes_are_those_of_their_overlap_by_hand():
    grid = Geometry((10, 12, 7), OBLIQUE)
    prediction = box(grid.shape, (1, 2, 1), (5, 6, 4))  # 4 x 4 x 3 = 48
    reference = box(grid.shape, (3, 3, 0), (9, 7, 3))  # 6 x 4 x 3 = 72; common: 2 x 3 x 2 = 12
    pair = MaskPair.of(prediction, reference, grid)
    assert (pair.both, pair.prediction_only, pair.reference_only) == (12, 36, 60)
    assert pair.neither == 10 * 12 * 7 - 12 - 36 - 60
    assert pair.state == "scored"


def test_masks_are_cropped_to_the_union_box_and_stay_in_their_place_in_the_world():
    grid = Geometry((10, 12, 7), OBLIQUE)
    pair = MaskPair.of(box(grid.shape, (1, 2, 1), (5, 6, 4)), box(grid.shape, (3, 3, 0), (9, 7, 3)), grid)
    assert pair.prediction.shape == pair.reference.shape == pair.geometry.shape == (8, 5, 4)
    assert (pair.prediction.sum(), pair.reference.sum()) == (48, 72)
    np.testing.assert_allclose(pair.geometry.to_world([0, 0, 0]), grid.to_world([1, 2, 0]))
    np.testing.assert_allclose(pair.geometry.to_world([7, 4, 3]), grid.to_world([8, 6, 3]))


@pytest.mark.parametrize(
    ("predicted", "expected", "state"),
    [(0, 0, "both_empty"), (1, 0, "spurious"), (0, 1, "missed"), (1, 1, "scored")],
)
def test_state_says_which_mask_is_empty(predicted, expected, state):
    grid = Geometry((3, 4, 5), np.eye(4))
    prediction, reference = np.zeros((2, 3, 4, 5), bool)
    prediction[0, 0, 0] = predicted
    reference[2, 3, 4] = expected
    pair = MaskPair.of(prediction, reference, grid)
    assert pair.state == state
    assert pair.both + pair.prediction_only + pair.reference_only + pair.neither == 60
    if state in ("missed", "spurious"):
        assert pair.prediction.shape == (1, 1, 1)
        assert bool(pair.prediction.all()) == bool(predicted)
    if state == "both_empty":
        assert pair.prediction.size == pair.reference.size == 0


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [
        (np.uint8, 3),
        (np.uint8, 255),
        (np.uint16, 60000),
        (np.int16, 200),
        (np.int32, 60000),
        (np.uint32, 7),
        (np.int64, 300),
    ],
)
@pytest.mark.parametrize("storage", ["C", "F", "flipped"])
def test_confusion_equals_a_count_voxel_by_voxel_for_every_type_and_storage(dtype, largest, storage):
    rng = np.random.default_rng(largest)
    values = np.unique([0, 1, largest // 2, largest])
    prediction, reference = rng.choice(values, size=(2, 7, 30, 11)).astype(dtype)
    prediction[3:, :20], reference[3:, :20] = 0, 0
    if storage == "F":
        reference = np.asfortranarray(reference)
    if storage == "flipped":
        prediction, reference = prediction[::-1, ::2, ::-1], reference[::-1, ::2, ::-1]
    pair = CasePair.of(prediction, reference, Geometry(prediction.shape, np.eye(4)))
    assert pair.values == tuple(int(v) for v in values)
    for row, a in enumerate(values):
        for column, b in enumerate(values):
            assert pair.confusion[row, column] == np.sum((reference == a) & (prediction == b))


def test_masks_of_each_structure_come_from_the_right_value():
    rng = np.random.default_rng(1)
    prediction, reference = rng.choice([0, 2, 7, 300], size=(2, 6, 7, 8)).astype(np.uint16)
    reference[:3] = reference[:, 5:] = 0
    prediction[:, :, 6:] = 0
    reference = np.asfortranarray(reference)
    pair = CasePair.of(prediction, reference, Geometry((6, 7, 8), OBLIQUE))
    for value in (2, 7, 300):
        masks = pair.structure(value)
        assert masks.prediction.sum() == np.sum(prediction == value) == masks.both + masks.prediction_only
        assert (masks.prediction & masks.reference).sum() == masks.both
        where = np.argwhere((prediction == value) | (reference == value))
        assert masks.prediction.shape == tuple(where.max(axis=0) - where.min(axis=0) + 1)
    assert pair.structure(5).state == pair.structure(60000).state == "both_empty"


def test_map_without_any_structure_has_the_background_alone():
    empty = np.zeros((4, 5, 6), np.uint8)
    pair = CasePair.of(empty, empty, Geometry((4, 5, 6), np.eye(4)))
    assert pair.values == (0,)
    assert pair.confusion.tolist() == [[120]]


def test_unequal_shapes_are_refused():
    with pytest.raises(GeometryError, match="must both lie on the grid"):
        CasePair.of(np.zeros((4, 5, 6), np.uint8), np.zeros((4, 5, 7), np.uint8), Geometry((4, 5, 6), np.eye(4)))


def test_negative_value_is_refused():
    negative = np.full((2, 2, 2), -1, np.int16)
    with pytest.raises(DataError, match="negative label value -1"):
        CasePair.of(negative, negative, Geometry((2, 2, 2), np.eye(4)))


def test_intensity_image_is_refused_for_its_many_values():
    image = np.arange(20 * 20 * 20, dtype=np.int32).reshape(20, 20, 20)
    with pytest.raises(DataError, match="look like intensities"):
        CasePair.of(image, image, Geometry((20, 20, 20), np.eye(4)))
