"""PyTorch as the backend: patches in, logits out, on one device in one precision."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.core.errors import ResourceError
from medseg.inference.stream import Predict


def torch_predict(networks: Sequence[nn.Module], device: torch.device) -> Predict:
    """Logits of ``networks`` (the folds), averaged; float32 on the CPU, float16 autocast on a GPU.

    The networks are moved to ``device`` and set to evaluation. Raises ResourceError when the device's memory runs out.
    """
    for network in networks:
        network.to(device).eval()

    @torch.inference_mode()
    def predict(patches: Tensor) -> Tensor:
        try:
            inputs = patches.to(device, non_blocking=True)
            with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
                logits: Tensor = networks[0](inputs).float()
                for network in networks[1:]:
                    logits += network(inputs).float()
            mean: Tensor = logits / len(networks) if len(networks) > 1 else logits
            return mean.cpu()
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"{device}: out of memory with patches {tuple(patches.shape)}; use --device cpu, or a GPU with more memory"
            ) from error

    return predict
