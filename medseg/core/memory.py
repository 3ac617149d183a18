"""What this process holds, and whether what comes next still fits beside it."""

import mmap
import sys
from collections.abc import Sequence
from math import prod
from pathlib import Path

from medseg.core.errors import ResourceError

SLACK = 192 * 2**20  # what an allocator keeps, and libraries that load when first used, as for writing files

TORCH_BYTES = 128 * 2**20
"""What PyTorch alone adds to a process once it is imported, at least: 180 MiB were measured, and more where there is a GPU."""


def resident_bytes() -> int:
    """What this process holds now; 512 MiB where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 512 * 2**20


def most_resident_bytes() -> int:
    """The most that this process ever held; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, ValueError, IndexError, StopIteration):
        return 0


def gib(size: int) -> str:
    """``size`` bytes in GiB."""
    return f"{size / 2**30:.2f}"


def check_room(name: str, needed: int, most: int | None) -> None:
    """Raise ResourceError where ``needed`` bytes more are beyond the ``most`` that this process may hold (None: any)."""
    if most is not None and (held := resident_bytes()) + needed > most:
        raise ResourceError(
            f"{name}: max-memory {gib(most)} GiB does not suffice: to read and segment it takes at least {gib(needed)} GiB beside "
            f"the {gib(held)} GiB that this process holds; give more, or crop the scan"
        )


def check_start(name: str, most: int | None) -> None:
    """``check_room`` for what runs the model ``name``, before it is imported."""
    torch = _torch_to_come()
    if most is not None and (held := resident_bytes()) + torch > most:
        raise ResourceError(
            f"{name}: max-memory {gib(most)} GiB does not suffice: any model needs at least {gib(held + torch)} GiB before it "
            "sees a scan; give more"
        )


def _torch_to_come() -> int:
    return 0 if "torch" in sys.modules else TORCH_BYTES


def check_scan_room(
    name: str, shape: Sequence[int], channels: int, *, stored: int, converted: bool, most: int | None
) -> None:
    """``check_room`` for a scan of ``shape`` (I, J, K) of which none but the header has been read.

    A voxel takes ``stored`` bytes in each channel, and 4 beside them while it is ``converted`` to float32, which then stay.
    Three more are for its label: on the plan's grid, on the scan's, and in the file. PyTorch runs the model.
    """
    kept = 4 if converted else stored
    reading = stored + kept if converted else stored
    needed = prod(shape) * max(channels * reading, channels * kept + 3) + SLACK
    check_room(name, needed + _torch_to_come(), most)
