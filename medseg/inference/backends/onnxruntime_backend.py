"""ONNX Runtime as the backend on the CPU: the networks that ``medseg export`` writes, each checked against PyTorch."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.core.errors import ModelError
from medseg.inference.backends.conversions import Converter, NotConverted, converted
from medseg.inference.precision import Precision
from medseg.inference.stream import Predict
from medseg.models.bundle import Model
from medseg.models.exporters.onnx_network import INPUT, OUTPUT, load_onnx, write_onnx

ERRORS_ALONE = 3  # of the severities that ONNX Runtime logs


def onnxruntime_backend(
    model: Model, device: torch.device, precision: Precision, say: Callable[[str], None]
) -> tuple[Predict, ...]:
    """ONNX Runtime on the CPU, in f32, converted once and kept beside the model folder.

    As many threads as torch has now (``torch.get_num_threads``). A batch is computed patch by patch, so that a patch's
    logits do not depend on what it comes with. The networks of ``model`` are not read where the cache has them.
    """
    runtime = load_onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ALONE

    def session(network: Path | bytes) -> Any:
        source = str(network) if isinstance(network, Path) else network
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def write(network: nn.Module, file: Path) -> None:
        try:
            write_onnx(file, network, model.plan)
        except ModelError as error:
            raise NotConverted(f"{model.folder}: {error}; use --backend torch") from None

    def take(network: nn.Module) -> Any:
        with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
            write(network, Path(folder) / "network.onnx")
            return session((Path(folder) / "network.onnx").read_bytes())

    converter = Converter(
        library="onnxruntime",
        title="ONNX Runtime",
        version=runtime.__version__,
        kinds=("onnx",),
        make=lambda network: network,
        write=write,
        read=session,
        take=take,
    )
    return tuple(_predict(one, model.outputs) for one in converted(model, converter, say))


def _predict(session: Any, outputs: int) -> Predict:
    """``session`` takes and gives one patch; its memory is one binding's, so that threads take turns."""
    binding, turn = session.io_binding(), Lock()

    def predict(patches: Tensor) -> Tensor:
        inputs = patches.contiguous().numpy()
        logits = torch.empty((len(patches), outputs, *patches.shape[2:]))
        with turn:
            for patch, found in zip(inputs, logits, strict=True):
                binding.bind_cpu_input(INPUT, patch[np.newaxis])
                binding.bind_output(OUTPUT, "cpu", 0, np.float32, (1, *found.shape), found.data_ptr())
                session.run_with_iobinding(binding)
        return logits

    return predict
