"""A model as a MONAI bundle that plain MONAI runs, where its transforms, windows and networks say what the plan says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg.core.component import Component
from medseg.core.errors import ModelError
from medseg.core.files import write_durable, write_json, write_text
from medseg.core.plan import Plan
from medseg.models.bundle import Model, weights_of
from medseg.models.card import model_readme
from medseg.models.importers.monai_pipeline import UNBOUNDED

IMAGE, PRED = {"keys": "@image_key"}, {"keys": "pred"}
INSTEAD = "; export --format onnx says it"
HOW_TO_RUN = """
## Running it with MONAI

`python -m monai.bundle run --config_file configs/inference.json --dataset_dir FOLDER` in this folder segments every .nii.gz in
FOLDER; label maps go to `eval`. It needs `pip install 'monai[fire]' nibabel`.
"""


def write_bundle(folder: Path, model: Model, settings: Mapping[str, Any]) -> float:
    """Write ``model``, run with ``settings`` (as JSON has them), into ``folder``; the largest difference of its logits.

    That is between the network that MONAI builds of the config and medseg's, over the spread of medseg's. Raises ModelError
    naming what MONAI has no word for.
    """
    plan = model.plan
    if len(model.card.weights) > 1:
        raise ModelError(
            f"{model.folder}: has {len(model.card.weights)} folds, a MONAI bundle has one network{INSTEAD}"
        )
    try:
        config = inference_config(plan, settings)
    except ModelError as error:
        instead = INSTEAD if plan.feed.grid != "monai" else ""
        raise ModelError(f"{model.folder}: a MONAI bundle cannot say {error}{instead}") from None
    state = weights_of(model.networks[0]).state_dict()
    write_json(folder / "configs" / "metadata.json", _metadata(model))
    write_json(folder / "configs" / "inference.json", config)
    write_durable(folder / "models" / "model.pt", lambda file: torch.save(state, file))
    write_text(folder / "docs" / "README.md", model_readme(model.card) + HOW_TO_RUN)
    if model.card.licence:
        write_text(folder / "LICENSE", f"The weights are licensed as {model.card.licence}.\n")
    return _difference(config, model, state)


def inference_config(plan: Plan, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The content of configs/inference.json. Raises ModelError, which begins with what MONAI cannot say."""
    overlap = settings["overlap"]
    if settings["mirror"]:
        raise ModelError("the mirroring of windows")
    if settings["refine"]:
        raise ModelError(f"the refinement of outputs ({settings['refine']['name']})")
    return {
        "imports": ["$import glob", "$import torch"],
        "bundle_root": ".",
        "image_key": "image",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$[{@image_key: file} for file in sorted(glob.glob(@dataset_dir + '/*.nii.gz'))]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "checkpoint": "$@bundle_root + '/models/model.pt'",
        "network_def": _network(plan),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": _before(plan)},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": _inferer(plan, overlap),
        "postprocessing": {"_target_": "Compose", "transforms": _after(plan, settings["postprocess"])},
        "predict": "$lambda case: {**case, 'pred': @inferer(case[@image_key][None].to(@device), @network)[0].cpu()}",
        "initialize": [
            "$torch.set_grad_enabled(False)",
            "$@network.load_state_dict(torch.load(@checkpoint, map_location=@device, weights_only=True))",
            "$@network.eval()",
        ],
        "run": ["$[@postprocessing(@predict(case))['pred'].shape for case in @dataset]"],
    }


def _network(plan: Plan) -> dict[str, Any]:
    options = plan.architecture.options
    if plan.architecture.name != "monai" or plan.dimensions != 3:
        raise ModelError(f"the network {plan.architecture.name}, which is medseg's own")
    sizes = {"in_channels": plan.channels, "out_channels": plan.structure_labels.outputs}
    return {"_target_": options["network"], "spatial_dims": plan.dimensions, **sizes, **options["arguments"]}


