"""Structure names and the integers that stand for them on disk; contiguous channels inside."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from medseg.core.errors import ConfigError, DataError
from medseg.core.regions import Region, regions_from

# Okabe and Ito's colours first (told apart by colour-blind readers), then darker and lighter relatives.
PALETTE = (
    "#D55E00", "#0072B2", "#009E73", "#F0E442", "#CC79A7", "#56B4E9", "#E69F00", "#8C564B",
    "#7F3C8D", "#11A579", "#3969AC", "#F2B701", "#E73F74", "#80BA5A", "#E68310", "#A5AA99",
)  # fmt: skip


_SIDES = {"left": "right", "right": "left", "l": "r", "r": "l", "lh": "rh", "rh": "lh"}
_SIDE = re.compile(r"(?<![a-z])(left|right|lh|rh|l|r)(?![a-z])")
_ONE_SIDE = re.compile(r"(?<![a-z0-9])(left|right|lh|rh|l|r)(?![a-z0-9])")  # vertebra L1 has no side


def _words(name: str) -> str:
    """``name`` in lower case, the words of ``KidneyLeft`` apart."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _other_side(name: str) -> str:
    return _SIDE.sub(lambda match: _SIDES[match[1]], name)


def told_apart(names: Sequence[str], values: Sequence[int]) -> list[str]:
    """``names``, those alike in any letter case with their value behind them, so that each can name a file or a row.

    >>> told_apart(["liver", "Lung", "lung", "lung_3"], [1, 2, 3, 4])
    ['liver', 'Lung_2', 'lung_3_', 'lung_3']
    """
    folded = [name.casefold() for name in names]
    taken = {name for name in folded if folded.count(name) == 1}
    found = []
    for name, value in zip(names, values, strict=True):
        if folded.count(name.casefold()) > 1:
            name = f"{name}_{value}"
            while name.casefold() in taken:
                name += "_"
            taken.add(name.casefold())
        found.append(name)
    return found


@dataclass(frozen=True)
class Structure:
    """A named thing to segment: its ``value`` in label maps, its ``colour`` in every picture, its SNOMED CT code if given."""

    name: str
    value: int
    colour: str
    snomed: str | None = None


