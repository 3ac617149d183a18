"""nnU-Net's plans and labels as medseg's plan: the same decisions, in the axes of RAS storage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from medseg.core.component import Component
from medseg.core.errors import ConfigError, ModelError
from medseg.core.labels import Labels
from medseg.core.plan import Feed, Fingerprint, ForegroundIntensity, Intensity, PlannedRegion, Resampling
from medseg.models.importers.nnunet_files import Configuration, Dataset, DatasetFingerprint, IntensityProperties, Plans

# nnU-Net's readers -> the orientation in which the network sees a file; None: as the file is stored.
READERS: dict[str, str | None] = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
    "NaturalImage2DIO": "LPS",  # rows run down, columns to the viewer's right, as medseg places a picture
}
# Options that medseg has with one value only.
RESAMPLING_OPTIONS: dict[str, dict[str, Any]] = {
    "resample_data_or_seg_to_shape": {"is_seg": False},
    "resample_torch_fornnunet": {"is_seg": False, "mode": "linear", "aniso_axis_mode": "nearest-exact"},
}
HARMLESS = ("num_threads", "memefficient_seg_resampling", "device")
MR_NAMES = ("mr", "t1", "t2", "flair", "adc", "dwi", "pd", "cbf", "cbv")

T = TypeVar("T")


@dataclass(frozen=True)
class Axes:
    """Where the axes of nnU-Net's arrays lie: its transposed axis n is medseg's axis ``ours[n]``; ``orientation`` of i, j, k."""

    ours: tuple[int, int, int]
    orientation: str

    def spread(self, values: Sequence[T]) -> tuple[T, T, T]:
        """Three values in nnU-Net's transposed order, in medseg's."""
        i, j, k = (values[self.ours.index(axis)] for axis in range(3))
        return i, j, k

    def kernel(self, dimensions: int) -> tuple[int, ...]:
        """For each axis of our kernels, the axis of nnU-Net's; a 2D network's are the two that are no slice axis."""
        seen = self.ours if dimensions == 3 else self.ours[1:]
        return tuple(seen.index(axis) for axis in sorted(seen))


def axes_of(plans: Plans, asked: str | None) -> tuple[Axes, bool]:
    """The axes, and whether the orientation is known (else RAS is taken). Raises ModelError for a reader medseg has not.

    nnU-Net reads a file as (z, y, x) of its storage, then transposes.
    """
    reader = plans.image_reader_writer
    if reader not in READERS:
        raise ModelError(f"the reader {reader} is not one that medseg has; it has {', '.join(READERS)}")
    known = asked or READERS[reader]
    stored = known or "RAS"
    worlds = [next((w for w, pair in enumerate(("RL", "AP", "SI")) if letter in pair), -1) for letter in stored]
    if sorted(worlds) != [0, 1, 2]:
        raise ModelError(f"--orientation {stored}: expected three letters such as RAS or LPS, one of each pair")
    if sorted(plans.transpose_forward) != [0, 1, 2]:
        raise ModelError(f"transpose_forward is {plans.transpose_forward}; expected 0, 1 and 2 in some order")
    i, j, k = (worlds[2 - axis] for axis in plans.transpose_forward)
    letters = "".join(stored[worlds.index(world)] for world in range(3))
    return Axes((i, j, k), letters), known is not None


def feed_of(configuration: Configuration, axes: Axes) -> Feed:
    """How nnU-Net crops, resamples and blends."""
    if configuration.preprocessor_name != "DefaultPreprocessor":
        raise ModelError(f"the preprocessor {configuration.preprocessor_name} is not one that medseg has")
    functions = (configuration.resampling_fn_data, configuration.resampling_fn_probabilities)
    if "no_resampling_hack" in functions:
        raise ModelError("the plans resample with no_resampling_hack, which medseg does not have")
    return Feed(
        orientation=axes.orientation,
        crop="nonzero",
        native_axes=(axes.ours[0],) if len(configuration.patch_size) == 2 else (),
        image=_resampling("resampling_fn_data", functions[0], configuration.resampling_fn_data_kwargs, most=3),
        logits=_resampling(
            "resampling_fn_probabilities", functions[1], configuration.resampling_fn_probabilities_kwargs, most=1
        ),
        blend="nnunet",
        window_axes=axes.ours,
    )


def _resampling(key: str, function: str, options: Mapping[str, Any], *, most: int) -> Resampling:
    if function not in RESAMPLING_OPTIONS:
        raise ModelError(f"{key} is {function}, which medseg does not have; it has {', '.join(RESAMPLING_OPTIONS)}")
    fixed, by_torch = RESAMPLING_OPTIONS[function], function == "resample_torch_fornnunet"
    order, order_thick = (1, 0) if by_torch else (options.get("order", 3), options.get("order_z", 0))
    separate = options.get(
        "force_separate_z", None if by_torch else False
    )  # as the function has it where plans are silent
    read = {
        "force_separate_z",
        "separate_z_anisotropy_threshold",
        *HARMLESS,
        *(() if by_torch else ("order", "order_z")),
    }
    wrong = [
        name for name, value in options.items() if name not in read and (name not in fixed or value != fixed[name])
    ]
    if order not in (0, 1, 3) or order > most or order_thick not in (0, 1, 3) or order_thick > most:
        wrong.append("order" if order_thick in (0, 1) else "order_z")
    if separate not in (None, False):
        wrong.append("force_separate_z")
    if wrong:
        raise ModelError(f"{key} has {wrong[0]}: {options.get(wrong[0])!r}, which medseg does not have")
    thick = None if separate is False else options.get("separate_z_anisotropy_threshold", 3.0)
    return Resampling(order=order, order_thick=order_thick, thick=thick, float16=not by_torch and most == 1)


def mirror_axes_of(facts: Mapping[str, Any], axes: Axes, dimensions: int) -> list[int]:
    """The axes that nnU-Net's training mirrored, as medseg counts them. Raises ModelError for what is none."""
    given = facts.get("mirror_axes") or []
    if not isinstance(given, list) or not all(type(axis) is int and 0 <= axis < dimensions for axis in given):
        raise ModelError(
            f"the checkpoint's inference_allowed_mirroring_axes are {given!r}; expected axes below {dimensions}"
        )
    lead = 3 - dimensions  # those of a 2D network count from its own first axis
    return sorted({axes.ours[lead + axis] for axis in given})


