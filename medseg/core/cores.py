"""How many cores there are to work on."""

import os
import sys


def cores() -> int:
    """Cores that this process may run on, at least 1."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
