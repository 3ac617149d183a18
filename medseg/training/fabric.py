"""Lightning Fabric: where precision and the exchange between processes come from."""

import logging
import warnings
from typing import Any

import torch

from medseg.training.team import ALONE, FOREVER, Team

PRECISIONS = {"bf16": "bf16-mixed", "fp16": "16-mixed"}  # of Fabric; weights and updates stay float32


def make_fabric(device: torch.device, precision: str, team: Team = ALONE) -> Any:
    """Fabric for ``device`` in ``f32``, ``bf16`` or ``fp16`` (autocast), and for the processes of ``team``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric's hints about other launchers
        from lightning.fabric import Fabric
        from lightning.fabric.plugins import MixedPrecision, Precision
        from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
        from lightning.fabric.strategies import DDPStrategy, SingleDeviceStrategy

        for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they announce each precision
        parts = MixedPrecision(PRECISIONS[precision], device.type) if precision in PRECISIONS else Precision()
        if team.count == 1:  # whatever a cluster has put into the environment
            alone = SingleDeviceStrategy(device, precision=parts)
            return Fabric(accelerator=device.type, strategy=alone, plugins=[LightningEnvironment()])
        # The lowest head of deep supervision has weight 0, so that its parameters get no gradient.
        shared = DDPStrategy(precision=parts, timeout=FOREVER, find_unused_parameters=True)
        devices = team.count // team.nodes
        fabric = Fabric(
            accelerator=device.type,
            devices=devices,
            num_nodes=team.nodes,
            strategy=shared,
            plugins=[TorchElasticEnvironment()],
        )
        fabric.launch()
        return fabric
