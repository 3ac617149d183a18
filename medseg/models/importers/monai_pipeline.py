"""The transforms and windows before the network of a MONAI bundle, as parts of a plan, or refused by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medseg.core.component import Component
from medseg.core.errors import ModelError
from medseg.models.importers.monai_config import BundleConfig, Part

UNBOUNDED = 3e38  # of a window that does not clip
SMALLEST_SD = 1e-6  # that intensities are divided by
NO_MATTER = ("meta_keys", "meta_key_postfix", "allow_missing_keys", "image_only", "track_meta", "to_tensor", "device")
HARMLESS = (
    "LoadImage",
    "EnsureChannelFirst",
    "EnsureType",
    "CastToType",
    "ToTensor",
    "ToDevice",
    "FromMetaTensor",
    "AddChannel",
)


@dataclass(frozen=True)
class Before:
    """How a scan becomes the network's input. ``spacing_mm`` None: nothing is resampled; ``orientation`` None: as it is stored."""

    orientation: str | None = None
    spacing_mm: tuple[float, float, float] | None = None
    normalise: Literal["before", "after"] = "after"
    intensity: tuple[Component, ...] = ()

    @property
    def scheme(self) -> Component:
        """The intensities' transforms as one scheme."""
        if len(self.intensity) == 1:
            return self.intensity[0]
        steps = [{"name": one.name, **one.options} for one in self.intensity]
        return Component(name="in_turn", options={"steps": steps}) if steps else Component(name="none")