def intensities_of(configuration: Configuration, plans: Plans, channels: int) -> tuple[Intensity, ...]:
    """nnU-Net's normalisation of each channel."""
    schemes, masks = configuration.normalization_schemes, configuration.use_mask_for_norm
    if len(schemes) != channels or len(masks) != channels:
        raise ModelError(f"normalization_schemes has {len(schemes)} entries for {channels} channel(s)")
    return tuple(
        _intensity(scheme, mask, plans.foreground_intensity_properties_per_channel.get(str(n)))
        for n, (scheme, mask) in enumerate(zip(schemes, masks, strict=True))
    )


def _intensity(scheme: str, mask: bool, measured: IntensityProperties | None) -> Intensity:
    if scheme == "ZScoreNormalization":
        return Intensity(scheme=Component(name="z_score"), within="nonzero" if mask else "scan")
    if scheme == "CTNormalization":
        if measured is None:
            raise ModelError("CTNormalization needs foreground_intensity_properties_per_channel, which is missing")
        window = {
            "lower": measured.percentile_00_5,
            "upper": measured.percentile_99_5,
            "mean": measured.mean,
            "sd": measured.std,
        }
        return Intensity(scheme=Component(name="ct_window", options=window))
    others = {"NoNormalization": "none", "RescaleTo01Normalization": "unit_range", "RGBTo01Normalization": "divided"}
    if scheme not in others:
        raise ModelError(f"the normalisation {scheme} is not one that medseg has")
    return Intensity(scheme=Component(name=others[scheme]))


