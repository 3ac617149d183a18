"""PyTorch as the backend: patches in, logits out, on one device in one precision."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from medseg.inference.precision import Precision
from medseg.inference.stream import Predict
from medseg.models.bundle import Model

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def torch_backend(
    model: Model, device: torch.device, precision: Precision, say: Callable[[str], None]
) -> tuple[Predict, ...]:
    """PyTorch on the CPU or a CUDA GPU: f32, or autocast to bf16 or (GPU) fp16."""
    return tuple(torch_predict([network], device, precision=precision) for network in model.networks)


def torch_predict(
    networks: Sequence[nn.Module], device: torch.device, *, precision: Precision | None = None
) -> Predict:
    """Logits of ``networks`` (the folds), averaged; by default float32 on the CPU, float16 autocast on a GPU.

    The networks are moved to ``device`` and set to evaluation. torch.OutOfMemoryError goes to the caller, who may try
    smaller batches. torch.compile is left out: on the CPU OpenVINO gains more without a compiler, and on a GPU a scan is
    done before the compiling is.
    """
    kind = TYPES.get(precision or ("fp16" if device.type == "cuda" else "f32"))
    for network in networks:
        network.to(device).eval()

    @torch.inference_mode()
    def predict(patches: Tensor) -> Tensor:
        inputs = patches.to(device, non_blocking=True)
        with torch.autocast(device.type, kind, enabled=kind is not None):
            logits: Tensor = networks[0](inputs).float()
            for network in networks[1:]:
                logits += network(inputs).float()
        mean: Tensor = logits / len(networks) if len(networks) > 1 else logits
        return mean.cpu()

    return predict
