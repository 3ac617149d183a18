"""Sums that a loss takes over the whole batch of a step, wherever its parts are."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, distributed
from torch.autograd import Function


class _Sum(Function):
    """The sum over processes; so is the gradient, since each process's loss depends on what all of them added."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return _added(value)

    @staticmethod
    def backward(context: Any, *gradient: Tensor) -> Tensor:
        return _added(gradient[0])


def _added(value: Tensor) -> Tensor:
    total = value.detach().clone()
    distributed.all_reduce(total)
    return total


_sum: Callable[[Tensor], Tensor] = _Sum.apply


def over_processes(sums: Tensor) -> Tensor:
    """``sums`` added up over the processes that train together, with their gradient; as they are in one process.

    Each process then has the loss of the whole batch, and the mean of the processes' gradients is that loss's gradient.
    """
    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return sums
    return _sum(sums)
