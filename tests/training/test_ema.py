"""The running mean by hand."""

import pytest
import torch
from torch import nn

from medseg.training.ema import Ema


def single(value: float) -> nn.Module:
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(value)
    return network


def test_the_mean_by_hand():
    network = single(1.0)
    ema = Ema(network, 0.5)
    mean = 1.0
    for step, value in enumerate([2.0, -1.0, 4.0, 0.5, 3.0, 7.0, 1.0, 2.0, 8.0, 5.0, 6.0]):
        network.weight.data.fill_(value)
        ema.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))  # 0.1, 0.18, 0.25 ... and 0.5 from step 8 on
        mean = decay * mean + (1 - decay) * value
        assert float(ema.state["weight"]) == pytest.approx(mean, rel=1e-6)


def test_it_follows_no_later_change_and_changes_no_weight():
    network = single(1.0)
    ema = Ema(network, 0.9)
    network.weight.data.fill_(5.0)
    assert float(ema.state["weight"]) == 1.0
    ema.update(network, 0)
    assert network.weight.item() == 5.0
    assert not ema.state["weight"].requires_grad


def test_loading_takes_over_the_values():
    ema = Ema(single(1.0), 0.9)
    given = {"weight": torch.full((1, 1), 3.0)}
    ema.load(given)
    given["weight"].fill_(9.0)
    assert float(ema.state["weight"]) == 3.0
    with pytest.raises(KeyError):
        ema.load({})
