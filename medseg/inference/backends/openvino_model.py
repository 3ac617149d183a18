"""Networks as OpenVINO's: converted once by a trace, checked against PyTorch, kept beside the model folder."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from medseg.core.quiet import quiet
from medseg.inference.backends import conversions
from medseg.inference.backends.conversions import NotConverted
from medseg.models.bundle import Model

LARGEST_DIFFERENCE = 0.01
"""Between the two libraries' logits, over the spread of PyTorch's; 0.002 was measured at most."""
RUN = ("unet", "resenc_unet", "attention_unet", "unet_plus_plus", "segresnet", "mednext", "fcn")
"""The architectures that OpenVINO runs. Of the others (2026.4.1) swin_unetr and segnet are not converted, and compiling
pspnet or deeplabv3plus ends the process."""

U_NETS = ("unet", "resenc_unet")  # take any multiple of their strides, and no size stands in their graph


def converted(model: Model, openvino: Any, core: Any, say: Callable[[str], None]) -> list[Any]:
    """OpenVINO's network of each fold of ``model``, for one patch (1, C, *patch_size) in float32: see ``conversions``."""
    if model.plan.architecture.name not in RUN:
        raise NotConverted(
            f"{model.folder}: OpenVINO does not run the network {model.plan.architecture.name}, only {', '.join(RUN)}; "
            "use --backend torch"
        )
    converter = conversions.Converter(
        library="openvino",
        title="OpenVINO",
        version=openvino.__version__.split("-")[0],
        kinds=("xml", "bin"),
        make=lambda network: _convert(network, model, openvino, core),
        write=lambda network, file: openvino.save_model(network, file, compress_to_fp16=False),
        read=core.read_model,
        take=lambda network: network,
    )
    return conversions.converted(model, converter, say)


def _convert(network: nn.Module, model: Model, openvino: Any, core: Any) -> Any:
    """One network by a trace, checked on the patch of the trace: a small one where the network has no say in its size."""
    plan = model.plan
    strides = plan.architecture.options["strides"] if plan.architecture.name in U_NETS else None
    patch = example_patch(plan.patch_size, strides, plan.slice_axis)
    example = torch.randn(1, plan.channels, *patch, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), quiet():  # the tracer warns of sizes, which are constants here
        expected = network(example)
        trace: Callable[..., Any] = torch.jit.trace
        traced = trace(network, example, check_trace=False)
        found = openvino.convert_model(traced, example_input=example)
    found.reshape([1, plan.channels, *patch])
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    logits = torch.from_numpy(core.compile_model(found, "CPU", exact)(example.numpy())[0])
    if logits.shape != expected.shape:
        raise NotConverted(
            f"{model.folder}: OpenVINO gives logits {tuple(logits.shape)}, PyTorch {tuple(expected.shape)}"
        )
    difference = float((logits - expected).abs().max() / expected.std().clamp_min(1e-6))
    if not difference <= LARGEST_DIFFERENCE:
        raise NotConverted(
            f"{model.folder}: OpenVINO's logits of the network {plan.architecture.name} differ from PyTorch's by "
            f"{difference:.2g} of their spread, where {LARGEST_DIFFERENCE:g} is allowed"
        )
    found.reshape([1, plan.channels, *plan.patch_size])
    return found


def example_patch(
    patch: tuple[int, int, int], strides: list[list[int]] | None, slice_axis: int | None
) -> tuple[int, ...]:
    """The patch to trace with: the plan's, or of a U-Net with ``strides`` the smallest: two voxels at its lowest stage.

    >>> example_patch((96, 160, 160), [[1, 1, 1], [1, 2, 2], [2, 2, 2]], None)
    (4, 4, 4)
    """
    if strides is None:
        return patch
    smallest = [math.prod(row[axis] for row in strides) for axis in range(len(strides[0]))]
    if slice_axis is not None:
        smallest.insert(slice_axis, 1)
    widest = max(range(3), key=lambda axis: patch[axis] / smallest[axis])
    smallest[widest] *= 2
    return tuple(smallest)
