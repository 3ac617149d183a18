"""What an importer is asked and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

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