@dataclass(frozen=True)
class Labels:
    """Structures in the order of their channels (channel 0 is the background), with any integer values.

    ``regions``: where there are any, a network finds them and not the structures. ``ignore``: the value of voxels that
    nobody annotated, which count nowhere; inside it is the channel after those of the structures.

    >>> labels = Labels.from_mapping({"background": 0, "liver": 1, "tumour": 5})
    >>> labels.names, labels.values
    (('liver', 'tumour'), (1, 5))
    >>> labels.to_channels(np.array([0, 5, 1]))
    array([0, 2, 1], dtype=uint8)
    """

    structures: tuple[Structure, ...]
    background: str = "background"
    regions: tuple[Region, ...] = ()
    ignore: int | None = None

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, int], regions: Mapping[str, Sequence[str]] | None = None, ignore: int | None = None
    ) -> "Labels":
        """From ``{name: value}``; the name that holds 0 is the background. ``regions``: see ``regions_from``.

        Raises ConfigError where values repeat, are negative, or nothing holds 0, and where ``ignore`` has a name.
        """
        taken: dict[int, str] = {}
        for name, value in mapping.items():
            if not name.strip() or not name.isprintable():
                raise ConfigError(f"labels: {name!r} is no name; give the structure of value {value} one")
            if value in taken:
                raise ConfigError(
                    f"labels: {taken[value]!r} and {name!r} have the same value {value}; each needs its own"
                )
            if not 0 <= value <= 65535:
                raise ConfigError(f"labels: {name!r} is {value}; values must lie between 0 and 65535")
            taken[value] = name
        if 0 not in taken:
            raise ConfigError("labels: no name holds 0; add the background, such as `background: 0`")
        if len(taken) < 2:
            raise ConfigError("labels: only the background is named; add at least one structure, such as `liver: 1`")
        rest = sorted(value for value in taken if value)
        if ignore is not None and (ignore in taken or not 0 < ignore <= 65535):
            what = f"the value of {taken[ignore]!r}" if ignore in taken else "not between 1 and 65535"
            raise ConfigError(
                f"ignore: {ignore} is {what}; give the value of the voxels that nobody annotated, such as 255"
            )
        structures = (Structure(taken[v], v, PALETTE[n % len(PALETTE)]) for n, v in enumerate(rest))
        return cls(tuple(structures), taken[0], regions_from(regions or {}, [taken[v] for v in rest]), ignore)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.structures)

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(s.value for s in self.structures)

    @property
    def channels(self) -> int:
        """The structures and the background."""
        return len(self.structures) + 1

    @property
    def outputs(self) -> int:
        """Number of network outputs: the regions where there are any, else the channels."""
        return len(self.regions) or self.channels

    @property
    def reference_channels(self) -> int:
        """The channels of a reference: one more where some voxels are to be ignored."""
        return self.channels + (self.ignore is not None)

    @property
    def channel_dtype(self) -> np.dtype[np.uint8 | np.uint16]:
        """uint8 where a reference's channels fit, else uint16."""
        return np.dtype(np.uint8 if self.reference_channels <= 256 else np.uint16)

    @property
    def region_channels(self) -> tuple[tuple[int, ...], ...]:
        """The channels of each region's structures."""
        return tuple(tuple(self.names.index(name) + 1 for name in region.structures) for region in self.regions)

    @property
    def region_writes(self) -> tuple[int, ...]:
        """The channel that each region, in their order, writes into a label map."""
        return tuple(self.names.index(region.writes) + 1 for region in self.regions)

    def annotated_channels(self, annotated: Sequence[str] | None) -> tuple[bool, ...]:
        """For each channel, whether a case in which only the structures ``annotated`` (None: all) were drawn says where it is."""
        return (True, *(annotated is None or name in annotated for name in self.names))

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """uint8 where all values fit, else uint16."""
        return np.dtype(np.uint8 if max(self.values) < 256 else np.uint16)

    @property
    def mirror_swaps(self) -> tuple[int, ...]:
        """For each channel, the channel that it becomes when left and right change sides (itself without a partner).

        Partners differ in the words left and right alone, or l and r, lh and rh, in any letter case: ``kidney_left``,
        ``Left-Hippocampus``, ``KidneyLeft``, ``Kidney L``, ``ctx-lh-insula``.

        >>> Labels.from_mapping({"background": 0, "kidney_left": 1, "kidney_right": 2, "liver": 3}).mirror_swaps
        (0, 2, 1, 3)
        """
        names = [_words(name) for name in self.names]
        partners = [names.index(other) if (other := _other_side(name)) in names else n for n, name in enumerate(names)]
        return (0, *(n + 1 for n in partners))

    @property
    def sided_pairs(self) -> tuple[tuple[str, str], ...]:
        """The structures of the left side with their partners on the right.

        >>> Labels.from_mapping({"background": 0, "kidney_right": 1, "kidney_left": 2, "liver": 3}).sided_pairs
        (('kidney_left', 'kidney_right'),)
        """
        partners = [
            (name, self.names[other - 1]) for name, other in zip(self.names, self.mirror_swaps[1:], strict=True)
        ]
        sides = {name: _SIDE.search(_words(name)) for name in self.names}
        return tuple((a, b) for a, b in partners if a != b and (side := sides[a]) and side[1].startswith("l"))

    @property
    def output_swaps(self) -> tuple[int, ...]:
        """For each network output, the output that it becomes when left and right change sides.

        Raises ConfigError for a structure or region of one side that has no partner.

        >>> Labels.from_mapping({"background": 0, "kidney_left": 1}).output_swaps
        Traceback (most recent call last):
        medseg.core.errors.ConfigError: kidney_left has no partner on the other side among the labels
        """
        swaps = self.mirror_swaps
        here = [frozenset(channels) for channels in self.region_channels]
        there = [frozenset(swaps[channel] for channel in channels) for channels in here]
        alone = [*self.one_sided, *(r.name for r, other in zip(self.regions, there, strict=True) if other not in here)]
        if alone:
            raise ConfigError(f"{', '.join(alone)} has no partner on the other side among the labels")
        return tuple(here.index(other) for other in there) or swaps

    @property
    def one_sided(self) -> tuple[str, ...]:
        """Structures of one side whose partner has no label: mirrored, they would be called what they are not.

        >>> Labels.from_mapping({"background": 0, "left_eye": 1, "vertebra_L1": 2}).one_sided
        ('left_eye',)
        """
        alone = [n for n, other in enumerate(self.mirror_swaps[1:]) if n + 1 == other]
        return tuple(self.names[n] for n in alone if _ONE_SIDE.search(_words(self.names[n])))

    def mapping(self) -> dict[str, int]:
        """``{name: value}`` with the background first."""
        return {self.background: 0, **{s.name: s.value for s in self.structures}}

    @cached_property
    def _channel_of_value(self) -> npt.NDArray[np.int32]:
        values = [0, *self.values, *([] if self.ignore is None else [self.ignore])]
        table = np.full(max(values) + 2, -1, np.int32)
        table[values] = range(self.reference_channels)
        return table

    def to_channels(self, label_map: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8 | np.uint16]:
        """Values on disk -> contiguous channels, same shape; ``ignore`` becomes the last one.

        Raises DataError naming every value without a name.
        """
        values = np.asarray(label_map)
        last = len(self._channel_of_value) - 1
        channels = self._channel_of_value[np.clip(values, 0, last).astype(np.int64)]
        wrong = (channels < 0) | (values < 0) | (values > last)
        if wrong.any():
            unknown = ", ".join(str(v) for v in np.unique(values[wrong])[:8])
            raise DataError(f"label value {unknown} is not in the labels {self.mapping()}")
        return channels.astype(self.channel_dtype)

    def to_values(self, channels: npt.NDArray[np.generic]) -> npt.NDArray[np.unsignedinteger]:
        """Contiguous channels -> values on disk, in ``dtype``; ``channels`` itself where these are its numbers already."""
        table = np.array([0, *self.values], self.dtype)
        if channels.dtype == self.dtype and np.array_equal(table, np.arange(len(table))):
            return np.asarray(channels, self.dtype)
        values = np.empty(channels.shape, self.dtype)
        # Slice by slice: numpy turns the whole index into 8 bytes a voxel.
        for n in range(len(channels)):
            values[n] = table[channels[n]]
        return values
