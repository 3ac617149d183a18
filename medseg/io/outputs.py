"""WRITERS: what may stand beside the label map. A new output is one file and one line in the table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import ConfigError, OutputError
from medseg.core.files import is_there
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.scan import Scan


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A finished label map and what it was made from.

    ``labels`` name its values. ``place`` is the path of the label map without its suffix (``out/ct_seg``): what a writer
    writes starts with it. ``algorithm`` is the model's name, for formats that record who drew the mask.
    """

    label_map: LabelMap
    labels: Labels
    scan: Scan
    place: Path
    algorithm: str


@dataclass(frozen=True)
class Writer:
    """One kind of output.

    ``paths``: the files or folders that it will write for a ``place`` and labels, known before any work. ``contents``: the
    bytes of every file, each read back and compared with the mask where another program will take it for the truth.
    """

    paths: Callable[[Path, Labels], Sequence[Path]]
    contents: Callable[[Segmentation], Mapping[Path, bytes]]


WRITERS: dict[str, Writer] = {}


def writers_of(names: Sequence[str]) -> dict[str, Writer]:
    """The entries of WRITERS called ``names``. Raises ConfigError for a name that is none of them."""
    for name in names:
        if name not in WRITERS:
            raise ConfigError(f"output {name!r} is unknown; choose from {', '.join(WRITERS)}")
    return {name: WRITERS[name] for name in names}


def check_free(writers: Mapping[str, Writer], place: Path, labels: Labels, *, force: bool) -> None:
    """Raise OutputError where something that ``writers`` would write exists, unless ``force``; folders are never replaced."""
    for writer in writers.values():
        for path in writer.paths(place, labels):
            if path.is_dir():
                raise OutputError(f"{path}: is a folder; choose another --output")
            if is_there(path) and not force:
                raise OutputError(f"{path}: exists already; overwrite it with --force, or choose another --output")
