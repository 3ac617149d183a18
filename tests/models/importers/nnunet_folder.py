"""Tiny folders as nnU-Net v2 leaves them after training, made without nnU-Net: networks by its own network library."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from medseg.io.child import ChildError
from medseg.models.importers import torch_checkpoint

LABELS: dict[str, Any] = {"background": 0, "liver": 1, "tumour": 2}
SHAPES = {
    3: {"kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]},
    2: {"kernel_sizes": [[3, 3], [3, 3], [3, 1]], "strides": [[1, 1], [2, 1], [2, 2]]},
}
PATCHES = {3: [8, 12, 16], 2: [12, 16]}
CLASSES = {"PlainConvUNet": PlainConvUNet, "ResidualEncoderUNet": ResidualEncoderUNet}
RESAMPLING = {"is_seg": False, "order_z": 0, "force_separate_z": None}


def arch_kwargs(dimensions: int, network: str) -> dict[str, Any]:
    """As nnU-Net writes them."""
    return {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        **SHAPES[dimensions],
        ("n_conv_per_stage" if network == "PlainConvUNet" else "n_blocks_per_stage"): [1, 2, 1],
        "n_conv_per_stage_decoder": [1, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }


def network_of(kwargs: dict[str, Any], network: str, channels: int, outputs: int, seed: int = 0) -> nn.Module:
    """nnU-Net's network with weights nowhere 0 or 1."""
    dimensions = len(kwargs["strides"][0])
    built = {
        **kwargs,
        "conv_op": {2: nn.Conv2d, 3: nn.Conv3d}[dimensions],
        "norm_op": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions],
        "nonlin": nn.LeakyReLU,
    }
    torch.manual_seed(seed)
    made: nn.Module = CLASSES[network](input_channels=channels, num_classes=outputs, deep_supervision=False, **built)
    for parameter in made.parameters():
        nn.init.normal_(parameter, mean=0.0, std=0.5)
    return made.eval()


def configuration(dimensions: int, network: str, **changes: Any) -> dict[str, Any]:
    return {
        "data_identifier": "x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": PATCHES[dimensions],
        "spacing": [2.0, 1.5, 1.0][3 - dimensions :],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": RESAMPLING | {"order": 3},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": RESAMPLING | {"order": 1},
        "architecture": {
            "network_class_name": f"dynamic_network_architectures.architectures.unet.{network}",
            "arch_kwargs": arch_kwargs(dimensions, network),
        },
        **changes,
    }


def older(configuration: dict[str, Any]) -> dict[str, Any]:
    """The same configuration as nnU-Net 2.0 to 2.2 wrote it."""
    kwargs = configuration.pop("architecture")["arch_kwargs"]
    counts = kwargs.get("n_conv_per_stage") or kwargs.get("n_blocks_per_stage")
    plain = "n_conv_per_stage" in kwargs
    return configuration | {
        "UNet_class_name": "PlainConvUNet" if plain else "ResidualEncoderUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": counts,
        "n_conv_per_stage_decoder": kwargs["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 2, 2],
        "pool_op_kernel_sizes": kwargs["strides"],
        "conv_kernel_sizes": kwargs["kernel_sizes"],
    }


def checkpoint(network: nn.Module, name: str, **changes: Any) -> dict[str, Any]:
    """What nnUNetTrainer saves, with a log of numpy numbers and a state of the optimizer."""
    log = {"mean_fg_dice": [np.float32(0.5), np.float64(0.25)], "epoch_end_timestamps": [1.5]}
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": log,
        "_best_ema": np.float64(0.5),
        "current_epoch": 4,
        "init_args": {"configuration": name, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1),
        **changes,
    }


def nnunet_folder(
    folder: Path,
    *,
    dimensions: int = 3,
    network: str = "PlainConvUNet",
    folds: tuple[str, ...] = ("0",),
    channels: tuple[str, ...] = ("MRI",),
    labels: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    plans: dict[str, Any] | None = None,
    old_style: bool = False,
    **changes: Any,
) -> list[nn.Module]:
    """Write ``folder`` and give the networks in it; ``changes`` are the configuration's, ``plans`` and ``dataset`` the files'."""
    labels = LABELS if labels is None else labels
    name = {2: "2d", 3: "3d_fullres"}[dimensions]
    found = configuration(dimensions, network, **changes)
    if len(channels) > 1 and "normalization_schemes" not in changes:
        found |= {
            "normalization_schemes": ["ZScoreNormalization"] * len(channels),
            "use_mask_for_norm": [False] * len(channels),
        }
    kwargs = found["architecture"]["arch_kwargs"]
    named = {key: value for key, value in labels.items() if key != "ignore"}
    regions = any(isinstance(value, list) and len(value) > 1 for value in named.values())
    outputs = len(named) - regions
    content = {
        "dataset_name": "Dataset999_Tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [2.0, 1.5, 1.0],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {name: older(found) if old_style else found},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(n): {
                "max": 300.0,
                "mean": 60.0,
                "median": 55.0,
                "min": -100.0,
                "percentile_00_5": -80.0,
                "percentile_99_5": 200.0,
                "std": 40.0,
            }
            for n in range(len(channels))
        },
        **(plans or {}),
    }
    about = {
        "channel_names": {str(n): channel for n, channel in enumerate(channels)},
        "labels": labels,
        "numTraining": 7,
        "file_ending": ".nii.gz",
        **(dataset or {}),
    }
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(content))
    (folder / "dataset.json").write_text(json.dumps(about))
    networks = []
    for n, fold in enumerate(folds):
        made = network_of(kwargs, network, len(channels), outputs, seed=n)
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint(made, name), folder / f"fold_{fold}" / "checkpoint_final.pth")
        networks.append(made)
    return networks


def decoded_here(module: str, order: dict[str, Any], **limits: Any) -> Iterator[np.ndarray]:
    """What ``io.child.decoded`` gives, without the child, whose start takes seconds."""
    try:
        yield from torch_checkpoint.decode(order)
    except Exception as error:
        raise ChildError(f"{type(error).__name__}: {error}") from None
