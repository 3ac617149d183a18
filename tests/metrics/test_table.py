import math

import numpy as np
import pytest

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry
from medseg.metrics import (
    CASE_METRICS,
    COUNTED,
    DEFAULT_METRICS,
    LESION_METRICS,
    METRICS,
    CasePair,
    Settings,
    chosen_metrics,
    score_structure,
    score_structures,
)


def test_metrics_are_chosen_by_name_in_the_order_of_the_tables():
    assert chosen_metrics(["mean_iou", "assd", "dice"]) == ("dice", "assd", "mean_iou")
    assert chosen_metrics(["all"]) == (*METRICS, *CASE_METRICS)
    assert set(chosen_metrics(None)) == set(DEFAULT_METRICS)
    assert {*COUNTED, "hd95", "assd", "nsd", "volume_difference_ml"} <= set(DEFAULT_METRICS)


@pytest.mark.parametrize("names", [["hd96"], [], ["dice", "Dice"], ["lesion_f1"]])
def test_an_unknown_or_no_name_is_an_error_that_lists_them_all(names):
    with pytest.raises(ConfigError, match=r"choose from dice, iou, .*pixel_accuracy, or all"):
        chosen_metrics(names)


def test_no_name_is_in_two_tables():
    assert len({*METRICS, *LESION_METRICS, *CASE_METRICS}) == len(METRICS) + len(LESION_METRICS) + len(CASE_METRICS)


def test_structures_on_several_threads_score_as_one_after_the_other():
    rng = np.random.default_rng(0)
    prediction, reference = rng.integers(0, 30, size=(2, 20, 20, 20)).astype(np.uint8)
    grid = Geometry(reference.shape, np.diag([0.8, 0.8, 2.0, 1.0]))
    names = {value: f"organ {value}" for value in range(1, 32)}
    settings = Settings(chosen_metrics(["all"]), 1.0, {"organ 3": 2.5}, lesions=("organ 5",))
    found = score_structures("case", names, CasePair.of(prediction, reference, grid), settings)
    assert list(found) == list(names)
    for value, name in names.items():
        pair = CasePair.of(prediction, reference, grid).structure(value, settings.rules(name))
        assert pair.rules.tolerance_mm == (2.5 if value == 3 else 1.0)
        expected = score_structure("case", name, pair, settings.metrics_of(name))
        assert [(s.metric, s.structure, s.state) for s in found[value]] == [
            (s.metric, s.structure, s.state) for s in expected
        ]
        for one, other in zip(found[value], expected, strict=True):
            assert one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))
    assert any(s.metric == "lesion_pq" for s in found[5])
    assert not any(s.metric == "lesion_pq" for s in found[6])