def labels_of(dataset: Dataset) -> tuple[dict[str, int], tuple[PlannedRegion, ...], int | None]:
    """Structures, regions in the order of writing, and the ignored value.

    nnU-Net names regions, not the values that a label map of them holds: a value is called after the region that writes it,
    ``A_without_B`` where a later region B takes a part of it away.
    """
    content = dict(dataset.labels)
    ignore = content.pop("ignore", None)
    if isinstance(ignore, list):
        raise ModelError(f"dataset.json: the ignore label is {ignore}; expected one number")
    if content.get("background") != 0:
        raise ModelError("dataset.json: labels must hold background: 0")
    values = {name: sorted(set(v)) if isinstance(v, list) else [v] for name, v in content.items()}
    regions = {name: found for name, found in values.items() if found != [0]}
    try:
        if all(len(found) == 1 for found in values.values()):
            mapping = {name: found[0] for name, found in values.items()}
            if sorted(mapping.values()) != list(range(len(mapping))):
                raise ModelError(f"dataset.json: labels {mapping} must count up from 0 without a gap")
            Labels.from_mapping(mapping, None, ignore)
            return mapping, (), ignore
        return (*_region_labels(regions, dataset.regions_class_order), ignore)
    except ConfigError as error:
        raise ModelError(f"dataset.json: {error}") from None


def _region_labels(
    regions: Mapping[str, list[int]], writes: list[int] | None
) -> tuple[dict[str, int], tuple[PlannedRegion, ...]]:
    if writes is None or len(writes) != len(regions):
        raise ModelError(
            f"dataset.json: regions_class_order is {writes}; expected one value for each of {list(regions)}"
        )
    names: dict[int, str] = {}
    later = dict(regions)
    for (region, held), value in zip(regions.items(), writes, strict=True):
        del later[region]
        if value not in held or any(value in its for its in later.values()):
            raise ModelError(
                f"dataset.json: regions_class_order {writes} writes {value} for {region} {held}; medseg needs a value that "
                "is of this region and of no later one"
            )
        taken = [other for other, its in later.items() if set(its) & set(held)]
        outermost = [one for one in taken if not any(set(regions[one]) < set(regions[other]) for other in taken)]
        names[value] = region if len(held) == 1 else "_without_".join([region, *outermost])
    mapping = {"background": 0} | {names[value]: value for value in sorted(names)}
    unnamed = sorted({value for held in regions.values() for value in held} - set(names))
    if unnamed or len(mapping) != len(regions) + 1:
        raise ModelError(
            f"dataset.json: regions_class_order {writes} does not write each value of {dict(regions)} once"
        )
    planned = tuple(
        PlannedRegion(
            name=name if len(held) == 1 or name not in mapping else f"{name} (whole)",
            structures=tuple(names[v] for v in held),
        )
        for name, held in regions.items()
    )
    Labels.from_mapping(mapping, {one.name: one.structures for one in planned})
    return mapping, planned


def modality_of(channel_names: Sequence[str]) -> str:
    """CT or MR where every channel's name says so, else other."""
    words = [name.lower() for name in channel_names]
    if all(word == "ct" or word.startswith("ct_") for word in words):
        return "CT"
    return "MR" if all(word.startswith(MR_NAMES) for word in words) else "other"


def fingerprint_of(found: DatasetFingerprint, axes: Axes, plans: Plans, channel_names: tuple[str, ...]) -> Fingerprint:
    """nnU-Net's measurements of its training data; what it does not measure stays empty."""
    order = plans.transpose_forward
    spacings = tuple(axes.spread([row[axis] for axis in order]) for row in found.spacings)
    shapes = tuple(axes.spread([row[axis] for axis in order]) for row in found.shapes_after_crop)
    middle = len(shapes) // 2
    i, j, k = (sorted(shape[axis] for shape in shapes)[middle] for axis in range(3))
    measured = found.foreground_intensity_properties_per_channel
    return Fingerprint(
        cases=len(shapes),
        channels=len(channel_names),
        channel_names=channel_names,
        median_shape=(i, j, k),
        spacings_mm=spacings,
        shapes=shapes,
        foreground=tuple(
            ForegroundIntensity(
                mean=one.mean,
                sd=one.std,
                percentile_0_5=one.percentile_00_5,
                percentile_99_5=one.percentile_99_5,
                minimum=one.min,
                maximum=one.max,
            )
            for one in (measured[key] for key in sorted(measured))
        ),
        voxels_per_structure={},
        cases_per_structure={},
    )
