"""Which sides of the patient a structure touches, whatever the storage order."""

import numpy as np
import pytest

from medseg.core.border import touched_sides
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.volume import LabelMap


@pytest.mark.parametrize("order", all_storage_orders(), ids=str)
def test_sides_are_the_patients_in_any_storage_order(order) -> None:
    data = np.zeros((6, 7, 8), np.uint8)
    data[-1, 3, 3] = 1  # RAS: the last i is the patient's right
    data[2, 0, 3] = 2
    data[2, 2, 0] = data[2, 2, -1] = 4
    data[3, 3, 3] = 9
    stored = LabelMap(data, Geometry((6, 7, 8), np.diag([1.0, 2.0, 3.0, 1.0]))).reordered(order)
    found = {value: set(sides) for value, sides in touched_sides(stored).items()}
    assert found == {1: {"right"}, 2: {"posterior"}, 4: {"inferior", "superior"}}


def test_one_slice_has_no_faces_along_its_normal() -> None:
    data = np.zeros((6, 7, 1), np.uint8)
    data[2, 2, 0] = 1
    assert touched_sides(LabelMap(data, Geometry((6, 7, 1), np.eye(4)))) == {}
