"""LAYOUTS: from a dataset on disk to its cases. A new layout is one function and one line."""

from collections.abc import Callable

from medseg.core.case import Case
from medseg.core.config import DataConfig
from medseg.data.layouts.folder import folder
from medseg.data.layouts.msd import msd

LAYOUTS: dict[str, Callable[[DataConfig], list[Case]]] = {"msd": msd, "folder": folder}


def list_cases(config: DataConfig) -> list[Case]:
    """The training cases of a dataset, sorted by id, every file present. Raises DataError naming what is wrong."""
    return sorted(LAYOUTS[config.layout](config), key=lambda case: case.id)
