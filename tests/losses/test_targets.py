"""What every loss does with voxels to ignore, with structures that a case does not annotate, and with regions.

The truth is the same loss on what is left when the voxels or channels are taken out by hand.
"""

import pytest
import torch
from monai.losses import DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss

from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.losses import LOSSES, deep_supervision, dice, dice_ce, focal, generalised_dice, tversky, weighted_ce
from medseg.losses import ce as cross_entropy

all_losses = pytest.mark.parametrize("name", LOSSES)
MAPPING = {"background": 0, "liver": 1, "tumour": 2, "spleen": 3}
REGIONS = {"whole": ["liver", "tumour"], "tumour": ["tumour"], "spleen": ["spleen"]}
PLAIN = Labels.from_mapping(MAPPING)
KINDS = {"softmax": None, "regions": REGIONS}
both_kinds = pytest.mark.parametrize("kind", KINDS)
IGNORED = 4  # the channel after those of the structures
WEIGHTS = {"background": 0.5, "liver": 1.0, "tumour": 2.0, "spleen": 4.0, "whole": 3.0}


def labels_of(kind, ignore=None):
    return Labels.from_mapping(MAPPING, KINDS[kind], ignore)


def made(name, labels):
    if name == "weighted_ce":
        names = [r.name for r in labels.regions] or [labels.background, *labels.names]
        return LOSSES[name](labels, weights=[WEIGHTS[n] for n in names])
    return LOSSES[name](labels, **({"percent": 100.0} if name == "top_k" else {}))


def example(labels, voxels=60, batch=2):
    torch.manual_seed(0)
    logits = (torch.randn(batch, labels.outputs, 1, voxels) * 3).requires_grad_()
    return logits, torch.randint(0, 4, (batch, 1, voxels))


def value_and_gradient(loss, logits, target, annotated=None):
    value = loss(logits, target, annotated)
    return value, torch.autograd.grad(value, logits)[0]


@all_losses
@both_kinds
def test_ignored_voxels_might_as_well_not_be_there(name, kind):
    logits, target = example(labels_of(kind))
    keep = torch.arange(60) % 3 != 0
    wanted = made(name, labels_of(kind))(logits[..., keep], target[..., keep])
    wanted_slope = torch.autograd.grad(wanted, logits)[0]
    value, slope = value_and_gradient(made(name, labels_of(kind, ignore=255)), logits, target.where(keep, IGNORED))
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(slope, wanted_slope)
    assert not slope[..., ~keep].any()


@all_losses
@both_kinds
def test_a_batch_that_is_ignored_altogether_has_no_loss_and_no_gradient(name, kind):
    logits, target = example(labels_of(kind))
    value, slope = value_and_gradient(made(name, labels_of(kind, ignore=255)), logits, torch.full_like(target, IGNORED))
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert not slope.any()


@all_losses
@both_kinds
def test_a_batch_of_nothing_has_no_loss(name, kind):
    labels = labels_of(kind)
    value = made(name, labels)(torch.zeros(0, labels.outputs, 5, 4), torch.zeros(0, 5, 4, dtype=torch.int64))
    assert value.item() == 0.0


