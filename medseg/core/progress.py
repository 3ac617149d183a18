"""How long work says how far it is, without knowing who listens."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the units done and the units in all; with none in all where it goes no further."""


def silent(stage: str, done: int, total: int) -> None:
    """The listener that does nothing."""


def of_case(progress: Progress, case: str) -> Progress:
    """``progress`` whose stages name the ``case`` that they belong to.

    >>> of_case(lambda *told: print(told), "liver_7")("windows", 1, 4)
    ('liver_7: windows', 1, 4)
    """

    def told(stage: str, done: int, total: int) -> None:
        progress(f"{case}: {stage}", done, total)

    return told
