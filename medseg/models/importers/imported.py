"""What an importer is asked and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medseg.core.errors import ModelError
from medseg.core.plan import Plan
from medseg.models.bundle import check_weights, network_for
from medseg.models.model_json import ModelCard


@dataclass(frozen=True)
class ImportOptions:
    """What the user chose; None: as the folder says.

    ``folds``: their numbers, or ``all``. ``orientation``: how the training files were stored.
    """

    folds: tuple[str, ...] | None = None
    checkpoint: str | None = None
    configuration: str | None = None
    name: str | None = None
    licence: str | None = None
    orientation: str | None = None


@dataclass(frozen=True, eq=False)
class Imported:
    """A foreign model as ``save_model`` takes it; ``remarks`` say what the user should know, one sentence each."""

    card: ModelCard
    states: dict[str, dict[str, Tensor]]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Importer:
    """``recognises`` a folder by its files alone; ``read`` raises ModelError naming what is missing or does not fit."""

    recognises: Callable[[Path], bool]
    read: Callable[[Path, ImportOptions], Imported]
    what: str


def fitting(plan: Plan, state: dict[str, Tensor], file: Path, planned: Path) -> dict[str, Tensor]:
    """``state`` of ``file``, once it fits the network of ``plan`` to the last tensor; no weights are made for that.

    Raises ModelError, which names ``planned`` where there is no such network.
    """
    try:
        with torch.device("meta"):
            network = network_for(plan)
    except Exception as error:  # what a file says need not make a network
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{planned}: the network cannot be built: {reason}") from None
    try:
        check_weights(network, state, plan)
    except ModelError as error:
        raise ModelError(f"{file}: {error}") from None
    return state
