"""The device by name, checked before any work, and what it says when its memory runs out."""

import mmap
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from medseg.core.errors import ConfigError, ResourceError
from medseg.inference.stream import Predict

_TURNS: dict[str, Lock] = {}  # one for each device of this process, whatever model runs there
_turns = Lock()


def choose_device(name: str) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises ConfigError for another word and ResourceError for a GPU that is not there.
    """
    if not isinstance(name, str):
        raise ConfigError(f"device {name!r} is no text; choose auto, cpu, cuda or cuda:N")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if not re.fullmatch(r"cpu|cuda(:[0-9]{1,4})?", name):
        raise ConfigError(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"device {name}: no CUDA GPU is available here; use --device cpu (see `medseg info`)")
    if number and int(number) >= torch.cuda.device_count():
        raise ResourceError(
            f"device {name}: there are {torch.cuda.device_count()} GPU(s), numbered from 0; see `medseg info`"
        )
    return torch.device(name)


def own_device(device: torch.device, number: int) -> torch.device:
    """The GPU of the process with this ``number`` on its machine where ``device`` is any GPU, else ``device``."""
    if device.type != "cuda" or device.index is not None:
        return device
    if number >= torch.cuda.device_count():
        raise ResourceError(
            f"process {number} has no GPU: this machine has {torch.cuda.device_count()}; start no more processes than that"
        )
    return torch.device("cuda", number)


_LESS_TRAINING = "use a smaller plan.patch_size or plan.batch_size, fewer features, or a device with more memory"


@contextmanager
def enough_memory(device: torch.device, *, work: str = "", advice: str = _LESS_TRAINING) -> Iterator[None]:
    """Raise ResourceError where torch, in any of its ways, says that the memory of ``device`` does not suffice.

    The message names the ``work``, such as a scan's path, and ends in the ``advice``.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        raise ResourceError(f"{work}{': ' if work else ''}{device}: out of memory; {advice}") from error


def compile_pays(device: torch.device) -> bool:
    """True where torch.compile makes kernels of its own: a GPU with Triton. On the CPU it needs a C++ compiler and wins little."""
    return device.type == "cuda" and find_spec("triton") is not None


def machine(device: torch.device) -> str:
    """What ``device`` is, such as ``NVIDIA H200`` or ``4 CPU threads (AVX512)``."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{torch.get_num_threads()} CPU threads ({torch.backends.cpu.get_cpu_capability()})"


def memory_in_use() -> str:
    """What this process holds now, such as ``1.2 GiB`` or ``1.2 GiB, GPU 10.3 of 24 GiB``; empty where it cannot be told."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        text = f"{pages * mmap.PAGESIZE / 2**30:.1f} GiB"
    except (OSError, ValueError, IndexError):
        return ""
    if torch.cuda.is_available() and (held := torch.cuda.memory_reserved()):
        text += f", GPU {held / 2**30:.1f} of {torch.cuda.get_device_properties().total_memory / 2**30:.0f} GiB"
    return text


def bf16_pays(device: torch.device) -> bool:
    """True where bfloat16 has hardware: AVX512-BF16 or AMX on the CPU, Ampere or later on a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(capability and capability()) or bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def gpus() -> int:
    """How many CUDA GPUs this process sees."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def use_threads(count: int) -> None:
    """Let torch work with ``count`` CPU threads in this process."""
    torch.set_num_threads(count)


def in_turn(predict: Predict, device: torch.device) -> Predict:
    """``predict``, where calls that meet on one device wait for each other."""
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
    with _turns:
        turn = _TURNS.setdefault(f"{device.type}:{index}", Lock())

    def alone(patches: Tensor) -> Tensor:
        with turn:
            return predict(patches)

    return alone
