"""Our losses against MONAI's, against hand-made cases, and the contract that every loss keeps."""

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss
from torch.nn.functional import interpolate, one_hot

from medseg.core.errors import ConfigError
from medseg.losses import (
    LOSSES,
    ce,
    deep_supervision,
    dice,
    dice_ce,
    dice_focal,
    focal,
    generalised_dice,
    top_k,
    tversky,
    weighted_ce,
)
from medseg.losses.deep_supervision import downsample_nearest

all_losses = pytest.mark.parametrize("name", LOSSES)
both_dimensions = pytest.mark.parametrize("size", [(9, 7), (5, 6, 7)])


OPTIONS = {"weighted_ce": {"weights": [0.5, 1.0, 2.0, 4.0]}, "top_k": {"percent": 30.0}}


def made(name):
    """The loss called ``name`` for four channels."""
    return LOSSES[name](**OPTIONS.get(name, {}))


def example(size, channels=4, batch=3):
    torch.manual_seed(0)
    logits = torch.randn(batch, channels, *size) * 3
    target = torch.randint(0, channels - 1, (batch, *size))  # the last structure is absent
    target[0] = 0  # and the first sample is all background
    return logits.requires_grad_(), target


def assert_same_value_and_gradient(ours, theirs, logits, target):
    values, gradients = [], []
    for loss, y in ((ours, target), (theirs, target.unsqueeze(1))):
        value = loss(logits, y)
        values.append(value)
        gradients.append(torch.autograd.grad(value, logits)[0])
    torch.testing.assert_close(*values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def certain(target, channels, scale=50.0):
    """Logits that are sure of ``target``."""
    return one_hot(target, channels).movedim(-1, 1).float() * scale


@both_dimensions
@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_dice_ce_equals_monai(size, batch_dice, label_smoothing):
    theirs = DiceCELoss(
        include_background=False,
        softmax=True,
        to_onehot_y=True,
        batch=batch_dice,
        smooth_nr=1e-3,
        smooth_dr=1e-3,
        lambda_dice=0.7,
        lambda_ce=1.3,
        label_smoothing=label_smoothing,
    )
    ours = dice_ce(dice_weight=0.7, ce_weight=1.3, batch_dice=batch_dice, smooth=1e-3, label_smoothing=label_smoothing)
    assert_same_value_and_gradient(ours, theirs, *example(size))


@both_dimensions
@pytest.mark.parametrize("batch_dice", [False, True])
def test_dice_equals_monai(size, batch_dice):
    theirs = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, batch=batch_dice)
    assert_same_value_and_gradient(dice(batch_dice=batch_dice), theirs, *example(size))


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
def test_dice_focal_equals_monai_up_to_its_mean_over_channels(gamma):
    dice_part = {"include_background": False, "softmax": True, "to_onehot_y": True}
    theirs_dice = DiceLoss(**dice_part)
    theirs_focal = FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma)
    logits, target = example((9, 7))
    assert_same_value_and_gradient(
        dice_focal(gamma=gamma), lambda x, y: theirs_dice(x, y) + 4 * theirs_focal(x, y), logits, target
    )


def test_focal_without_focus_is_cross_entropy():
    logits, target = example((9, 7))
    torch.testing.assert_close(dice_focal(gamma=0.0)(logits, target), dice_ce()(logits, target))


@pytest.mark.parametrize("loss", [focal, dice_focal])
@pytest.mark.parametrize("gamma", [-1.0, 0.5])
def test_a_focus_with_an_infinite_gradient_is_refused(loss, gamma):
    with pytest.raises(ConfigError, match="gamma"):
        loss(gamma=gamma)


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
def test_focal_equals_monai_up_to_its_mean_over_channels(gamma):
    theirs = FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma)
    assert_same_value_and_gradient(focal(gamma=gamma), lambda x, y: 4 * theirs(x, y), *example((5, 6, 7)))


@both_dimensions
@pytest.mark.parametrize("batch_dice", [False, True])
def test_tversky_equals_monai(size, batch_dice):
    # MONAI's alpha and beta are those of the paper: of false positives and of false negatives.
    theirs = TverskyLoss(
        include_background=False, softmax=True, to_onehot_y=True, alpha=0.2, beta=0.9, batch=batch_dice
    )
    assert_same_value_and_gradient(tversky(alpha=0.2, beta=0.9, batch_dice=batch_dice), theirs, *example(size))


def test_tversky_at_equal_prices_is_dice():
    logits, target = example((9, 7))
    halved = tversky(alpha=0.5, beta=0.5, smooth=1e-5)(logits, target)
    torch.testing.assert_close(halved, dice(smooth=2e-5)(logits, target))


