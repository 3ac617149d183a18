"""The processes that train together: one, or as many as torchrun started."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torch import distributed

from medseg.core.errors import ResourceError

FOREVER = timedelta(days=365)  # the others wait while the first preprocesses or validates, however long that takes
_LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket", re.IGNORECASE)


@dataclass(frozen=True)
class Team:
    """This process among ``count`` of them on so many ``nodes``.

    The one of ``rank`` 0 leads: it alone checks, writes, validates and speaks.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    nodes: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def largest(self, value: float) -> float:
        """The largest ``value`` of all processes; they wait for each other."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return float(shared)

    def mean(self, value: float) -> float:
        """The mean of every process's ``value``; they wait for each other."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(shared)
        return float(shared) / self.count

    def wait(self) -> None:
        """Return when every process is here."""
        self.largest(0.0)


ALONE = Team()


def leads() -> bool:
    """True in the one process that speaks, also before and after the ``team``."""
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        return True
    from lightning.fabric.plugins.environments import TorchElasticEnvironment

    return bool(TorchElasticEnvironment().global_rank() == 0)


@contextmanager
def team() -> Iterator[Team]:
    """Join the processes that torchrun started; without torchrun this process is alone.

    Raises ResourceError where another process ends before the work is done.
    """
    if not distributed.is_available() or not distributed.is_torchelastic_launched():
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, timeout=FOREVER)
    here = Team(distributed.get_rank(), distributed.get_world_size(), distributed.get_node_local_rank())
    try:
        yield replace(here, nodes=here.count // round(here.largest(here.local_rank + 1.0)))
    except RuntimeError as error:
        if here.count == 1 or not _LOST.search(str(error)):
            raise
        raise ResourceError(
            f"process {here.rank} of {here.count}: another process of this training has ended; its own message says why, "
            "the last checkpoint is kept: start again with --resume"
        ) from error
    finally:
        distributed.destroy_process_group()
