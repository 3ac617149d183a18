"""Info: what a bug report needs, and nothing that names a person or a machine."""

import os
import platform
from typing import Any

from medseg.core.provenance import versions


def info() -> dict[str, Any]:
    """Versions, platform, cores, and the devices that torch sees."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = {
        f"cuda:{n}": f"{(p := torch.cuda.get_device_properties(n)).name}, {p.total_memory / 2**30:.0f} GiB"
        for n in range(count)
    }
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": {
            "cores": os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "fast": torch.backends.cpu.get_cpu_capability(),
        },
        "cuda": "yes" if gpus else "no",
        **({"gpus": gpus} if gpus else {}),
    }
