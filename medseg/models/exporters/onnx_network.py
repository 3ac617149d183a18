"""A network as ONNX, checked against PyTorch before it is handed out."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.core.errors import ConfigError, MedsegError, ModelError
from medseg.core.plan import Plan

INPUT, OUTPUT = "patches", "logits"
LARGEST_DIFFERENCE = 1e-3
"""Between ONNX Runtime's and PyTorch's logits, over the spread of PyTorch's."""
MOST_BYTES = 2**31 - 2**20  # what one ONNX file (protobuf) holds


def write_onnx(file: Path, network: nn.Module, plan: Plan) -> float:
    """Write ``network`` to ``file`` for one patch (1, C, *patch_size) in float32; its largest difference from PyTorch.

    Raises ConfigError where the extra ``export`` is not installed, ModelError for a network that cannot be exported, or gives
    other logits in ONNX Runtime.
    """
    runtime = load_onnx()
    size = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    if size > MOST_BYTES:
        raise ModelError(f"the weights are {size} bytes; one ONNX file holds {MOST_BYTES} at most")
    example = torch.randn(1, plan.channels, *plan.patch_size, generator=torch.Generator().manual_seed(0))
    network = network.cpu().eval()
    loud = logging.getLogger("torch.onnx")
    before = loud.level
    try:
        loud.setLevel(logging.ERROR)  # what it says of libraries that are not there
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = network(example)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network, (example,), dynamo=True, verbose=False, input_names=[INPUT], output_names=[OUTPUT]
            )
            program.save(str(file), external_data=False)
            session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            (found,) = session.run([OUTPUT], {INPUT: example.numpy()})
    except MedsegError:
        raise
    except Exception as error:  # of any kind, from an exporter
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"the network {plan.architecture.name} cannot be exported to ONNX ({reason})") from error
    finally:
        loud.setLevel(before)
    difference = float((torch.from_numpy(found) - expected).abs().max() / expected.std().clamp_min(1e-6))
    if found.shape != expected.shape or not difference <= LARGEST_DIFFERENCE:
        raise ModelError(
            f"ONNX Runtime's logits of the network {plan.architecture.name} differ from PyTorch's by {difference:.2g} of their "
            f"spread, where {LARGEST_DIFFERENCE:g} is allowed"
        )
    return difference


def load_onnx() -> Any:
    """ONNX Runtime, with all that an export needs. Raises ConfigError where it is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ONNX is not installed ({error}); run `pip install 'medseg[export]'`") from None
    return onnxruntime
