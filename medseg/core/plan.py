"""The fingerprint (measured) and the plan (decided); both go to JSON and back without loss."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.core.component import Component
from medseg.core.errors import ConfigError, ModelError
from medseg.core.labels import Labels

FORMAT_VERSION = 2  # what a version adds has a default, so that older plans load
MAX_PATCH_VOXELS = 2**28
Count = Annotated[int, Field(ge=1)]
Axis = Annotated[int, Field(ge=0, le=2)]
Size = Annotated[int, Field(ge=1, le=4096)]
Mm = Annotated[float, Field(gt=0, le=1000)]
Triple = tuple[int, int, int]
TripleMm = tuple[float, float, float]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Intensity(_Frozen):
    """How one channel's intensities become the network's input: an entry of INTENSITIES with measured options."""

    scheme: Component
    within: Literal["scan", "nonzero"] = Field(
        default="scan",
        description="nonzero: from and for the voxels that are 0 in no channel, and holes in them; others stay",
    )


class Resampling(_Frozen):
    """Spline orders (0 nearest, 1 linear, 3 cubic) between a scan's grid and the plan's.

    Where the voxels of the scan, or else of the plan, are more than ``thick`` times as long along one axis as along
    another, that axis goes by ``order_thick`` and on its own; None: never. ``float16``: where the values came in float16,
    what comes out is rounded to it.
    """

    order: Annotated[int, Field(ge=0, le=3)]
    order_thick: Annotated[int, Field(ge=0, le=3)]
    thick: Annotated[float, Field(ge=1)] | None = 3.0
    float16: bool = False


class Feed(_Frozen):
    """How a scan is fed to the network and how logits come back: the defaults are medseg's own way, others an import's.

    ``orientation``: the directions of i, j, k that the network saw in training. ``crop``: to the box of what is not 0;
    outside it all is background. ``native_axes`` keep the scan's own voxels. ``grid``: the plan's has the scan's outer faces,
    or is MONAI's, there and back linearly. ``normalise``: intensities before resampling or, on MONAI's grid, after.
    ``image`` and ``logits``: None is medseg's way (cubic, linear along thick axes; logits linear). ``starts``: windows evenly
    spaced, or as far apart as the overlap says, but for the last. ``blend``: how windows are weighted where they overlap;
    ``window_axes``: the axes along which windows follow each other, slowest first, where the roundings of their sums matter.
    ``outputs``: what comes back to the scan's grid.
    """

    orientation: Annotated[str, Field(pattern="^[RL][AP][SI]$")] = "RAS"
    crop: Literal["none", "nonzero"] = "none"
    native_axes: tuple[Axis, ...] = ()
    grid: Literal["faces", "monai"] = "faces"
    normalise: Literal["before", "after"] = "before"
    image: Resampling | None = None
    logits: Resampling | None = None
    starts: Literal["even", "fixed"] = "even"
    blend: Literal["gaussian", "nnunet", "monai", "constant"] = "gaussian"
    outputs: Literal["logits", "probabilities"] = "logits"
    window_axes: tuple[Axis, Axis, Axis] | None = None


class ForegroundIntensity(_Frozen):
    """Intensities inside the structures over all training cases, of one channel."""

    mean: float
    sd: float
    percentile_0_5: float
    percentile_99_5: float
    minimum: float
    maximum: float


class Arranged(_Frozen):
    """In every training case the centre of ``upper`` had the larger world coordinate on ``axis``, by ``gap_mm`` at least."""

    lower: str
    upper: str
    axis: Axis
    gap_mm: float


class Fingerprint(_Frozen):
    """What was measured on the training cases, all in RAS storage order."""

    cases: int
    channels: int
    channel_names: tuple[str, ...] = Field((), description="in the order of the input; empty where nothing names them")
    median_shape: Triple
    spacings_mm: tuple[TripleMm, ...]
    shapes: tuple[Triple, ...]
    foreground: tuple[ForegroundIntensity, ...]
    voxels_per_structure: dict[str, float] = Field(description="mean number of voxels in the cases that hold it")
    cases_per_structure: dict[str, int]
    volumes_ml: dict[str, tuple[float, float]] = Field(
        default={}, description="smallest and largest in the cases that hold it"
    )
    arrangement: tuple[Arranged, ...] = Field(
        default=(), description="which structures always lie on one side of which"
    )
    ignored_voxels: int = Field(default=0, description="in all cases together: voxels that nobody annotated")


class PlannedRegion(_Frozen):
    """Structures that one output of the network finds together; a plan lists them in the order of writing."""

    name: str
    structures: tuple[str, ...]


class Plan(_Frozen):
    """Every decision of a training run; nothing is left open. Spatial triples follow i, j, k of RAS storage.

    ``slice_axis`` is the axis that a 2D network takes apart; None for a 3D network. ``patch_size`` is 1 along it.
    """

    format_version: int = FORMAT_VERSION
    dimensions: Literal[2, 3]
    slice_axis: Axis | None
    spacing_mm: tuple[Mm, Mm, Mm]
    patch_size: tuple[Size, Size, Size]
    batch_size: Count
    architecture: Component
    channels: Count
    channel_names: tuple[str, ...] = Field((), description="in the order of the input; empty where nothing names them")
    channel_grids: Literal["refuse", "resample"] = Field(
        "refuse", description="a channel on another grid than the first"
    )
    labels: dict[str, int]
    regions: tuple[PlannedRegion, ...] = Field(default=(), description="what the network finds instead of structures")
    ignore: int | None = Field(
        default=None, description="value of the voxels that nobody annotated; None: there are none"
    )
    modality: str
    intensity: tuple[Intensity, ...]
    feed: Feed = Feed()
    loss: Component
    optimizer: Component
    schedule: Component
    learning_rate: float
    steps: Count
    validate_every: Count
    validation_cases: int = Field(description="cases per validation while training; the last one takes all")
    ema: float
    foreground_fraction: float
    sampling: dict[str, float] = Field(
        default={}, description="how likely a patch shows a structure; 1 where it is not named"
    )
    mirror_axes: tuple[Axis, ...]
    augmentation: tuple[Component, ...] = ()
    precision: Literal["f32", "bf16", "fp16"]
    accumulate: Count = Field(1, description="passes of batch_size patches in a step; their gradients are averaged")
    processes: Count = Field(1, description="processes that share a step, each with its own passes")
    clip: float | None = Field(12.0, description="largest norm of a step's gradient; None: any")
    compile: bool = False
    seed: int
    reasons: dict[str, str]

    @property
    def patches_per_step(self) -> int:
        """Patches that one update of the weights has seen."""
        return self.batch_size * self.accumulate * self.processes

    @model_validator(mode="before")
    @classmethod
    def _known_version(cls, value: Any) -> Any:
        if isinstance(value, dict):
            found = value.get("format_version", FORMAT_VERSION)
            if not isinstance(found, int) or found > FORMAT_VERSION:
                raise ModelError(
                    f"plan format version {found} is newer than this medseg reads ({FORMAT_VERSION}); upgrade medseg"
                )
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Plan":
        if len(self.intensity) != self.channels:
            raise ValueError(f"intensity has {len(self.intensity)} entries for {self.channels} channel(s)")
        if (self.dimensions == 2) != (self.slice_axis is not None):
            raise ValueError(f"slice_axis {self.slice_axis} does not fit {self.dimensions} dimensions")
        if self.slice_axis is not None and self.patch_size[self.slice_axis] != 1:
            raise ValueError(f"patch_size {self.patch_size} must be 1 along slice_axis {self.slice_axis}")
        try:
            _ = self.structure_labels
        except ConfigError as error:
            raise ValueError(str(error)) from error
        for how in (self.feed.image, self.feed.logits):
            if how is not None and 2 in (how.order, how.order_thick):
                raise ValueError("feed: spline orders are 0 (nearest), 1 (linear) or 3 (cubic)")
        if self.feed.logits is not None and max(self.feed.logits.order, self.feed.logits.order_thick) > 1:
            raise ValueError("feed.logits: logits come back by order 0 (nearest) or 1 (linear) only")
        if self.feed.grid == "monai" and (
            self.feed.image or self.feed.logits or self.feed.native_axes not in ((), (0, 1, 2))
        ):
            raise ValueError("feed: onto MONAI's grid and back it goes linearly, along all axes or none")
        if self.feed.normalise == "after" and self.feed.grid != "monai":
            raise ValueError("feed: intensities are normalised after resampling on MONAI's grid alone")
        if math.prod(self.patch_size) > MAX_PATCH_VOXELS:
            raise ValueError(f"patch_size {self.patch_size} holds more than {MAX_PATCH_VOXELS} voxels")
        return self

    @property
    def structure_labels(self) -> Labels:
        """The structures, regions and ignored value that the network was planned for."""
        return Labels.from_mapping(self.labels, {r.name: r.structures for r in self.regions}, self.ignore)
