"""The cases to tune on, and for each the folds that may predict it: those that did not see it in training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.case import Case
from medseg.core.config import load_config
from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.core.files import sha256_of
from medseg.core.labels import Labels
from medseg.data.given_splits import Split
from medseg.data.layouts import list_cases

ITS_OWN = "validation cases, each by the folds that did not see it"


@dataclass(frozen=True)
class TuneCases:
    """``cases`` with the numbers of the ``folds`` (in the order of the weights) that predict each; what they are, in words.

    ``remarks``: what could not be checked.
    """

    cases: tuple[Case, ...]
    folds: tuple[tuple[int, ...], ...]
    described: str
    remarks: tuple[str, ...] = ()


def own_cases(folder: Path, weights: Sequence[str], training: Mapping[str, Any], labels: Labels) -> TuneCases:
    """The validation cases of the run that made the model in ``folder``. Raises DataError where there is none."""
    run = folder.absolute().parent
    how = "give other cases with --config FILE, or with --images DIR --labels DIR"
    if not (run / "config.yaml").is_file() or not (run / "splits.json").is_file():
        raise DataError(
            f"{folder}: its run folder (config.yaml, splits.json) is not around it, so its cases are unknown; {how}"
        )
    splits = _splits(run, training, folder)
    numbered = {number: name.removesuffix(".safetensors") for number, name in enumerate(sorted(weights))}
    held_out: dict[str, list[int]] = {}
    for number, name in numbered.items():
        fold = name.removeprefix("fold_")
        for case in splits[int(fold)]["validation"] if fold.isdigit() and int(fold) < len(splits) else ():
            held_out.setdefault(case, []).append(number)
    if not held_out:
        raise DataError(f"{folder}: no fold of this model has validation cases, every case was training; {how}")
    by_id = {case.id: case for case in list_cases(load_config(run / "config.yaml").data, labels)}
    gone = sorted(held_out.keys() - by_id.keys())
    if gone:
        raise DataError(f"{run / 'splits.json'}: the validation case {gone[0]!r} is no longer in the dataset; {how}")
    ids = sorted(held_out)
    return TuneCases(tuple(by_id[i] for i in ids), tuple(tuple(held_out[i]) for i in ids), ITS_OWN)


def given_cases(
    folder: Path,
    weights: Sequence[str],
    training: Mapping[str, Any],
    labels: Labels,
    *,
    config: Path | None,
    images: Path | None,
    references: Path | None,
) -> TuneCases:
    """The cases of a config's data section or of two folders; all folds predict each one.

    Raises ConfigError where neither is given whole, and DataError for a case that the model was trained on, by its name.
    """
    if config is not None:
        data = load_config(config).data
    elif images is not None and references is not None:
        data = DataConfig(layout="folder", images=images, labels=references)
    else:
        raise ConfigError("cases are given by --config FILE, or by both --images DIR and --labels DIR")
    cases = tuple(list_cases(data, labels))
    if not cases:
        raise DataError("the cases given are none; point to folders with scans and their label maps")
    run = folder.absolute().parent
    remarks = [
        "it cannot be checked whether this model was trained on these cases: if it was, the figures are too good"
    ]
    if (run / "splits.json").is_file():
        trained = {case for split in _splits(run, training, folder) for side in split.values() for case in side}
        seen = [case.id for case in cases if case.id in trained]
        if seen:
            raise DataError(
                f"{seen[0]}: the model was trained on a case of this name ({len(seen)} of {len(cases)} are so), and figures on "
                "training cases mean nothing; leave them out, or tune on the model's own validation cases (give no cases)"
            )
        remarks = [
            "none of these cases has the name of a training case; that none is one under another name is not checked"
        ]
    number = tuple(range(len(weights)))
    return TuneCases(cases, (number,) * len(cases), "cases that were given", tuple(remarks))


def spread(found: TuneCases, most: int | None) -> TuneCases:
    """At most so many of the cases, spread evenly; None: all."""
    if most is None or most >= len(found.cases):
        return found
    kept = sorted({round(n) for n in np.linspace(0, len(found.cases) - 1, most)})
    cases, folds = tuple(found.cases[n] for n in kept), tuple(found.folds[n] for n in kept)
    return TuneCases(cases, folds, f"of {len(found.cases)} {found.described}", found.remarks)


def _splits(run: Path, training: Mapping[str, Any], folder: Path) -> list[Split]:
    """The splits of the run, which must be those that the model was trained with."""
    from medseg.training.run_folder import saved_splits

    expected = {
        told["splits_sha256"] for told in training.values() if isinstance(told, dict) and "splits_sha256" in told
    }
    if expected - {sha256_of(run / "splits.json")}:
        raise DataError(
            f"{run / 'splits.json'}: is not the one that {folder} was trained with (another sha256), so which fold saw which "
            "case is unknown; restore it"
        )
    return saved_splits(run)
