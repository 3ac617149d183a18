"""LAYOUTS: from a dataset on disk to its cases. A new layout is one function and one line."""

from collections.abc import Callable
from dataclasses import replace

from medseg.core.case import Case
from medseg.core.config import DataConfig
from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.data.layouts.folder import folder
from medseg.data.layouts.msd import msd, named_labels

LAYOUTS: dict[str, Callable[[DataConfig], list[Case]]] = {"msd": msd, "folder": folder}


def list_cases(config: DataConfig, labels: Labels | None = None) -> list[Case]:
    """The training cases of a dataset, sorted by id, every file present.

    With ``labels``, structures that the dataset names and they lack are left out: their values count as background. Raises
    DataError naming what is wrong, ConfigError where dataset and ``labels`` give one name to different values.
    """
    cases = sorted(LAYOUTS[config.layout](config), key=lambda case: case.id)
    left_out = tuple(sorted(left_out_structures(config, labels).values())) if labels else ()
    return [replace(case, left_out=left_out) for case in cases]


def left_out_structures(config: DataConfig, labels: Labels) -> dict[str, int]:
    """``{name: value}`` of the structures that the dataset names and ``labels`` does not hold."""
    named = named_labels(config) if config.layout == "msd" else {}
    asked = {name.casefold(): value for name, value in labels.mapping().items()}
    for name, value in named.items():
        if asked.get(name.casefold(), value) != value:
            raise ConfigError(
                f"labels: {name!r} is {value} in the dataset's dataset.json, but {asked[name.casefold()]} in the config; "
                "give it the dataset's value"
            )
    return {name: value for name, value in named.items() if value not in asked.values()}
