"""Padding inside a network, for architectures that need sizes of a certain multiple."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import pad


class Padded(nn.Module):
    """Appends zeros to a patch (B, C, *spatial) up to multiples of ``multiple`` and cuts the logits back to its size.

    ``multiple`` has one number an axis. At least two of them lie in a padded patch, because instance norm has nothing to
    norm in a single voxel. Every logits tensor of ``network`` is of the size of its input. Save and load ``.network``.
    """

    def __init__(self, network: nn.Module, multiple: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.multiple = tuple(multiple)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        size = list(x.shape[2:])
        counts = [math.ceil(n / m) for n, m in zip(size, self.multiple, strict=True)]
        if math.prod(counts) < 2:
            counts[-1] += 1
        missing = [c * m - n for c, m, n in zip(counts, self.multiple, size, strict=True)]
        if not any(missing):
            whole: Tensor | list[Tensor] = self.network(x)
            return whole
        logits = self.network(pad(x, [p for n in reversed(missing) for p in (0, n)]))
        return _cut(logits, size) if isinstance(logits, Tensor) else [_cut(one, size) for one in logits]


def _cut(x: Tensor, size: Sequence[int]) -> Tensor:
    for axis, n in enumerate(size, start=2):
        x = x.narrow(axis, 0, n)
    return x