@pytest.mark.parametrize("prices", [{"alpha": -0.1}, {"beta": -1.0}, {"alpha": 0.0, "beta": 0.0}])
def test_prices_of_tversky_that_are_none_are_refused(prices):
    with pytest.raises(ConfigError, match="alpha"):
        tversky(**prices)


@both_dimensions
@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
@pytest.mark.parametrize("include_background", [False, True])
def test_generalised_dice_equals_monai(size, weighting, include_background):
    theirs = GeneralizedDiceLoss(
        include_background=include_background,
        softmax=True,
        to_onehot_y=True,
        w_type=weighting,
        smooth_nr=0,
        smooth_dr=0,
    )
    logits, target = example(size)
    target[0] = torch.arange(target[0].numel()).reshape(size) % 3  # MONAI has no figure for a sample without structures
    ours = generalised_dice(weighting=weighting, include_background=include_background, smooth=0.0)
    assert_same_value_and_gradient(ours, theirs, logits, target)


def test_generalised_dice_of_two_boxes_by_hand():
    target = torch.zeros(1, 4, 6, dtype=torch.int64)
    target[0, 1:3, 0:4] = 1
    moved = certain(target.roll(2, dims=2), 2)
    # Half of 8 voxels of the box overlap, 12 of 16 of the background: 2 (4/8^2 + 12/16^2) / (16/8^2 + 32/16^2) = 7/12.
    assert generalised_dice()(moved, target).item() == pytest.approx(1 - 7 / 12, abs=1e-4)


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ConfigError, match="choose one of square, simple, uniform"):
        generalised_dice(weighting="cube")


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_weighted_ce_equals_torch(label_smoothing):
    logits, target = example((5, 6, 7))
    weights = [0.1, 1.0, 3.0, 7.0]
    value = weighted_ce(weights=weights, label_smoothing=label_smoothing)(logits, target)
    expected = torch.nn.functional.cross_entropy(logits, target, torch.tensor(weights))
    if label_smoothing:  # torch weighs the other classes' share by their weights, not by that of the voxel's class
        voxel = torch.tensor(weights)[target]
        spread = -(torch.log_softmax(logits, 1).mean(1) * voxel).sum() / voxel.sum()
        expected = 0.8 * expected + 0.2 * spread
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -1.0], "frequent"])
def test_class_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(ConfigError, match="weights"):
        weighted_ce(weights=weights)


def test_class_weights_that_nobody_decided_are_refused_at_the_first_call():
    with pytest.raises(ConfigError, match="auto"):
        weighted_ce()(*example((3, 3)))


def test_top_k_is_the_mean_of_the_hardest_voxels():
    target = torch.zeros(1, 1, 10, dtype=torch.int64)
    logits = torch.zeros(1, 2, 1, 10)
    logits[0, 0] = torch.arange(10.0)  # the first voxels are the least sure of the background
    expected = -(torch.sigmoid(torch.arange(3.0)).log()).mean()
    torch.testing.assert_close(top_k(percent=30.0)(logits, target), expected)
    torch.testing.assert_close(top_k(percent=100.0)(logits, target), ce()(logits, target))
    assert top_k(percent=0.1)(logits, target).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("percent", [0.0, -5.0, 101.0])
def test_a_share_of_voxels_that_is_none_is_refused(percent):
    with pytest.raises(ConfigError, match="percent"):
        top_k(percent=percent)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_ce_equals_torch(label_smoothing):
    logits, target = example((5, 6, 7))
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=label_smoothing)
    torch.testing.assert_close(ce(label_smoothing=label_smoothing)(logits, target), expected)


def test_dice_of_two_boxes_that_overlap_by_half_is_one_half():
    target = torch.zeros(1, 4, 6, dtype=torch.int64)
    target[0, 1:3, 0:4] = 1
    moved = target.roll(2, dims=2)
    assert dice()(certain(moved, 2), target).item() == pytest.approx(0.5, abs=1e-5)


def test_ce_of_equal_logits_is_the_logarithm_of_their_number():
    assert ce()(torch.zeros(1, 5, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64)).item() == pytest.approx(math.log(5))


def test_an_absent_structure_costs_nothing_when_not_predicted_and_one_when_predicted():
    target = torch.zeros(1, 6, 6, dtype=torch.int64)
    target[0, :3] = 1
    claimed = target.clone()
    claimed[0, 5] = 2
    assert dice()(certain(target, 3), target).item() == pytest.approx(0.0, abs=1e-5)
    assert dice()(certain(claimed, 3), target).item() == pytest.approx(0.5, abs=1e-5)  # mean of 0 and 1


