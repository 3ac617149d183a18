"""The device by name, checked before any work."""

import os

import torch

from medseg.core.errors import ConfigError, ResourceError


def choose_device(name: str) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Raises ConfigError for another word and ResourceError for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise ConfigError(f"device {name!r} is unknown; choose auto, cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ResourceError(f"device {name}: no CUDA GPU is available here; use --device cpu (see `medseg info`)")
    if number and int(number) >= torch.cuda.device_count():
        raise ResourceError(
            f"device {name}: there are {torch.cuda.device_count()} GPU(s), numbered from 0; see `medseg info`"
        )
    return torch.device(name)


def bf16_pays(device: torch.device) -> bool:
    """True where bfloat16 has hardware: AVX512-BF16 or AMX on the CPU, Ampere or later on a GPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capability = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(capability and capability()) or bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def cpu_threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