def _before(plan: Plan) -> list[dict[str, Any]]:
    feed = plan.feed
    if feed.grid != "monai" or feed.crop != "none":
        raise ModelError("how medseg brings a scan to the plan's grid")
    if any(one != plan.intensity[0] or one.within != "scan" for one in plan.intensity):
        raise ModelError("another normalisation for each channel, or one within a mask")
    normalise = _intensity(plan.intensity[0].scheme)
    spacing = []
    if not feed.native_axes:
        spacing = [{"_target_": "Spacingd", **IMAGE, "pixdim": list(plan.spacing_mm), "mode": "bilinear"}]
        if feed.normalise == "after" and any(one.get("nonzero") for one in normalise):
            raise ModelError("which voxels are 0 behind a resampling, which its rounding decides")
    elif len(feed.native_axes) < 3:
        raise ModelError("a spacing of some axes alone")
    return [
        {"_target_": "LoadImaged", **IMAGE},
        {"_target_": "EnsureChannelFirstd", **IMAGE},
        {"_target_": "Orientationd", **IMAGE, "axcodes": feed.orientation},
        *(spacing + normalise if feed.normalise == "after" else normalise + spacing),
        {"_target_": "EnsureTyped", **IMAGE},
    ]


def _intensity(scheme: Component) -> list[dict[str, Any]]:
    options = scheme.options
    match scheme.name:
        case "none":
            return []
        case "in_turn":
            return [one for step in options["steps"] for one in _intensity(Component.model_validate(step))]
        case "ct_window" if options["lower"] <= -UNBOUNDED and options["upper"] >= UNBOUNDED:
            found = {"_target_": "NormalizeIntensityd", "subtrahend": options["mean"], "divisor": options["sd"]}
        case "ct_window":
            low, high = ((options[end] - options["mean"]) / options["sd"] for end in ("lower", "upper"))
            window = {"a_min": options["lower"], "a_max": options["upper"], "b_min": low, "b_max": high, "clip": True}
            found = {"_target_": "ScaleIntensityRanged", **window}
        case "z_score" | "z_score_nonzero":
            nonzero = scheme.name == "z_score_nonzero"
            found = {"_target_": "NormalizeIntensityd", "nonzero": nonzero, "channel_wise": True}
        case "min_max":
            ends = {"minv": options.get("lower", 0.0), "maxv": options.get("upper", 1.0)}
            found = {"_target_": "ScaleIntensityd", **ends, "channel_wise": True}
        case "percentile":
            ends = {
                "lower": options.get("lower", 0.5),
                "upper": options.get("upper", 99.5),
                "b_min": -1.0,
                "b_max": 1.0,
            }
            found = {"_target_": "ScaleIntensityRangePercentilesd", **ends, "clip": True, "channel_wise": True}
        case _:
            raise ModelError(f"the normalisation {scheme.name}")
    return [found | IMAGE]


def _inferer(plan: Plan, overlap: float) -> dict[str, Any]:
    feed = plan.feed
    if feed.starts != "fixed" or feed.blend not in ("monai", "constant"):
        raise ModelError("how medseg places and blends windows")
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(plan.patch_size),
        "sw_batch_size": 1,
        "overlap": overlap,
        "mode": "gaussian" if feed.blend == "monai" else "constant",
    }


