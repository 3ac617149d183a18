"""Masks with names, from files that hold one for each structure, made one label map by the names of the labels."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import ConfigError, DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap

Piece = tuple[tuple[int | slice, ...], npt.NDArray[np.bool_]]
"""Where in the array (I, J, K), and which of the voxels there belong to the mask."""

_LISTED = 20


@dataclass(frozen=True, eq=False)
class NamedMasks:
    """Masks on ``geometry``: ``pieces(n)`` gives the parts of the one called ``names[n]``, read when asked for.

    ``source`` is the file as a message names it; ``warnings`` say what reading it had to assume.
    """

    source: str
    names: tuple[str, ...]
    geometry: Geometry
    pieces: Callable[[int], Iterator[Piece]]
    warnings: tuple[str, ...] = ()


def as_one_label_map(masks: NamedMasks, labels: Labels | None) -> LabelMap:
    """``masks`` as one label map with the values of ``labels``; without, 1, 2, ... in the order of the file.

    Names are the same where they differ in letter case, spaces, ``_`` and ``-`` only. What ``labels`` do not name is set
    aside with a warning, as is a structure of ``labels`` that the file lacks: it is taken as empty. Where both occur, one
    may be the other under another name: a DataError lists both. Voxels in two masks go to the structure with the larger
    value, with a warning that counts them; without ``labels`` they are a DataError.
    """
    chosen, notes = _matched(masks, labels) if labels else (dict(enumerate(range(1, len(masks.names) + 1))), [])
    found = labels or _own_labels(masks)
    data: npt.NDArray[np.unsignedinteger[Any]] = np.zeros(masks.geometry.shape, found.dtype)
    shared: Counter[tuple[int, int]] = Counter()
    for number, value in sorted(chosen.items(), key=lambda item: item[1]):
        for place, mask in masks.pieces(number):
            target = data[place]
            others, counts = np.unique(target[mask & (target != 0) & (target != value)], return_counts=True)
            shared.update({(int(a), value): int(n) for a, n in zip(others, counts, strict=True)})
            data[place] = np.where(mask, data.dtype.type(value), target)
    notes += _overlaps(masks, {s.value: s.name for s in found.structures}, shared, ordered=labels is not None)
    return LabelMap(data, masks.geometry, found, (*masks.warnings, *notes))


def _own_labels(masks: NamedMasks) -> Labels:
    try:
        return Labels.from_mapping({"background": 0, **{name: n for n, name in enumerate(masks.names, 1)}})
    except ConfigError as error:
        raise DataError(f"{masks.source}: its structures cannot be labels: {error}") from None


def same_name(name: str) -> str:
    """What two spellings of one name share: letter case, spaces, ``_`` and ``-`` do not count."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _matched(masks: NamedMasks, labels: Labels) -> tuple[dict[int, int], list[str]]:
    """``{number of the mask: value}`` and notes on what has no partner. Raises DataError where a partner is in doubt."""
    theirs: dict[str, int] = {}
    for number, name in enumerate(masks.names):
        if same_name(name) in theirs:
            raise DataError(
                f"{masks.source}: two structures are called {_shown(masks.names[theirs[same_name(name)]])} and {_shown(name)}, "
                "which is one name (letter case, spaces, _ and - do not count); rename one of them"
            )
        theirs[same_name(name)] = number
    chosen = {theirs[same_name(s.name)]: s.value for s in labels.structures if same_name(s.name) in theirs}
    missing = [s.name for s in labels.structures if same_name(s.name) not in theirs]
    extra = [name for number, name in enumerate(masks.names) if number not in chosen]
    if missing and extra:
        raise DataError(
            f"{masks.source}: its structures {_listed(extra)} are not in the labels, which name {_listed(missing)} that it "
            "does not have: is one of them the other under another name? Rename it in the labels or in the file, or "
            "take it out of one of them"
        )
    notes = [f"structures set aside, not in the labels: {_listed(extra)}"] if extra else []
    notes += [f"no structure {_shown(name)} in the reference: taken as empty" for name in missing]
    return chosen, notes


def _overlaps(
    masks: NamedMasks, names: dict[int, str], shared: Counter[tuple[int, int]], *, ordered: bool
) -> list[str]:
    if not shared:
        return []
    pairs = ", ".join(
        f"{_shown(names[a])} and {_shown(names[b])} in {n} voxel(s)" for (a, b), n in shared.most_common(5)
    )
    if not ordered:
        raise DataError(
            f"{masks.source}: structures overlap ({pairs}), and a label map holds one of them a voxel; give labels, "
            "whose order decides: the structure with the larger value keeps the voxel"
        )
    return [f"structures overlap ({pairs}): the one with the larger label value keeps the voxel"]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(_shown, names[:_LISTED])) + more


def _shown(name: str) -> str:
    return repr("".join(c if c.isprintable() else "?" for c in name[:64]))
