import threading
import warnings

import pytest

from medseg.core.quiet import quiet


def test_blocks_that_overlap_in_two_threads_leave_the_filters_as_they_were():
    before = list(warnings.filters)
    entered, left = threading.Event(), threading.Event()

    def first():
        with quiet():
            entered.set()
            left.wait(5)
            warnings.warn("still silent", stacklevel=1)  # although the other thread has left

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(5)
    with quiet():
        warnings.warn("silent", stacklevel=1)
    left.set()
    thread.join()
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)


def test_a_block_that_fails_restores_too():
    before = list(warnings.filters)
    with pytest.raises(ValueError, match="x"), quiet(), quiet():
        raise ValueError("x")
    assert warnings.filters == before
