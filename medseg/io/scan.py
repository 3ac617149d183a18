"""What was read: a volume, and the DICOM frames it was made of, for results that refer to them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from medseg.core.errors import ConfigError
from medseg.core.volume import Volume

if TYPE_CHECKING:
    from medseg.io.dicom_frames import Frame

MAX_VOXELS = 2**31
OnGap = Literal["refuse", "resample"]
ChannelGrids = Literal["refuse", "resample"]


@dataclass(frozen=True)
class ReadOptions:
    """How to read a scan.

    ``series``: the SeriesInstanceUID, or the number in the list that the refusal prints, of the series that is meant where
    a place holds several. ``on_gap``: what to do where slices are missing or unevenly spaced: refuse, or resample onto an
    even grid. ``max_voxels``: the most voxels, channels included, that a header may claim. ``channel_grids``: what to do
    where a channel lies on another grid than the first: refuse, or resample it onto that grid. ``max_memory``: the bytes that
    this process may hold; what cannot fit is refused before it is read. Raises ConfigError for anything else.
    """

    series: str | None = None
    on_gap: OnGap = "refuse"
    max_voxels: int = MAX_VOXELS
    channel_grids: ChannelGrids = "refuse"
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.series, str | None):
            raise ConfigError(f"series {self.series!r}: give a SeriesInstanceUID, or a number of the list, in quotes")
        for name in ("on_gap", "channel_grids"):
            if (value := getattr(self, name)) not in ("refuse", "resample"):
                raise ConfigError(f"{name} {value!r} is unknown; choose refuse or resample")
        if not isinstance(self.max_voxels, int) or isinstance(self.max_voxels, bool) or self.max_voxels < 1:
            raise ConfigError(f"max_voxels {self.max_voxels!r}: give a whole number above 0")


DEFAULTS = ReadOptions()


@dataclass(frozen=True, eq=False)
class Scan:
    """A ``volume`` and, where it came from DICOM, its ``frames``: frame n lies on the plane ``planes[n]`` of axis k.

    ``planes`` counts up from 0 by one, except where missing slices were filled in; slices that then lie on no plane are not
    among the ``frames``. ``flat`` is True for a 2D picture.
    """

    volume: Volume
    frames: "tuple[Frame, ...]" = ()
    planes: tuple[int, ...] = ()
    flat: bool = False

    @property
    def patient_id(self) -> str:
        """The DICOM PatientID; empty where the format knows none."""
        return str(self.frames[0].header.dataset.get("PatientID", "") or "").strip() if self.frames else ""