def test_batch_dice_weighs_voxels_and_not_samples():
    target = torch.zeros(2, 4, 4, dtype=torch.int64)
    target[0, :3] = 1
    target[1, 0, 0] = 1
    missed = target.clone()
    missed[1] = 0
    assert dice()(certain(missed, 2), target).item() == pytest.approx(0.5, abs=1e-5)
    assert dice(batch_dice=True)(certain(missed, 2), target).item() == pytest.approx(1 - 24 / 25, abs=1e-5)


def test_dice_of_millions_of_nearly_sure_voxels_is_exact():
    target = torch.ones(1, 128, 128, 128, dtype=torch.int64)
    p = 0.97
    logits = torch.zeros(1, 2, 128, 128, 128)
    logits[:, 1] = math.log(p / (1 - p))
    assert dice()(logits, target).item() == pytest.approx(1 - 2 * p / (1 + p), abs=1e-5)


@all_losses
@both_dimensions
def test_a_loss_falls_from_wrong_through_unsure_to_right(name, size):
    torch.manual_seed(0)
    target = torch.randint(0, 4, (3, *size))
    wrong, unsure, right = (
        made(name)(logits, target)
        for logits in (certain((target + 1) % 4, 4), torch.zeros(3, 4, *size), certain(target, 4))
    )
    assert wrong > unsure > right
    assert right.item() == pytest.approx(0.0, abs=1e-4)


@all_losses
@both_dimensions
def test_a_loss_is_a_float32_scalar_with_finite_gradients(name, size):
    logits, target = example(size)
    for x in (logits, logits * 1e4):
        value = made(name)(x, target)
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


@all_losses
def test_autocast_changes_nothing_and_half_precision_logits_are_widened_first(name):
    logits, target = example((5, 6, 7))
    logits = logits.detach().bfloat16()
    expected = made(name)(logits.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        value = made(name)(logits, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


@all_losses
@pytest.mark.parametrize(
    ("logits", "target"),
    [((2, 3, 4, 4), (2, 1, 4, 4)), ((2, 3, 4, 4), (2, 4, 5)), ((2, 3, 4, 4), (1, 4, 4)), ((2, 1, 4, 4), (2, 4, 4))],
)
def test_shapes_that_do_not_fit_are_refused(name, logits, target):
    with pytest.raises(ValueError, match="do not fit"):
        made(name)(torch.zeros(logits), torch.zeros(target, dtype=torch.int64))


def test_deep_supervision_weighs_1_and_a_half_and_leaves_out_the_lowest_resolution():
    _, target = example((8, 12))
    logits = [torch.randn(3, 4, 8, 12), torch.randn(3, 4, 4, 6), torch.randn(3, 4, 2, 3, requires_grad=True)]
    full, half = (ce()(logits[i], y) for i, y in enumerate((target, target[:, 1::2, 1::2])))
    value = deep_supervision(ce())(logits, target)
    torch.testing.assert_close(value, (full + half / 2) / 1.5)
    assert not value.requires_grad


def test_deep_supervision_takes_given_weights_relative_to_their_sum():
    _, target = example((8, 12))
    logits = [torch.randn(3, 4, 8, 12), torch.randn(3, 4, 4, 12)]
    full, half = (ce()(logits[i], y) for i, y in enumerate((target, target[:, 1::2])))
    torch.testing.assert_close(deep_supervision(ce(), weights=[1, 3])(logits, target), full / 4 + half * 3 / 4)


@all_losses
def test_deep_supervision_of_one_resolution_is_the_loss_itself(name):
    logits, target = example((8, 12))
    expected = made(name)(logits, target)
    assert torch.equal(deep_supervision(made(name))(logits, target), expected)
    assert torch.equal(deep_supervision(made(name))([logits], target), expected)


@pytest.mark.parametrize("weights", [[], [0.0, 0.0], [1.0, -0.5]])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(ConfigError, match="weights"):
        deep_supervision(ce(), weights=weights)


def test_as_many_weights_as_logits_are_needed():
    logits, target = example((8, 12))
    with pytest.raises(ValueError, match="1 deep supervision weights for 2 logits"):
        deep_supervision(ce(), weights=[1.0])([logits, logits], target)


@pytest.mark.parametrize("size", [(4, 6, 8), (8, 6, 4), (3, 5, 16), (1, 12, 7)])
def test_downsampling_equals_torch_nearest_exact_and_keeps_integers(size):
    torch.manual_seed(0)
    target = torch.randint(0, 200, (2, 8, 12, 16))
    expected = interpolate(target.unsqueeze(1).float(), size, mode="nearest-exact").squeeze(1).long()
    assert torch.equal(downsample_nearest(target, size), expected)
