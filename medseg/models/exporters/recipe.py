"""What stands around an exported network, as JSON: enough to run it without medseg."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from medseg.core.component import Component
from medseg.core.errors import ModelError
from medseg.core.plan import Feed
from medseg.models.bundle import Model
from medseg.models.exporters.onnx_network import INPUT, OUTPUT

FORMAT_VERSION = 1
UNSAID = ("grid", "normalise", "starts", "outputs")  # of a plan's feed
INTENSITIES = {
    "ct_window": "clip to [lower, upper], subtract mean, divide by sd",
    "z_score": "subtract the channel's mean, divide by its standard deviation (population); 0 if that is 0",
    "z_score_nonzero": "the same from and for the voxels that are not 0, which stay 0",
    "percentile": "the channel's percentiles lower and upper (0.5 and 99.5 if not given) become -1 and 1, clipped",
    "unit_range": "the channel's smallest value becomes 0, its largest 1 (all 0 if they are equal)",
    "min_max": "the channel's smallest value becomes lower, its largest upper (0 and 1 if not given); if they are equal, all is "
    "multiplied by lower",
    "in_turn": "its steps one after the other, each a name, or a name with its options",
    "divided": "divide by `by` (255 if not given)",
    "none": "as they are",
}
"""What each scheme of a plan's intensities does."""
HOW = (
    "Store the scan with its axes along `orientation` (voxel axes i, j, k run towards these sides of the patient).",
    "`crop` nonzero: keep the box around what is not 0 in any channel; outside it everything is background.",
    "Normalise each channel by its entry of `intensity`, on the scan's own voxels. "
    + "".join(f"{name}: {words}. " for name, words in INTENSITIES.items())
    + "`within` nonzero: only voxels that are 0 in no channel, and holes.",
    "Resample to round(n * old / new) voxels an axis, at least 1, over the same field of view, axis by axis with a spline as "
    "scipy.ndimage.zoom(mode='nearest', grid_mode=True) does: cubic, but linear along an axis whose voxels are over 3 times "
    "the finest; clip to the range before. `image`, if given, says another way (order, order_thick beyond thick).",
    "Pad with zeros to patch_size where smaller: half before (rounded down), the rest after; cut it off again after blending.",
    "Windows: along each axis of n voxels ceil((n - w) / (w * (1 - overlap))) + 1 starts, evenly spaced from 0 to n - w and "
    "rounded half to even; 1 where n <= w.",
    "Run each network on each window. `mirror`: also on the window reversed along each combination of these axes, the output "
    "reversed back; where axis 0 is among them, channel c is output_swaps[c] of that output; then the mean of all.",
    "Several networks: the mean of their outputs, after softmax (regions: sigmoid) where `ensemble` says probabilities.",
    "Blend windows: sum of weight * output over sum of weights. `blend` gaussian: weights exp(-0.5 * ((x - (w - 1) / 2) / "
    "(w * sigma))^2), multiplied over axes, divided by their largest, and at least `smallest`. nnunet: away = x - w // 2, "
    "exp(-0.5 * (away / (w / 8))^2), 0 where |away| > int(w / 2 + 0.5), multiplied over axes and by 10, as float16; what is 0 "
    "then takes the smallest above 0; divided by 10.",
    "Interpolate outputs linearly back to the scan's grid: source position (x + 0.5) * n_source / n_target - 0.5, clipped to the "
    "source. `outputs`, if given, says another way (order, order_thick beyond thick).",
    "The label is that of the largest output. With `regions`: in their order, each writes its value where its logit is above 0 "
    "(its probability above 0.5).",
    "`refine`, if given: the dense CRF of arXiv:1210.5644 with the image as it is fed, on the scan's grid; medseg does it.",
    "`postprocess`: for each structure the steps on its mask, by name; not needed for a first look.",
)


def recipe(model: Model, files: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of medseg.json for networks in ``files`` (name -> sha256), run with ``settings`` (as JSON has them).

    Raises ConfigError where the settings mirror left and right, and a structure has no partner on the other side, ModelError
    for a plan that feeds its network in a way that the recipe cannot say.
    """
    card, plan, labels = model.card, model.plan, model.plan.structure_labels
    unsaid = [name for name in UNSAID if getattr(plan.feed, name) != getattr(Feed(), name)]
    if unsaid:
        raise ModelError(
            f"{model.folder}: the recipe of an ONNX export has no words for feed.{unsaid[0]}; export --format monai-bundle"
        )
    for scheme in _schemes(channel.scheme for channel in plan.intensity):
        if scheme.name not in INTENSITIES:
            raise ModelError(
                f"{model.folder}: the recipe of an ONNX export has no words for the intensities {scheme.name}"
            )
    swapped = 0 in settings["mirror"] and settings["mirror_labels"] == "swapped"
    swaps: Sequence[int] = labels.output_swaps if swapped else range(labels.outputs)
    channels = [{"name": labels.background, "value": 0}] + [
        {"name": s.name, "value": s.value} for s in labels.structures
    ]
    values = dict(zip(range(labels.channels), (0, *labels.values), strict=True))
    regions = [
        {"name": region.name, "structures": list(region.structures), "value": values[channel]}
        for region, channel in zip(labels.regions, labels.region_writes, strict=True)
    ]
    feed = plan.feed.model_dump(mode="json")
    return {
        "format": "medseg network",
        "format_version": FORMAT_VERSION,
        "name": card.name,
        "modality": plan.modality,
        "licence": card.licence,
        "not_a_medical_device": True,
        "model": {"sha256_of_model_json": model.sha256, "validation": card.validation},
        "networks": [{"file": name, "sha256": digest} for name, digest in files.items()],
        "input": {"name": INPUT, "shape": [1, plan.channels, *plan.patch_size], "type": "float32"},
        "output": {"name": OUTPUT, "outputs": [r["name"] for r in regions] or [c["name"] for c in channels]},
        "preprocess": {
            "channels": list(plan.channel_names) or plan.channels,
            "orientation": feed["orientation"],
            "crop": feed["crop"],
            "native_axes": feed["native_axes"],
            "intensity": [one.model_dump(mode="json") for one in plan.intensity],
            "spacing_mm": list(plan.spacing_mm),
            "image": feed["image"],
        },
        "windows": {
            "patch_size": list(plan.patch_size),
            "overlap": settings["overlap"],
            "blend": feed["blend"],
            "sigma": 0.125,
            "smallest": 1e-3,
            "mirror": list(settings["mirror"]),
            "output_swaps": list(swaps),
        },
        "ensemble": settings["ensemble"],
        "restore": {"outputs": feed["logits"]},
        "labels": channels,
        "regions": regions,
        "refine": settings["refine"],
        "postprocess": settings["postprocess"],
        "how": list(HOW),
    }


def _schemes(asked: Iterable[Component]) -> Iterator[Component]:
    """These, and the steps that they are made of."""
    for scheme in asked:
        yield scheme
        yield from _schemes(Component.model_validate(step) for step in scheme.options.get("steps", ()))
