"""LAYOUTS: from a dataset on disk to its cases. A new layout is one function and one line."""

from collections.abc import Callable
from dataclasses import replace

from medseg.core.case import Case
from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.data.layouts.annotated import annotated_from, check_annotated
from medseg.data.layouts.bids import bids, table_values
from medseg.data.layouts.common import label_values, read_dataset_json
from medseg.data.layouts.csv_table import csv_table
from medseg.data.layouts.folder import folder
from medseg.data.layouts.msd import msd
from medseg.data.layouts.nnunet import nnunet, not_taken_over, structure_values
from medseg.data.layouts.patients import by_dicom_patient

LAYOUTS: dict[str, Callable[[DataConfig], list[Case]]] = {
    "msd": msd,
    "nnunet": nnunet,
    "folder": folder,
    "csv": csv_table,
    "bids": bids,
}


def list_cases(config: DataConfig, labels: Labels | None = None) -> list[Case]:
    """The training cases of a dataset, sorted by id, every file present.

    Scans of one DICOM patient are cases of one patient, where nothing else says who is whose. With ``labels``, structures
    that the dataset names and they lack are left out: their values count as background. Raises DataError naming what is
    wrong, ConfigError where dataset and ``labels`` give one name to different values.
    """
    listed = sorted(LAYOUTS[config.layout](config), key=lambda case: case.id)
    cases = [replace(case, channel_grids=config.channel_grids) for case in listed]
    if config.group is None:
        cases = by_dicom_patient(cases)
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
    named = _named_values(config)
    asked = {name.casefold(): value for name, value in labels.mapping().items()}
    by_value = {value: name.casefold() for name, value in named.items()}
    for name, value in named.items():
        other = asked.get(name.casefold(), value)
        if other != value and by_value.get(other) in asked:
            raise ConfigError(
                f"labels: {name!r} is {value} in the dataset's {_named_in(config)}, but {other} in the config, which the dataset "
                f"calls {by_value[other]!r}; give each name the dataset's value"
            )
    return {
        name: value for name, value in named.items() if value not in asked.values() and name.casefold() not in asked
    }


def remarks(config: DataConfig, labels: Labels) -> list[str]:
    """What the dataset says of its labels that training does not take over, in words. Raises as ``left_out_structures``."""
    found = []
    left_out = left_out_structures(config, labels)
    if left_out:
        named = ", ".join(f"{name} ({value})" for name, value in left_out.items())
        found.append(f"the dataset also names {named}: not in labels, so background in this training")
    if config.layout == "nnunet":
        unused = not_taken_over(read_dataset_json(config.path_of("root"), "nnunet"))
        if unused:
            found.append(
                f"dataset.json also has {', '.join(unused)}: not taken over, only what this config says counts"
            )
    return found


def _named_in(config: DataConfig) -> str:
    return "dseg.tsv" if config.layout == "bids" else "dataset.json"


def _named_values(config: DataConfig) -> dict[str, int]:
    """``{name: value}`` as the dataset's dataset.json or dseg.tsv says it; empty where a layout has none."""
    if config.layout == "bids":
        return table_values(config)
    readers = {"msd": label_values, "nnunet": structure_values}
    if config.layout not in readers:
        return {}
    return readers[config.layout](read_dataset_json(config.path_of("root"), config.layout))
