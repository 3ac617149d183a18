"""What runs a network: patches in, logits out. One protocol, one table.

``auto`` takes OpenVINO on a CPU where it is installed and a window is work enough to earn its start back, never ONNX
Runtime, which is slower. The choice follows from the model folder and what is installed alone, so that one model gives one
result, whatever the scans.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import prod

import torch

from medseg.core.component import find
from medseg.core.errors import ConfigError
from medseg.inference.backends.conversions import NotConverted
from medseg.inference.backends.onnxruntime_backend import onnxruntime_backend
from medseg.inference.backends.openvino_backend import openvino_backend
from medseg.inference.backends.torch_backend import torch_backend
from medseg.inference.precision import Precision, precision_for
from medseg.inference.stream import Predict
from medseg.models.bundle import Model

Say = Callable[[str], None]
Backend = Callable[[Model, torch.device, Precision, Say], tuple[Predict, ...]]

BACKENDS: dict[str, Backend] = {
    "torch": torch_backend,
    "openvino": openvino_backend,
    "onnxruntime": onnxruntime_backend,
}
"""Each makes the networks of a model folder ready, and gives one ``Predict`` for each fold, in order.

Raises ModelError where it cannot run the network, ConfigError for a device or a precision that it does not have.
"""

WORTH_OPENVINO = 3e11
"""Weights times voxels of a window from which OpenVINO earns its start back: some 10 GFLOP a window.

Measured with a U-Net of 31 million weights (403 GFLOP a window of 96^3): OpenVINO takes 1.1 s longer to start, and saves
two fifths of each window, so that after 20 windows of 10 GFLOP, or after one of 200, both have taken as long.
"""


@dataclass(frozen=True, eq=False)
class Running:
    """A model made ready: one ``Predict`` for each fold, and the ``backend`` and ``precision`` that it got."""

    predicts: tuple[Predict, ...]
    backend: str
    precision: Precision


def start(
    model: Model,
    device: torch.device,
    *,
    backend: str = "auto",
    precision: str = "auto",
    say: Say = lambda line: None,
) -> Running:
    """Make ``model`` ready on ``device``; ``backend``: ``auto`` or a name of ``BACKENDS``; ``precision``: see ``precision_for``.

    Where ``auto`` meets a network that OpenVINO does not convert, ``say`` is told, and PyTorch runs it. Raises ConfigError
    for an unknown name and for a backend that is not installed, ModelError for a network that the backend cannot run.
    """
    name = chosen_backend(backend, model, device)
    exact = precision_for(precision, device, name, model.card.inference)
    try:
        return Running(BACKENDS[name](model, device, exact, say), name, exact)
    except NotConverted as error:
        if backend != "auto":
            raise
        say(f"{error}; PyTorch runs it instead")
    exact = precision_for(precision, device, "torch", model.card.inference)
    return Running(torch_backend(model, device, exact, say), "torch", exact)


def chosen_backend(asked: str, model: Model, device: torch.device) -> str:
    """The name in ``BACKENDS`` that ``asked`` means for this model. Raises ConfigError for one that there is not."""
    if asked != "auto":
        find("backend", BACKENDS, asked)
        if asked != "torch" and device.type != "cpu":
            raise ConfigError(f"backend {asked} runs on the CPU, not on {device}; use --device cpu or --backend torch")
        return asked
    if device.type != "cpu" or find_spec("openvino") is None:
        return "torch"
    weights = max(file.stat().st_size / 4 for file in model.weights())
    return "openvino" if weights * prod(model.plan.patch_size) >= WORTH_OPENVINO else "torch"
