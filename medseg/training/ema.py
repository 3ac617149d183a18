"""The running mean of the weights: what is validated and shipped."""

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a network's weights (Polyak and Juditsky 1992, doi:10.1137/0330046).

    The decay grows from 0 towards ``decay`` as (1 + step) / (10 + step), so that early weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {key: value.detach().clone() for key, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the mean towards the weights after ``step`` (from 0)."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        current = network.state_dict()
        means, values = list(self.state.values()), [current[key] for key in self.state]
        torch._foreach_lerp_(means, values, share)

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a saved mean."""
        for key, value in self.state.items():
            value.copy_(state[key])
