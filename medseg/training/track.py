"""Scalars for TensorBoard, beside log.csv, which holds the same figures and is what medseg itself reads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.training.log import Row

Track = Callable[[Row], None]


@contextmanager
def tracker(folder: Path, *, wanted: bool) -> Iterator[Track]:
    """Where each row of the log goes: an event file in ``folder``, or nowhere unless ``wanted``.

    The event files are TensorBoard's own and no result: a killed process may leave the last seconds out. A resumed run
    writes a row that was there before once more, with the same figures.
    """
    if not wanted:
        yield lambda row: None
        return
    from torch.utils.tensorboard.writer import SummaryWriter

    opened: Callable[[str], Any] = SummaryWriter
    writer = opened(str(folder))
    try:
        yield lambda row: _add(writer.add_scalar, row)
    finally:
        writer.close()


def _add(add: Callable[[str, float, int], None], row: Row) -> None:
    for name, value in row.items():
        if name != "step":
            add(name, float(value), int(row["step"]))
