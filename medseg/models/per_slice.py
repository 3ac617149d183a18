"""A 2D network that takes and gives 3D patches, so that nothing else needs to know about slices."""

from torch import Tensor, nn

from medseg.core.errors import ConfigError


class PerSlice(nn.Module):
    """Applies a 2D ``network`` to every slice of a patch (B, C, I, J, K) across spatial ``axis`` 0, 1 or 2.

    The logits, or each of a list of them, come back as (B, structures, ...) with the slices on the same axis. That axis
    keeps its size, also where deep supervision halves the others. Save and load ``.network``: its keys are those of the
    2D network. Raises ConfigError for another axis.
    """

    def __init__(self, network: nn.Module, axis: int) -> None:
        super().__init__()
        if axis not in (0, 1, 2):
            raise ConfigError(f"slice axis is {axis!r}; expected 0, 1 or 2 (i, j or k)")
        self.network = network
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        slices = x.movedim(2 + self.axis, 1)
        logits: Tensor | list[Tensor] = self.network(slices.flatten(0, 1))
        if isinstance(logits, Tensor):
            return self._unfold(logits, slices.shape[1])
        return [self._unfold(one, slices.shape[1]) for one in logits]

    def _unfold(self, logits: Tensor, count: int) -> Tensor:
        return logits.reshape(-1, count, *logits.shape[1:]).movedim(1, 2 + self.axis)
