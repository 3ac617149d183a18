"""LAYOUTS: from a dataset on disk to its cases. A new layout is one function and one line."""

from collections.abc import Callable
from dataclasses import replace

from medseg.core.case import Case
from medseg.core.config import DataConfig
from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.data.layouts.annotated import annotated_from, check_annotated
from medseg.data.layouts.folder import folder
from medseg.data.layouts.msd import msd, named_labels

LAYOUTS: dict[str, Callable[[DataConfig], list[Case]]] = {"msd": msd, "folder": folder}


def list_cases(config: DataConfig, labels: Labels | None = None) -> list[Case]:
    """The training cases of a dataset, sorted by id, every file present.

    With ``labels``, structures that the dataset names and they lack are left out: their values count as background. Raises
    DataError naming what is wrong, ConfigError where dataset and ``labels`` give one name to different values.
    """
    cases = sorted(LAYOUTS[config.layout](config), key=lambda case: case.id)
    if config.annotated is not None:
        cases = annotated_from(config.annotated, cases)
    if labels is None:
        return cases
    left_out = left_out_structures(config, labels)
    cases = check_annotated(cases, labels.names, tuple(left_out))
    return [replace(case, left_out=tuple(sorted(left_out.values()))) for case in cases]


def left_out_structures(config: DataConfig, labels: Labels) -> dict[str, int]:
    """``{name: value}`` of the structures that the dataset names and ``labels`` holds neither by name nor by value.

    Raises ConfigError where both name the same two structures but exchange their values: one would be learnt as the other.
    """
    named = named_labels(config) if config.layout == "msd" else {}
    asked = {name.casefold(): value for name, value in labels.mapping().items()}
    by_value = {value: name.casefold() for name, value in named.items()}
    for name, value in named.items():
        other = asked.get(name.casefold(), value)
        if other != value and by_value.get(other) in asked:
            raise ConfigError(
                f"labels: {name!r} is {value} in the dataset's dataset.json, but {other} in the config, which the dataset "
                f"calls {by_value[other]!r}; give each name the dataset's value"
            )
    return {
        name: value for name, value in named.items() if value not in asked.values() and name.casefold() not in asked
    }
