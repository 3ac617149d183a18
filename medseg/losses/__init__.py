"""Losses: the table, and deep supervision, which wraps any of them."""

from collections.abc import Callable

from medseg.losses.deep_supervision import deep_supervision as deep_supervision
from medseg.losses.dice_ce import Loss, ce, dice, dice_ce, dice_focal

LOSSES: dict[str, Callable[..., Loss]] = {
    "dice_ce": dice_ce,
    "dice": dice,
    "ce": ce,
    "dice_focal": dice_focal,
}
