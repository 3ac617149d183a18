"""What befalls the workers of the tests' cluster: some cases take time, some kill whoever does them."""

import os
import signal
import time

from distributed import WorkerPlugin

from medseg.workflows import cluster_worker


class Deadly(WorkerPlugin):
    """Cases named `poison` end their worker as the kernel does when memory runs out; each other takes a moment longer."""

    name = "deadly"

    def __init__(self, seconds: float = 0.1) -> None:
        self.seconds = seconds

    def setup(self, worker):  # type: ignore[no-untyped-def]
        real = getattr(cluster_worker.run_one, "real", cluster_worker.run_one)

        def run_one(common, job, order):  # type: ignore[no-untyped-def]
            if order.name.startswith("poison"):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.seconds)
            return real(common, job, order)

        run_one.real = real  # type: ignore[attr-defined]
        cluster_worker.run_one = run_one
