"""What a training decides before it takes the first scan apart: cases, folds, fingerprint and a plan without a length."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medseg.core.case import Case
from medseg.core.config import Config
from medseg.core.plan import Fingerprint, Plan
from medseg.core.progress import Progress, silent
from medseg.data.check import check_dataset, structures_in
from medseg.data.fingerprint import fingerprint
from medseg.data.layouts import list_cases
from medseg.data.planning import Frame
from medseg.data.split import choose_fold, make_splits
from medseg.inference.device import choose_device
from medseg.training.init import planned, starting_point
from medseg.training.parts import require_network, require_parts


@dataclass(frozen=True, eq=False)
class Prepared:
    """A checked dataset with its first fold: ``training`` and ``held_out`` cases. ``draft`` lacks what waits for the time.

    ``config`` is the one to plan by: as asked, or as a model to start from changes it.
    """

    device: torch.device
    cases: Sequence[Case]
    training: Sequence[Case]
    held_out: Sequence[Case]
    fingerprint: Fingerprint
    frame: Frame
    draft: Plan
    config: Config


def prepare(config: Config, *, progress: Progress = silent) -> Prepared:
    """Check the parts and the dataset of ``config`` and plan up to what needs measured times; nothing is written.

    Raises ConfigError, DataError or ResourceError as ``medseg train`` would.
    """
    device = choose_device(config.device)
    require_parts(config, device)
    labels = config.structure_labels
    cases = list_cases(config.data, labels)
    facts = check_dataset(cases, labels, progress=progress)
    measured = fingerprint(facts)
    planning, frame, draft = planned(config, measured, device, processes=1, start=starting_point(config))
    require_network(draft)
    asked = config.train
    splits = []
    if asked.fold != "final":
        splits = make_splits(
            cases, folds=asked.folds, seed=asked.seed, present=structures_in(facts), given=config.data.splits
        )
    split = choose_fold(splits, 0 if asked.fold == "all" else asked.fold, cases)
    by_id = {case.id: case for case in cases}
    training, held_out = ([by_id[name] for name in split[side]] for side in ("train", "validation"))
    return Prepared(device, cases, training, held_out, measured, frame, draft, planning)
