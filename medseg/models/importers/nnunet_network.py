"""nnU-Net's description of its networks as an entry of ARCHITECTURES, and its weights for axes in another order."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from medseg.core.component import Component
from medseg.core.errors import ModelError
from medseg.models.unet import MOST_STAGES, NORM_EPSILON

Axes = tuple[int, ...]

# nnU-Net's class -> ours, nnU-Net's word for the layers a stage, ours.
NETWORKS = {
    "PlainConvUNet": ("unet", "n_conv_per_stage", "convs_per_stage"),
    "ResidualEncoderUNet": ("resenc_unet", "n_blocks_per_stage", "blocks_per_stage"),
}
LIBRARY = "dynamic_network_architectures."
# What our networks are built with; another value is another network. None stands for the library's default.
FIXED: dict[str, Callable[[Any], bool]] = {
    "norm_op": lambda value: str(value).rpartition(".")[2] in ("InstanceNorm2d", "InstanceNorm3d"),
    "norm_op_kwargs": lambda value: value == {"eps": NORM_EPSILON, "affine": True},
    "nonlin": lambda value: str(value).rpartition(".")[2] == "LeakyReLU",
    "nonlin_kwargs": lambda value: isinstance(value, dict | None) and (value or {}).get("negative_slope", 0.01) == 0.01,
    "nonlin_first": lambda value: not value,
    "block": lambda value: value is None or str(value).rpartition(".")[2] == "BasicBlockD",
    "bottleneck_channels": lambda value: value is None,
    "stem_channels": lambda value: value is None,
}
# Do not change what the trained network computes; the rest is read below.
NO_MATTER = ("conv_op", "dropout_op", "dropout_op_kwargs", "deep_supervision")
READ = ("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage_decoder", "conv_bias")


def older_architecture(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The ``architecture`` of a configuration that was planned before nnU-Net 2.3 wrote one. Raises KeyError, TypeError."""
    counts = configuration["n_conv_per_stage_encoder"]
    name = configuration["UNet_class_name"]
    base, most = int(configuration["UNet_base_num_features"]), int(configuration["unet_max_num_features"])
    per_stage = NETWORKS[name][1] if name in NETWORKS else "n_conv_per_stage"
    return {
        "network_class_name": f"{LIBRARY}architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": len(counts),
            "features_per_stage": [min(base * 2**stage, most) for stage in range(len(counts))],
            "kernel_sizes": configuration["conv_kernel_sizes"],
            "strides": configuration["pool_op_kernel_sizes"],
            per_stage: counts,
            "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": "InstanceNorm3d",
            "norm_op_kwargs": {"eps": NORM_EPSILON, "affine": True},
            "nonlin": "LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
    }


def architecture_of(class_name: str, options: Mapping[str, Any], axes: Axes) -> Component:
    """The entry of ARCHITECTURES for nnU-Net's ``class_name`` and ``arch_kwargs``; ``axes``: see ``permuted``.

    Raises ModelError naming the network, or the option of it, that medseg does not have.
    """
    name = class_name.rpartition(".")[2]
    if name not in NETWORKS or not class_name.startswith(LIBRARY):
        raise ModelError(f"the network {class_name} is not one that medseg has; it has {' and '.join(NETWORKS)}")
    ours, their_counts, our_counts = NETWORKS[name]
    for key, value in options.items():
        if key in FIXED:
            if not FIXED[key](value):
                raise ModelError(f"the network's {key} is {value!r}, which medseg's {name} does not have")
        elif key not in (*NO_MATTER, *READ, their_counts):
            raise ModelError(f"the network has an option {key!r}, which medseg's {name} does not have")
    missing = [
        key for key in (*READ[:-1], their_counts, "norm_op", "norm_op_kwargs", "nonlin") if options.get(key) is None
    ]
    if missing:
        raise ModelError(f"the network's {missing[0]} is missing")
    try:
        stages, dimensions = int(options["n_stages"]), len(axes)
        if not 2 <= stages <= MOST_STAGES:
            raise ValueError(f"n_stages is {stages}; expected 2 to {MOST_STAGES}")
        return Component(
            name=ours,
            options={
                "features": _each(options["features_per_stage"], stages),
                "kernel_sizes": [_reordered(row, axes) for row in _rows(options["kernel_sizes"], stages, dimensions)],
                "strides": [_reordered(row, axes) for row in _rows(options["strides"], stages, dimensions)],
                our_counts: _each(options[their_counts], stages),
                "decoder_convs_per_stage": _each(options["n_conv_per_stage_decoder"], stages - 1),
                "conv_bias": bool(options.get("conv_bias", False)),
            },
        )
    except (TypeError, ValueError, IndexError) as error:
        raise ModelError(f"the network's options cannot be used: {error}") from None


def permuted(state: Mapping[str, Tensor], axes: Axes) -> dict[str, Tensor]:
    """Weights for patches whose axes stand in another order: new axis n of a kernel is its old axis ``axes[n]``.

    A convolution over moved axes with its kernel moved likewise gives the same values, moved.
    """
    return {
        key: value.permute(0, 1, *(2 + axis for axis in axes)).contiguous() if value.ndim == 2 + len(axes) else value
        for key, value in state.items()
    }


def _each(value: Any, count: int) -> list[int]:
    found = [int(one) for one in value] if isinstance(value, list | tuple) else [int(value)] * count
    if len(found) != count:
        raise ValueError(f"{found} has {len(found)} entries for {count} stages")
    return found


def _rows(value: Any, stages: int, dimensions: int) -> list[list[int]]:
    rows = list(value) if isinstance(value, list | tuple) else [value] * stages
    return [_each(row, dimensions) for row in rows]


def _reordered(row: Sequence[int], axes: Axes) -> list[int]:
    return [row[axis] for axis in axes]
