"""The smallest box around each structure, in whatever order the voxels lie in memory."""

import numpy as np
import pytest

from medseg.core.boxes import boxes_of


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_box_holds_its_structure_and_ends_with_it(order, dtype):
    data = np.zeros((9, 8, 7), dtype, order=order)
    data[1:4, 2, 3:6] = 2
    data[8, 7, 6] = 200
    expected = {2: np.s_[1:4, 2:3, 3:6], 200: np.s_[8:9, 7:8, 6:7]}
    assert boxes_of(data) == expected
    assert boxes_of(np.moveaxis(data, 0, 2)) == {v: (b[1], b[2], b[0]) for v, b in expected.items()}
    assert boxes_of(data[::-1]) == {2: np.s_[5:8, 2:3, 3:6], 200: np.s_[0:1, 7:8, 6:7]}


def test_nothing_has_no_box():
    assert boxes_of(np.zeros((2, 3, 4), np.uint8)) == {}
