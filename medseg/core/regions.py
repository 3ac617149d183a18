"""Regions: structures taken together as one target of the network, so that targets may overlap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medseg.core.errors import ConfigError


@dataclass(frozen=True)
class Region:
    """Structures that one output of a network finds together.

    ``writes`` is the structure that the region's voxels get in a label map, unless a later region claims them too.
    """

    name: str
    structures: tuple[str, ...]
    writes: str


def regions_from(mapping: Mapping[str, Sequence[str]], names: Sequence[str]) -> tuple[Region, ...]:
    """``{region: structures}`` in the order of writing, the outermost first; ``names`` are all structures.

    A region writes the one of its structures that no later region holds, as nnU-Net's regions_class_order does
    (doi:10.1038/s41592-020-01008-z). Raises ConfigError where that is not exactly one, where a structure is unknown or in
    no region, or where a region has the name of a structure and holds others.

    >>> [r.writes for r in regions_from({"whole": ["liver", "tumour"], "tumour": ["tumour"]}, ["liver", "tumour"])]
    ['liver', 'tumour']
    """
    found = []
    for name, structures in mapping.items():
        _check(name, structures, names)
        later = list(mapping)[list(mapping).index(name) + 1 :]
        own = [s for s in structures if not any(s in mapping[other] for other in later)]
        if not own:
            raise ConfigError(
                f"regions: every structure of {name!r} is in a later region, which would overwrite it; write the larger "
                "regions first and no region twice"
            )
        if len(own) > 1:
            raise ConfigError(
                f"regions: {' and '.join(own)} of {name!r} are told apart by no later region; add one, such as "
                f"`{own[1]}: [{own[1]}]`"
            )
        found.append(Region(name, tuple(structures), own[0]))
    nowhere = [name for name in names if mapping and not any(name in structures for structures in mapping.values())]
    if nowhere:
        raise ConfigError(
            f"regions: {nowhere[0]!r} is in no region and would not be learnt; add it, such as `{nowhere[0]}: [{nowhere[0]}]`"
        )
    return tuple(found)


def _check(name: str, structures: Sequence[str], names: Sequence[str]) -> None:
    if not name.strip() or not name.isprintable():
        raise ConfigError(f"regions: {name!r} is no name; give the region of {', '.join(structures)} one")
    if not structures or len(set(structures)) < len(structures):
        raise ConfigError(f"regions: {name!r} is {list(structures)}; list each of its structures once")
    for structure in structures:
        if structure not in names:
            raise ConfigError(
                f"regions: {name!r} holds {structure!r}, which labels do not name; choose from {', '.join(names)}"
            )
    if name in names and tuple(structures) != (name,):
        raise ConfigError(f"regions: {name!r} is a structure, but the region holds {', '.join(structures)}; rename it")
