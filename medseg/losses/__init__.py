"""Losses: the table, and deep supervision, which wraps any of them."""

from collections.abc import Callable

from medseg.losses.comparison import Loss as Loss
from medseg.losses.deep_supervision import deep_supervision as deep_supervision
from medseg.losses.dice_ce import ce, dice, dice_ce, weighted_ce
from medseg.losses.focal import dice_focal, focal
from medseg.losses.generalised_dice import generalised_dice
from medseg.losses.top_k import top_k
from medseg.losses.tversky import tversky

LOSSES: dict[str, Callable[..., Loss]] = {
    "dice_ce": dice_ce,
    "ce": ce,
    "weighted_ce": weighted_ce,
    "dice": dice,
    "generalised_dice": generalised_dice,
    "focal": focal,
    "dice_focal": dice_focal,
    "tversky": tversky,
    "top_k": top_k,
}
"""A factory takes the ``Labels`` of the target, or nothing for a plain softmax, and its options by keyword."""
