"""A plan and a few stored cases to train on in milliseconds a step."""

from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.case import Case
from medseg.core.geometry import Geometry
from medseg.core.plan import Plan
from medseg.core.volume import LabelMap, Volume
from medseg.data.augment import recipe
from medseg.data.store import StoredCase, build_store
from tests.data.tiny_dataset import SHAPE, pair
from tests.models.tiny_model import tiny_plan


def quick_plan(**changes: Any) -> Plan:
    quick = {"steps": 8, "batch_size": 2, "validate_every": 3, "learning_rate": 5e-3, "augmentation": recipe()}
    return tiny_plan(**{**quick, **changes})


def stored_cases(folder: Path, plan: Plan, count: int = 3) -> list[StoredCase]:
    grid = Geometry(SHAPE, np.eye(4))

    def load(case: Case) -> tuple[Volume, LabelMap]:
        image, label = pair(int(case.id))
        return Volume((image[None] / 80).astype(np.float32), grid), LabelMap(label, grid)

    return build_store(folder, [Case(str(n), str(n), (), Path("label.nii")) for n in range(count)], plan, load)
