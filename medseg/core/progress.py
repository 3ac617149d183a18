"""How long work says how far it is, without knowing who listens."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the units done and the units in all."""


def silent(stage: str, done: int, total: int) -> None:
    """The listener that does nothing."""