class Options:
    """The options of one transform, worked out one by one; what nobody asked for is refused."""

    def __init__(self, config: BundleConfig, part: Part, where: str, key: str = "") -> None:
        self.config, self.part, self.where = config, part, f"{where}: {part.name}"
        keys = config.value(part.options.get("keys", key), f"{self.where}: keys")
        self.keys: list[Any] = keys if isinstance(keys, list) else [keys]
        self.place = self.keys.index(key) if key in self.keys else None
        self.left = {name: node for name, node in part.options.items() if name not in (*NO_MATTER, "keys")}

    def check_keys(self, *there: str) -> bool:
        """Whether this changes the image; if not it must do without it, or name others that are ``there``. Raises ModelError."""
        without = self.config.value(
            self.part.options.get("allow_missing_keys", False), f"{self.where}: allow_missing_keys"
        )
        unknown = [key for key in self.keys if key not in there]
        if self.place is None and unknown and without is not True:
            raise self.error(f"has keys: {unknown[0]!r}, which nothing before it makes; there is {' and '.join(there)}")
        return self.place is not None

    def take(self, name: str, default: Any = None) -> Any:
        """The value of ``name``; of a list with one value for each of several keys that of ours."""
        if name not in self.left:
            return default
        value = self.config.value(self.left.pop(name), f"{self.where}: {name}")
        if isinstance(value, list) and len(value) == len(self.keys) and self.place is not None:
            return value[self.place]
        return value

    def whole(self, name: str) -> Any:
        """The value of ``name``, which holds for every key."""
        return self.config.value(self.left.pop(name, None), f"{self.where}: {name}")

    def fixed(self, **wanted: Any) -> None:
        """Refuse another value than that of ``wanted``."""
        for name, expected in wanted.items():
            if (value := self.take(name, expected)) != expected:
                raise self.error(f"has {name}: {value!r}, which medseg does not have; only {expected!r}")

    def number(self, name: str, default: float | None = None) -> float:
        return self.checked(name, default if (given := self.take(name)) is None else given)

    def checked(self, name: str, value: Any) -> float:
        """``value`` of ``name`` as a number. Raises ModelError."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < UNBOUNDED:
            raise self.error(f"has {name}: {value!r}; expected a number")
        return float(value)

    def done(self) -> None:
        for name, node in self.left.items():
            raise self.error(f"has {name}: {str(node)[:60]!r}, which medseg does not have")

    def error(self, words: str) -> ModelError:
        return self.config.error(f"{self.where} {words}")


def before_of(config: BundleConfig, image: str, channels: int) -> Before:
    """The transforms of ``preprocessing``. Raises ModelError naming the first that a plan cannot say."""
    found = Before()
    moved = loaded = False
    for part in config.parts(config.content.get("preprocessing"), "preprocessing"):
        name = plain_name(part)
        options = Options(config, part, "preprocessing", image)
        if not options.check_keys(image):
            continue
        loaded |= name == "LoadImage"
        if name in HARMLESS:
            _check_harmless(options)
            continue
        if name not in BEFORE or not is_monais(part):
            raise options.error(
                f"is not a transform that medseg has; it has {', '.join((*HARMLESS, *BEFORE))} for dictionaries"
            )
        if name == "Spacing":
            found = replace(found, normalise="before" if found.intensity else "after")
            moved = bool(found.intensity)
        elif moved and name != "Orientation":
            raise options.error(
                "comes after Spacingd, and another transform of the intensities before it: medseg has no plan for both"
            )
        found = BEFORE[name](found, options, channels)
        options.done()
    if not loaded:
        raise config.error(f"preprocessing: no LoadImaged for {image!r}, the input that metadata.json names")
    return found


def _check_harmless(options: Options) -> None:
    """Raise ModelError where a transform that only carries the image changes its values or its axes after all."""
    dtype, axis = str(options.take("dtype", "float32")), options.take("channel_dim")
    if dtype not in ("float32", "float64", "float", "None"):
        raise options.error(f"has dtype: {dtype!r}, which cuts intensities off; only float32 is the same as medseg's")
    if axis not in (None, "no_channel", 0):
        raise options.error(f"has channel_dim: {axis!r}, which medseg does not have")


def _orientation(found: Before, options: Options, channels: int) -> Before:
    codes = options.take("axcodes")
    options.fixed(as_closest_canonical=False, labels=None, lazy=False)
    if codes not in ("RAS", "LAS", "RPS", "RAI", "LPS", "LAI", "RPI", "LPI"):
        raise options.error(
            f"has axcodes: {codes!r}; medseg feeds a network with its axes in the order of RAS, such as RAS or LPS"
        )
    if found.spacing_mm is not None:
        raise options.error(
            "comes after Spacingd, whose spacing then belongs to other axes; medseg has no plan for that"
        )
    return replace(found, orientation=codes)


def _spacing(found: Before, options: Options, channels: int) -> Before:
    values = options.whole("pixdim")
    values = values if isinstance(values, list) else [values]
    options.fixed(mode="bilinear", padding_mode="border", diagonal=False, align_corners=False, scale_extent=False)
    options.fixed(recompute_affine=False, min_pixdim=None, max_pixdim=None, lazy=False)
    options.take("dtype")
    values = [*values, *values[-1:] * (3 - len(values))]
    if len(values) != 3 or not all(isinstance(v, int | float) and 0 < v <= 1000 for v in values):
        raise options.error(f"has pixdim: {values}; expected three spacings in mm")
    if found.spacing_mm is not None:
        raise options.error("comes twice")
    i, j, k = map(float, values)
    return replace(found, spacing_mm=(i, j, k))


def _scale_range(found: Before, options: Options, channels: int) -> Before:
    low, high = options.number("a_min"), options.number("a_max")
    to_low, to_high = options.number("b_min", 0.0), options.number("b_max", 1.0)
    clip = options.take("clip", False) and "b_min" in options.part.options
    options.take("dtype")
    sd = _sd(options, (low, high), (to_low, to_high))
    window = {"lower": low, "upper": high} if clip else {"lower": -UNBOUNDED, "upper": UNBOUNDED}
    return _with(found, "ct_window", **window, mean=low - to_low * sd, sd=sd)


def _sd(options: Options, ends: tuple[float, float], wanted: tuple[float, float]) -> float:
    """What intensities are divided by for ``ends`` to become ``wanted``."""
    (low, high), (to_low, to_high) = ends, wanted
    if not (low < high and to_low < to_high):
        raise options.error(f"maps {low:g} to {high:g} onto {to_low:g} to {to_high:g}; both must rise")
    if not SMALLEST_SD <= (sd := (high - low) / (to_high - to_low)) < UNBOUNDED:
        raise options.error(f"divides by {sd:g}; expected {SMALLEST_SD:g} or more, as medseg divides by no less")
    return sd


def _scale(found: Before, options: Options, channels: int) -> Before:
    low, high = options.number("minv", 0.0), options.number("maxv", 1.0)
    options.fixed(factor=None)
    options.take("dtype")
    _each_channel(options, channels)
    return _with(found, "min_max", lower=low, upper=high)


def _percentiles(found: Before, options: Options, channels: int) -> Before:
    low, high = options.number("lower"), options.number("upper")
    to_low, to_high = options.number("b_min"), options.number("b_max")
    options.fixed(clip=True, relative=False)
    if not to_low < to_high:
        raise options.error(f"has b_min: {to_low:g} and b_max: {to_high:g}; they must rise")
    options.take("dtype")
    _each_channel(options, channels)
    sd = _sd(options, (-1.0, 1.0), (to_low, to_high))
    found = _with(found, "percentile", lower=low, upper=high)  # onto -1 to 1
    return _with(found, "ct_window", lower=-1.0, upper=1.0, mean=-1.0 - to_low * sd, sd=sd)


def _normalise(found: Before, options: Options, channels: int) -> Before:
    nonzero = options.take("nonzero", False)
    subtrahend, divisor = options.take("subtrahend"), options.take("divisor")
    options.take("dtype")
    if nonzero not in (True, False, "True"):  # which MONAI takes as text, and any text as true
        raise options.error(f"has nonzero: {nonzero!r}; expected true or false")
    if nonzero and found.spacing_mm is not None:
        raise options.error(
            "has nonzero: true behind Spacingd: MONAI's spline leaves about 5e-13 where a scan is 0, and which voxels that makes "
            "nonzero is its own rounding, which medseg does not have; only false, or before Spacingd"
        )
    if subtrahend is None and divisor is None:
        _each_channel(options, channels)
        return _with(found, "z_score_nonzero" if nonzero else "z_score")
    mean, sd = options.checked("subtrahend", subtrahend), options.checked("divisor", divisor)
    if nonzero or sd < SMALLEST_SD:
        raise options.error(
            f"has subtrahend: {mean:g} and divisor: {sd:g}; medseg has two numbers for all voxels, the divisor {SMALLEST_SD:g} "
            "or more"
        )
    options.take("channel_wise")
    return _with(found, "ct_window", lower=-UNBOUNDED, upper=UNBOUNDED, mean=mean, sd=sd)


def _each_channel(options: Options, channels: int) -> None:
    if options.take("channel_wise", False) not in (True, "True") and channels > 1:
        raise options.error(
            "is measured over all channels together, which medseg does not have; only channel_wise: true"
        )


def _with(found: Before, name: str, **options: Any) -> Before:
    return replace(found, intensity=(*found.intensity, Component(name=name, options=options)))


BEFORE: dict[str, Callable[[Before, Options, int], Before]] = {
    "Orientation": _orientation,
    "Spacing": _spacing,
    "ScaleIntensityRange": _scale_range,
    "ScaleIntensity": _scale,
    "ScaleIntensityRangePercentiles": _percentiles,
    "NormalizeIntensity": _normalise,
}


def plain_name(part: Part) -> str:
    """``Spacing`` of Spacingd, SpacingD and SpacingDict."""
    for ending in ("Dict", "d", "D"):
        if part.name.endswith(ending):
            return part.name.removesuffix(ending)
    return part.name


def is_monais(part: Part) -> bool:
    return part.target == part.name or part.target.startswith("monai.transforms.")


def windows_of(config: BundleConfig) -> tuple[tuple[int, int, int], float, dict[str, Any]]:
    """Of the inferer: the window in voxels, the overlap, and the parts of a plan's feed. Raises ModelError."""
    part = config.part(config.content.get("inferer"), "inferer")
    options = Options(config, part, "inferer")
    if part.name != "SlidingWindowInferer" or not (part.target == part.name or part.target.startswith("monai.")):
        raise options.error("is not an inferer that medseg has; it has SlidingWindowInferer")
    size, overlap = options.whole("roi_size"), options.take("overlap", 0.25)
    sizes: Sequence[Any] = size if isinstance(size, list) else [size] * 3
    overlaps = overlap if isinstance(overlap, list) else [overlap]
    if len(sizes) != 3 or not all(isinstance(n, int) and 0 < n <= 4096 for n in sizes):
        raise options.error(f"has roi_size: {size!r}; expected three numbers of voxels")
    if (
        not all(isinstance(one, int | float) for one in overlaps)
        or len({*overlaps}) != 1
        or not 0 <= overlaps[0] <= 0.9
    ):
        raise options.error(f"has overlap: {overlap!r}; expected one share from 0 to 0.9")
    if (mode := options.take("mode", "constant")) not in ("constant", "gaussian"):
        raise options.error(f"has mode: {mode!r}, which medseg does not have; only 'constant' and 'gaussian'")
    options.fixed(padding_mode="constant", sigma_scale=0.125, cval=0, roi_weight_map=None, with_coord=False)
    for name in (
        "sw_batch_size",
        "progress",
        "cache_roi_weight_map",
        "cpu_thresh",
        "buffer_steps",
        "buffer_dim",
        "sw_device",
    ):
        options.left.pop(name, None)
    options.done()
    feed = {"starts": "fixed", "blend": "monai" if mode == "gaussian" else mode}
    i, j, k = sizes
    return (i, j, k), float(overlaps[0]), feed