@all_losses
@both_kinds
def test_everything_annotated_is_the_plain_loss(name, kind):
    labels = labels_of(kind)
    logits, target = example(labels)
    loss = made(name, labels)
    wanted, wanted_slope = value_and_gradient(loss, logits, target)
    value, slope = value_and_gradient(loss, logits, target, torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(slope, wanted_slope)


@all_losses
@pytest.mark.parametrize("ignore", [None, 255])
def test_a_structure_that_is_not_annotated_is_background_of_a_softmax(name, ignore):
    """Shi 2021, doi:10.1016/j.media.2021.101979: the probabilities of both are one, whatever their shares."""
    logits, target = example(PLAIN)
    fewer = Labels.from_mapping({"background": 0, "liver": 1, "spleen": 3}, None, ignore)
    merged = torch.stack([logits[:, [0, 2]].logsumexp(1), logits[:, 1], logits[:, 3]], dim=1)
    there = torch.tensor([0, 1, 0, 2, 3])  # the target's channels among the fewer ones
    if ignore:
        target[..., ::5] = IGNORED
    wanted = made(name, fewer)(merged, there[target])
    wanted_slope = torch.autograd.grad(wanted, logits)[0]
    annotated = torch.tensor([[True, True, False, True]]).expand(2, -1)
    value, slope = value_and_gradient(made(name, labels_of("softmax", ignore)), logits, target, annotated)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(slope, wanted_slope, rtol=1e-4, atol=1e-7)
    # Nothing says how background and the hidden structure share their probability: their log-odds stay.
    share = torch.softmax(logits.detach()[:, [0, 2]], dim=1)
    torch.testing.assert_close(slope[:, [0, 2]], share * slope[:, [0, 2]].sum(1, keepdim=True), rtol=1e-3, atol=1e-7)


@all_losses
@pytest.mark.parametrize("ignore", [None, 255])
def test_a_region_that_is_not_annotated_whole_is_left_out(name, ignore):
    labels = labels_of("regions", ignore)
    logits, target = example(labels)
    if ignore:
        target[..., ::5] = IGNORED
    annotated = torch.tensor([[True, True, True, False]]).expand(2, -1)  # not the spleen
    fewer = Labels.from_mapping(
        {"background": 0, "liver": 1, "tumour": 2}, {k: REGIONS[k] for k in ("whole", "tumour")}, ignore
    )
    there = torch.tensor([0, 1, 2, 0, 3])
    wanted = made(name, fewer)(logits[:, :2], there[target])
    wanted_slope = torch.autograd.grad(wanted, logits)[0]
    value, slope = value_and_gradient(made(name, labels), logits, target, annotated)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(slope, wanted_slope)
    assert not slope[:, 2].any()


@all_losses
@both_kinds
def test_samples_annotate_what_they_annotate(name, kind):
    """One sample without the spleen, one without anything: neither changes what the other one costs."""
    labels = labels_of(kind)
    loss = made(name, labels)
    logits, target = example(labels)
    annotated = torch.tensor([[True, True, True, False], [True, False, False, False]])
    value, slope = value_and_gradient(loss, logits, target, annotated)
    assert value.isfinite()
    assert slope.isfinite().all()
    if kind == "regions":
        assert not slope[1].any()
    else:
        assert torch.allclose(slope[1], torch.zeros(()), atol=1e-6)  # all is background: of probability 1


@all_losses
def test_regions_are_right_where_every_region_is(name):
    labels = labels_of("regions")
    target = torch.tensor([[[0, 0, 1, 1, 1, 2, 2, 3, 3]]])
    truth = torch.stack([(target == 1) | (target == 2), target == 2, target == 3], dim=1)
    right = (truth.float() - 0.5) * 100
    assert made(name, labels)(right, target).item() == pytest.approx(0.0, abs=1e-4)
    assert made(name, labels)(-right, target) > made(name, labels)(right * 0, target) > 0.1


@all_losses
@both_kinds
def test_deep_supervision_wraps_any_loss_with_all_of_it(name, kind):
    labels = labels_of(kind, ignore=255)
    loss = made(name, labels)
    torch.manual_seed(0)
    target = torch.randint(0, 5, (2, 8, 12))
    annotated = torch.tensor([[True, True, True, False], [True, True, True, True]])
    logits = [torch.randn(2, labels.outputs, *size) for size in ((8, 12), (4, 6))]
    full, half = loss(logits[0], target, annotated), loss(logits[1], target[:, 1::2, 1::2], annotated)
    wrapped = deep_supervision(loss, weights=[1.0, 0.4])  # an auxiliary head
    torch.testing.assert_close(wrapped(logits, target, annotated), (full + 0.4 * half) / 1.4)


@all_losses
@both_kinds
def test_half_precision_and_huge_logits_stay_finite(name, kind):
    labels = labels_of(kind, ignore=255)
    logits, target = example(labels)
    target[..., ::7] = IGNORED
    annotated = torch.tensor([[True, False, True, True], [True, True, True, True]])
    for x in (logits.detach().bfloat16().requires_grad_(), (logits.detach() * 1e4).requires_grad_()):
        value, slope = value_and_gradient(made(name, labels), x, target, annotated)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert slope.isfinite().all()


def test_regions_equal_monai_and_torch_on_overlapping_masks():
    labels = labels_of("regions")
    logits, target = example(labels)
    truth = torch.stack([(target == 1) | (target == 2), target == 2, target == 3], dim=1).float()
    pairs = [
        (dice(labels), DiceLoss(sigmoid=True)),
        (tversky(labels, alpha=0.2, beta=0.9), TverskyLoss(sigmoid=True, alpha=0.2, beta=0.9)),
        (generalised_dice(labels, smooth=0.0), GeneralizedDiceLoss(sigmoid=True, smooth_nr=0, smooth_dr=0)),
        (focal(labels), FocalLoss(gamma=2.0)),
        (cross_entropy(labels), torch.nn.BCEWithLogitsLoss()),
    ]
    for ours, theirs in pairs:
        wanted = theirs(logits, truth)
        value, slope = value_and_gradient(ours, logits, target)
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(slope, torch.autograd.grad(wanted, logits)[0], rtol=1e-4, atol=1e-7)


def test_weights_of_regions_weigh_what_is_inside():
    labels = labels_of("regions")
    logits, target = example(labels)
    truth = torch.stack([(target == 1) | (target == 2), target == 2, target == 3], dim=1).float()
    weights = torch.tensor([3.0, 2.0, 4.0])
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    factor = 1 + truth * (weights[:, None, None] - 1)
    value = weighted_ce(labels, weights=weights.tolist())(logits, target)
    torch.testing.assert_close(value, (each * factor).sum() / factor.sum())


@both_kinds
def test_as_many_class_weights_as_outputs_are_needed(kind):
    with pytest.raises(ConfigError, match="2 weights for"):
        weighted_ce(labels_of(kind), weights=[1.0, 2.0])


def test_logits_must_have_as_many_channels_as_the_labels():
    with pytest.raises(ValueError, match="4 channels"):
        dice_ce(PLAIN)(torch.zeros(1, 3, 5, 4), torch.zeros(1, 5, 4, dtype=torch.int64))
