"""`medseg infer` up to its first window: run by inference.py --start, as a process of its own.

Prints the seconds since the moment that its first argument names (of `time.time()`), and ends there; the others are the command.
"""

import os
import sys
import threading
import time


def watch(began: float) -> None:
    """Wait until the engine is imported, by whatever thread, and put a clock where its windows begin."""
    name = "medseg.inference.windows_of_scan"
    while not hasattr(sys.modules.get(name), "WindowsOfScan"):
        time.sleep(0.002)

    def first(*arguments: object, **options: object) -> None:
        print(time.time() - began, flush=True)
        os._exit(0)

    for stream in ("stream_bricks", "stream_logits"):
        setattr(sys.modules[name], stream, first)


if __name__ == "__main__":
    moment, *command = sys.argv[1:]
    threading.Thread(target=watch, args=(float(moment),), daemon=True).start()
    sys.argv = ["medseg", *command]
    from medseg.__main__ import main

    main()
