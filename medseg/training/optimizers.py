"""OPTIMIZERS and SCHEDULES: tables of factories; the keyword-only parameters are the YAML options."""

import math
from collections.abc import Callable, Iterable

from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

Parameters = Iterable[Parameter]


def sgd(
    parameters: Parameters, learning_rate: float, *, momentum: float = 0.99, weight_decay: float = 3e-5
) -> Optimizer:
    """Stochastic gradient descent with Nesterov momentum; the defaults are nnU-Net's (doi:10.1038/s41592-020-01008-z)."""
    return SGD(parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=momentum > 0)


def adam(parameters: Parameters, learning_rate: float, *, weight_decay: float = 0.0) -> Optimizer:
    """Adam (Kingma 2015, arXiv:1412.6980), one fused kernel a step."""
    return Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)


def adamw(
    parameters: Parameters, learning_rate: float, *, weight_decay: float = 1e-2, beta2: float = 0.99
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov 2019, arXiv:1711.05101), one fused kernel a step."""
    return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, betas=(0.9, beta2), fused=True)


def never_fused(optimizer: Optimizer) -> None:
    """Make a fused optimizer a plain one: fused ones unscale fp16 gradients themselves, after they should be clipped."""
    for group in optimizer.param_groups:
        group["fused"] = False
    vars(optimizer)["_step_supports_amp_scaling"] = False


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
DEFAULT_LEARNING_RATE = {"sgd": 1e-2, "adam": 1e-3, "adamw": 2e-3}

Schedule = Callable[[int], float]
"""Step (from 0) -> factor of the learning rate, 0 to 1."""


def poly(steps: int, *, power: float = 0.9) -> Schedule:
    """(1 - step / steps) ** power."""
    return lambda step: (1.0 - min(step, steps) / steps) ** power


def cosine(steps: int, *, final: float = 0.0) -> Schedule:
    """Half a cosine from 1 to ``final``."""
    return lambda step: final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * min(step, steps) / steps))


def warmup_cosine(steps: int, *, warmup: float = 0.05, final: float = 0.0) -> Schedule:
    """Linear from near 0 to 1 over the first ``warmup`` share of the steps, then half a cosine to ``final``."""
    first = max(1, round(steps * warmup))
    rest = cosine(max(1, steps - first), final=final)
    return lambda step: (step + 1) / first if step < first else rest(step - first)


def constant(steps: int) -> Schedule:
    """1 at every step."""
    return lambda step: 1.0


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "poly": poly,
    "cosine": cosine,
    "warmup_cosine": warmup_cosine,
    "constant": constant,
}
