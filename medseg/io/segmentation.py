"""A finished label map with what it was made from, and what a writer of further outputs is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.files import Content
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.scan import Scan

if TYPE_CHECKING:
    from medseg.io.recorded import Recorded


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A finished label map and what it was made from.

    ``labels`` name its values. ``place`` is the path of the label map without its suffix (``out/ct_seg``): what a writer
    writes starts with it. ``algorithm`` is the model's name, for formats that record who drew the mask. ``recorded`` are
    the probabilities, where they were asked for.
    """

    label_map: LabelMap
    labels: Labels
    scan: Scan
    place: Path
    algorithm: str
    recorded: "Recorded | None" = None


def _fits(scan: Scan) -> None:
    """Any scan will do."""


def _silent(segmentation: Segmentation) -> Sequence[str]:
    return ()


@dataclass(frozen=True)
class Writer:
    """One kind of output.

    ``paths``: the files that it will write for a ``place`` and labels, known before any work. ``contents``: the bytes of
    every file, or what writes them, each read back and compared with the mask where another program will take it for the
    truth. ``check`` raises DataError, before the work, for a scan whose label map the format cannot hold. ``remarks``: what a
    reader of the result should know, such as structures left out.
    """

    paths: Callable[[Path, Labels], Sequence[Path]]
    contents: Callable[[Segmentation], Mapping[Path, Content]]
    check: Callable[[Scan], None] = _fits
    remarks: Callable[[Segmentation], Sequence[str]] = _silent
