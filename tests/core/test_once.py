"""A value computed once for each object, on as many threads as there are objects."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from medseg.core.once import once


class Counted:
    def __init__(self, meet: Barrier | None = None) -> None:
        self.calls = 0
        self.meet = meet

    @once
    def value(self) -> int:
        """What it is."""
        self.calls += 1
        if self.meet is not None:
            self.meet.wait(timeout=20)  # only where another thread computes at the same time
        return 42


def test_it_is_computed_at_first_use_and_kept() -> None:
    counted = Counted()
    assert counted.calls == 0
    assert [counted.value, counted.value] == [42, 42]
    assert counted.calls == 1
    assert Counted.value.__doc__ == "What it is."


def test_two_objects_are_computed_at_the_same_time() -> None:
    meet = Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda one: one.value, [Counted(meet), Counted(meet)])) == [42, 42]