def _after(plan: Plan, postprocess: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    feed, labels = plan.feed, plan.structure_labels
    invert = {
        "_target_": "Invertd",
        **PRED,
        "transform": "@preprocessing",
        "orig_keys": "@image_key",
        "to_tensor": True,
        "nearest_interp": False,
    }
    activate = {"_target_": "Activationsd", **PRED, "sigmoid" if labels.regions else "softmax": True}
    decide = {"_target_": "AsDiscreted", **PRED, **({"threshold": 0.5} if labels.regions else {"argmax": True})}
    found = [activate, invert, decide] if feed.outputs == "probabilities" else [invert, activate, decide]
    values = (0, *labels.values)
    if labels.regions:
        outputs = plan.architecture.options.get("outputs") or range(labels.outputs)
        pairs = [(n, values[channel]) for n, channel in zip(outputs, labels.region_writes, strict=True)][::-1]
        chain = "".join(f"torch.where(x[[{n}]] > 0, {value}, " for n, value in pairs) + "0" + ")" * len(pairs)
        found.append({"_target_": "Lambdad", **PRED, "func": f"$lambda x: {chain}"})
    elif values != tuple(range(len(values))):
        raise ModelError(f"labels with the values {labels.values} for its outputs in their order")
    save = {
        "_target_": "SaveImaged",
        **PRED,
        "output_dir": "@output_dir",
        "output_ext": ".nii.gz",
        "output_postfix": "seg",
    }
    kind = {"output_dtype": "uint8" if max(values) < 256 else "uint16", "resample": False, "separate_folder": False}
    return [*found, *_components(plan, postprocess), save | kind]


def _components(plan: Plan, postprocess: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    steps = [dict(step) for some in postprocess.values() for step in some]
    if not steps:
        return []
    options = steps[0]["options"]
    alike = all(step == steps[0] for step in steps) and len(steps) == len(postprocess)
    if not alike or steps[0]["name"] != "largest_component" or options.get("connectivity", 26) != 26:
        raise ModelError("the post-processing of this model")
    values = [s.value for s in plan.structure_labels.structures if s.name in postprocess]
    part = {"_target_": "KeepLargestConnectedComponentd", **PRED, "applied_labels": values}
    return [part | {"num_components": options.get("count", 1)}]


def _metadata(model: Model) -> dict[str, Any]:
    import monai

    plan, card, labels = model.plan, model.card, model.plan.structure_labels
    names = [region.name for region in labels.regions] or [labels.background, *labels.names]
    order = plan.architecture.options.get("outputs") or range(len(names))
    channels = dict(sorted((str(n), name) for n, name in zip(order, names, strict=True)))
    inputs = plan.channel_names or tuple(f"channel_{n}" for n in range(plan.channels))
    shape = {"spatial_shape": list(plan.patch_size), "dtype": "float32", "is_patch_data": True}
    image = {"type": "image", "modality": plan.modality, "num_channels": plan.channels, **shape}
    made = {"type": "image", "format": "segmentation", "num_channels": labels.outputs, **shape}
    return {
        "version": "0.1.0",
        "monai_version": str(monai.__version__),
        "pytorch_version": torch.__version__,
        "numpy_version": np.__version__,
        "optional_packages_version": {},
        "name": card.name,
        "task": f"Segmentation of {', '.join(labels.names)}",
        "description": "Exported from a medseg model folder; not a medical device",
        "intended_use": "Research; not for diagnosis",
        **({"license": card.licence} if card.licence else {}),
        "changelog": {"0.1.0": f"exported from the medseg model {model.sha256[:16]}"},
        "network_data_format": {
            "inputs": {"image": image | {"channel_def": {str(n): name for n, name in enumerate(inputs)}}},
            "outputs": {"pred": made | {"channel_def": channels}},
        },
    }


def _difference(config: Mapping[str, Any], model: Model, state: Mapping[str, Any]) -> float:
    """Between the logits of the network that MONAI builds and those of medseg's, on one patch of noise."""
    from monai.bundle import ConfigParser

    plan = model.plan
    built = ConfigParser({"network_def": config["network_def"]}).get_parsed_content("network_def").eval()
    built.load_state_dict(state)
    patch = torch.randn(1, plan.channels, *plan.patch_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = model.networks[0].eval()(patch), built(patch)
    order = plan.architecture.options.get("outputs") or range(found.shape[1])
    return float((found[:, list(order)] - expected).abs().max() / expected.std().clamp_min(1e-6))
