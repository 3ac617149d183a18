"""OPTIMIZERS against their formulas, SCHEDULES at values by hand, and what every entry promises."""

import math

import pytest
import torch
from torch.nn import Parameter

from medseg.core.component import Component, build
from medseg.core.errors import ConfigError
from medseg.training.optimizers import (
    DEFAULT_LEARNING_RATE,
    OPTIMIZERS,
    SCHEDULES,
    cosine,
    poly,
    warmup_cosine,
)

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
every_schedule = pytest.mark.parametrize("name", SCHEDULES)


@every_optimizer
def test_every_optimizer_goes_down_a_parabola(name):
    weight = Parameter(torch.tensor([3.0, -2.0]))
    optimizer = build("optimizer", OPTIMIZERS, Component(name=name), [weight], 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert weight.abs().max() < 0.2


@every_optimizer
def test_every_optimizer_has_a_learning_rate_of_its_own(name):
    assert 1e-5 < DEFAULT_LEARNING_RATE[name] < 0.1


@every_optimizer
def test_an_unknown_option_is_refused_with_those_there_are(name):
    with pytest.raises(ConfigError, match="weight_decay"):
        build("optimizer", OPTIMIZERS, Component(name=name, options={"decay": 1}), [Parameter(torch.zeros(1))], 0.1)


def first_steps(name: str, gradients: list[float], **options: float) -> list[float]:
    weight = Parameter(torch.tensor([1.0]))
    optimizer = OPTIMIZERS[name]([weight], 0.1, **options)
    values = []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        values.append(float(weight.detach()))
    return values


def test_sgd_is_nesterovs_momentum_with_decay_by_hand():
    weight, velocity, wanted = 1.0, 0.0, []
    for n, gradient in enumerate([0.5, -0.25, 1.0]):
        full = gradient + 3e-5 * weight
        velocity = full if n == 0 else 0.99 * velocity + full
        weight -= 0.1 * (full + 0.99 * velocity)
        wanted.append(weight)
    assert first_steps("sgd", [0.5, -0.25, 1.0]) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("name", "beta2", "decay"), [("adam", 0.999, 0.0), ("adamw", 0.99, 1e-2)])
def test_adam_and_adamw_by_hand(name, beta2, decay):
    weight, m, v, wanted = 1.0, 0.0, 0.0, []
    for n, gradient in enumerate([0.5, -0.25, 1.0], 1):
        weight *= 1 - 0.1 * decay
        m, v = 0.9 * m + 0.1 * gradient, beta2 * v + (1 - beta2) * gradient**2
        weight -= 0.1 * (m / (1 - 0.9**n)) / (math.sqrt(v / (1 - beta2**n)) + 1e-8)
        wanted.append(weight)
    assert first_steps(name, [0.5, -0.25, 1.0]) == pytest.approx(wanted, rel=1e-5)


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1000])
def test_every_schedule_lies_between_0_and_1_and_is_positive_while_training(name, steps):
    schedule = SCHEDULES[name](steps)
    values = [schedule(step) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)
    assert max(values) == pytest.approx(1)
    assert 0 <= schedule(steps + 5) <= 1  # nothing strange behind the end


def test_poly_by_hand():
    assert poly(100)(0) == 1
    assert poly(100)(50) == pytest.approx(0.5**0.9)
    assert poly(100)(99) == pytest.approx(0.01**0.9)
    assert poly(100, power=2.0)(90) == pytest.approx(0.01)


def test_cosine_by_hand():
    assert cosine(100)(0) == 1
    assert cosine(100)(50) == pytest.approx(0.5)
    assert cosine(100)(25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert cosine(100)(100) == pytest.approx(0)
    assert cosine(100, final=0.1)(100) == pytest.approx(0.1)
    assert cosine(100, final=0.1)(50) == pytest.approx(0.55)


def test_warmup_cosine_by_hand():
    schedule = warmup_cosine(100, warmup=0.1)
    assert [schedule(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert schedule(10) == 1
    assert schedule(55) == pytest.approx(0.5)  # half way down the 90 steps that are left
    assert schedule(100) == pytest.approx(0)
    assert warmup_cosine(100, warmup=0.1, final=0.2)(100) == pytest.approx(0.2)


def test_a_rising_part_is_never_followed_by_another():
    values = [warmup_cosine(200)(step) for step in range(200)]
    top = values.index(max(values))
    assert values[: top + 1] == sorted(values[: top + 1])
    assert values[top:] == sorted(values[top:], reverse=True)
