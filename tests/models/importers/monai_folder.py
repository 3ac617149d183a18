"""Small MONAI bundles written by hand, and MONAI's own machinery to run one: config parser, transforms, inferer."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ON = {"keys": "@image_key"}
PRED = {"keys": "pred"}
LOAD = [{"_target_": "LoadImaged", **ON}, {"_target_": "EnsureChannelFirstd", **ON}]
INVERT = {"_target_": "Invertd", **PRED, "transform": "@preprocessing", "orig_keys": "@image_key", "to_tensor": True}
SOFTMAX = {"_target_": "Activationsd", **PRED, "softmax": True}
ARGMAX = {"_target_": "AsDiscreted", **PRED, "argmax": True}
SAVE = {"_target_": "SaveImaged", **PRED, "output_dir": "@output_dir", "_disabled_": True}
WHERE = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"

# Shapes of bundles of the model zoo: spleen CT, organs in CT (whose logits come back), and brain tumours in MR.
SPLEEN = {
    "pixdim": [2.0, 1.9, 2.4],
    "network_def": {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "channels": [4, 8, 8],
        "strides": [2, 2],
        "num_res_units": 2,
        "norm": "batch",
    },
    "preprocessing": [
        *LOAD,
        {"_target_": "Orientationd", **ON, "axcodes": "RAS"},
        {"_target_": "Spacingd", **ON, "pixdim": "@pixdim", "mode": "bilinear"},
        {"_target_": "ScaleIntensityRanged", **ON, "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "EnsureTyped", **ON},
    ],
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [24, 24, 16], "sw_batch_size": 4, "overlap": 0.5},
    "postprocessing": [SOFTMAX, {**INVERT, "nearest_interp": False}, ARGMAX, SAVE],
}
ORGANS = {
    "displayable_configs": {"highres": True, "sw_overlap": 0.25},
    "pixdim": "$[1.7, 1.85, 1.9] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
    "modelname": "$'model.pt' if @displayable_configs#highres else 'model_lowres.pt'",
    "network_def": {
        "_target_": "SegResNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 5,
        "init_filters": 8,
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "dropout_prob": 0.2,
    },
    "preprocessing": [
        *LOAD,
        {"_target_": "Orientationd", **ON, "axcodes": "LPS"},
        {"_target_": "Spacingd", **ON, "pixdim": "@pixdim", "mode": "bilinear"},
        {"_target_": "NormalizeIntensityd", **ON, "nonzero": False},
        {"_target_": "ScaleIntensityd", **ON, "minv": -1.0, "maxv": 1.0},
    ],
    "inferer": {
        "_target_": "SlidingWindowInferer",
        "roi_size": [32, 24, 48],
        "overlap": "@displayable_configs#sw_overlap",
        "mode": "gaussian",
    },
    "postprocessing": [{**INVERT, "nearest_interp": False}, SOFTMAX, ARGMAX],
    "checkpointloader": {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/' + @modelname"},
}
BRATS = {
    "network_def": {
        "_target_": "SegResNet",
        "blocks_down": [1, 1],
        "blocks_up": [1],
        "init_filters": 8,
        "in_channels": 2,
    }
    | {"out_channels": 3},
    "preprocessing": [
        {"_target_": "LoadImaged", **ON, "image_only": False},
        {"_target_": "NormalizeIntensityd", **ON, "nonzero": True, "channel_wise": True},
    ],
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 1, "overlap": 0.5},
    "postprocessing": [
        {"_target_": "Activationsd", **PRED, "sigmoid": True},
        {**INVERT, "nearest_interp": False},
        {"_target_": "AsDiscreted", **PRED, "threshold": 0.5},
        {"_target_": "Lambdad", **PRED, "func": WHERE},
    ],
}
NAMES = {
    "spleen": (["background", "spleen"], ["image"], "CT"),
    "organs": (["background", "liver", "kidney_left", "kidney_right", "spleen"], ["image"], "CT"),
    "one mask": (["spleen"], ["image"], "CT"),
    "brats": (["Tumor core", "Whole tumor", "Enhancing tumor"], ["T1c", "FLAIR"], "MR"),
}
BUNDLES = {"spleen": SPLEEN, "organs": ORGANS, "brats": BRATS}


def config_of(name: str) -> dict[str, Any]:
    """The inference config of a bundle, to change and to write."""
    content = copy.deepcopy(BUNDLES[name])
    for key in ("preprocessing", "postprocessing"):
        content[key] = {"_target_": "Compose", "transforms": content[key]}
    head = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "image_key": "image",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset": "$list(sorted(glob.glob(@bundle_root + '/*.nii.gz')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network": "$@network_def.to(@device)",
        "run": ["$@evaluator.run()"],
    }
    return head | content


def write_bundle(folder: Path, name: str, config: dict[str, Any] | None = None) -> Path:
    """A bundle of fresh weights, the last bias set so that each structure wins somewhere."""
    config = config or config_of(name)
    outputs, inputs, modality = NAMES[name]
    metadata = {
        "version": "0.1.0",
        "name": f"{name} bundle",
        "network_data_format": {
            "inputs": {"image": {"num_channels": len(inputs), "modality": modality, "channel_def": _named(inputs)}},
            "outputs": {"pred": {"num_channels": len(outputs), "channel_def": _named(outputs)}},
        },
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    save_file(_state(config, len(inputs)), folder / "models" / "model.safetensors")
    return folder


def run_by_monai(folder: Path, images: list[Path]) -> np.ndarray:
    """The labels (I, J, K) that MONAI itself makes of a scan, on the scan's grid."""
    with warnings.catch_warnings():  # MONAI's, of readers that are not installed
        warnings.simplefilter("ignore")
        return _run_by_monai(folder, images)


def _run_by_monai(folder: Path, images: list[Path]) -> np.ndarray:
    parser = _parser(json.loads((folder / "configs" / "inference.json").read_text()), folder)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(load_file(folder / "models" / "model.safetensors"))
    data = parser.get_parsed_content("preprocessing")({"image": [str(one) for one in images]})
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    labels = parser.get_parsed_content("postprocessing")(data)["pred"]
    assert labels.shape[0] == 1
    return np.asarray(labels[0]).astype(np.uint16)


def _parser(config: dict[str, Any], folder: Path) -> Any:
    from monai.bundle import ConfigParser

    return ConfigParser({**config, "bundle_root": str(folder), "device": torch.device("cpu")})


def _named(names: list[str]) -> dict[str, str]:
    return {str(n): name for n, name in enumerate(names)}


def _state(config: dict[str, Any], channels: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    network = _parser({"network_def": config["network_def"]}, Path()).get_parsed_content("network_def")
    example = torch.rand(2, channels, *config["inferer"]["roi_size"])
    with torch.inference_mode():
        network.train()(example)  # statistics of batch norm
        logits = network.eval()(example)
    state = {key: value.clone().contiguous() for key, value in network.state_dict().items()}
    bias = [key for key, value in state.items() if key.endswith("bias") and value.shape == (logits.shape[1],)][-1]
    state[bias] = state[bias] - logits.mean(dim=(0, 2, 3, 4))
    return state
