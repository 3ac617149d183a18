"""OpenVINO as the backend on the CPU: quicker than PyTorch, by how much is in benchmarks/README.md."""

import sys
from collections import deque
from collections.abc import Callable
from functools import cache
from math import prod
from mmap import mmap
from threading import Lock
from types import ModuleType
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.inference.backends.openvino_model import converted
from medseg.inference.precision import Precision
from medseg.inference.stream import Predict
from medseg.models.bundle import Model


def openvino_backend(
    model: Model, device: torch.device, precision: Precision, say: Callable[[str], None]
) -> tuple[Predict, ...]:
    """OpenVINO on the CPU, in f32 or bf16, converted once and kept beside the model folder.

    As many threads as torch has now (``torch.get_num_threads``). A batch is computed patch by patch, so that a patch's
    logits do not depend on what it comes with. Memory: the weights once, and four feature maps of the first stage of one
    patch (measured on U-Nets; half of it in bf16). The networks of ``model`` are not read where the cache has them.
    """
    openvino, core = load_openvino(), _core()
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # else two processes may share one core, and leave another idle
    }
    return tuple(
        _predict(core.compile_model(network, "CPU", options), openvino.Tensor, model.outputs)
        for network in converted(model, openvino, core, say)
    )


@cache
def _core() -> Any:
    """The one Core of this process, never let go.

    The CPU plugin of each Core gives its thread another stack for signals, and with the Core it unmaps it and puts back the one
    before: of two, one that was unmapped. The next Ctrl-C or SIGTERM was a segmentation fault (OpenVINO 2026.4.1).
    """
    return load_openvino().Core()


def load_openvino() -> ModuleType:
    """The library, without its telemetry: at its import alone it would report to its makers.

    Raises ConfigError where it is not installed.
    """
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)  # its import fails, for which OpenVINO is prepared
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            f"backend openvino is not installed ({error}); run `pip install 'medseg[openvino]'`, or use --backend torch"
        ) from None
    module: ModuleType = openvino
    return module


class _Rooms:
    """Memory for what a network gives, used again once nothing refers to it: new memory costs 0.65 ms a MB (a VM, Zen 4)."""

    def __init__(self) -> None:
        self._free: deque[mmap] = deque(maxlen=1)  # no lock: memory may come back at any moment, in any thread

    def array(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Any numbers, of ``shape``."""
        size = 4 * prod(shape)
        try:
            room = self._free.pop()
        except IndexError:
            room = mmap(-1, size)
        if len(room) != size:
            room = mmap(-1, size)
        whole = np.frombuffer(room, np.float32)
        finalize(whole, self._free.append, room)  # views refer to it, so that it goes after the last of them
        return whole.reshape(shape)


def _predict(compiled: Any, as_tensor: Callable[..., Any], outputs: int) -> Predict:
    """``compiled`` takes and gives one patch; its memory is one request's, so that threads take turns."""
    request, turn, rooms = compiled.create_infer_request(), Lock(), _Rooms()

    def predict(patches: Tensor) -> Tensor:
        inputs = patches.contiguous().numpy()
        results = rooms.array((len(patches), outputs, *patches.shape[2:]))
        with turn:
            for n in range(len(inputs)):
                request.set_input_tensor(as_tensor(inputs[n : n + 1], shared_memory=True))
                request.set_output_tensor(as_tensor(results[n : n + 1], shared_memory=True))
                request.infer()
        return torch.from_numpy(results)

    return predict
