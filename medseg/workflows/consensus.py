"""One label map of several readers': the readers' files of a case -> one grid -> majority or STAPLE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.matching import match_files
from medseg.io.reading import holds_named_masks, read_label_map
from medseg.io.source import shown
from medseg.metrics.grids import reordered
from medseg.statistics.consensus import Method, Staple, consensus


@dataclass(frozen=True, eq=False)
class CaseConsensus:
    """The consensus of one case on the first reader's grid; by structure what STAPLE found of the readers."""

    case: str
    label_map: LabelMap
    readers: Mapping[str, Staple]
    undecided_ml: float


def files_by_case(readers: Sequence[Path]) -> dict[str, list[Path]]:
    """Each case's label map by every reader; the readers have the same cases."""
    first, *others = readers
    found: dict[str, list[Path]] = {}
    for other in others:
        for pair in match_files(other, first)[0]:
            found.setdefault(pair.id, [pair.reference]).append(pair.prediction)
    return found


def consensus_of_case(
    case: str, files: Sequence[Path], *, values: Mapping[str, int], labels: Labels | None, method: Method
) -> CaseConsensus:
    """Read the ``files`` of all readers and make one label map of them; ``values`` by structure, ``labels`` where they have names.

    Raises GeometryError where a reader drew on another grid, in whatever storage order, and DataError for an unreadable file.
    """
    plain = [path for path in files if not holds_named_masks(path)]
    maps: dict[Path, LabelMap] = {path: read_label_map(path) for path in plain}
    for path in files:
        if path not in maps:  # masks with names are laid on the grid of a label map
            like = next((m.geometry for m in maps.values()), None)
            maps[path] = read_label_map(path, labels, like=like)
    first = maps[files[0]]
    on_grid = [reordered(maps[path], first.geometry, names=(shown(path), shown(files[0]))).data for path in files]
    found = consensus(on_grid, list(values.values()), method)
    names = {value: name for name, value in values.items()}
    return CaseConsensus(
        case,
        LabelMap(found.data, first.geometry, labels),
        {names[value]: staple for value, staple in found.readers.items()},
        found.undecided * first.geometry.voxel_volume_ml,
    )
