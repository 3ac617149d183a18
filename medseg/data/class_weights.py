"""Class imbalance: how much each class weighs in a loss and in sampling, decided once from the voxels of the cases."""

import math

from medseg.core.component import Component
from medseg.core.labels import Labels
from medseg.core.plan import Fingerprint


def decided_loss(loss: Component, labels: Labels, fingerprint: Fingerprint) -> Component:
    """``loss`` with its ``weights: auto`` as numbers; ``weighted_ce`` is auto unless they are given."""
    asked = loss.options.get("weights", "auto" if loss.name == "weighted_ce" else None)
    if not isinstance(asked, str) or asked != "auto":
        return loss
    return Component(name=loss.name, options={**loss.options, "weights": inverse_frequency(labels, fingerprint)})


def inverse_frequency(labels: Labels, fingerprint: Fingerprint) -> list[float]:
    """One weight for the background and for each structure: all voxels / (classes x its voxels), so that all weigh alike.

    Of regions: the voxels outside / those inside. A class without any voxel weighs as much as the rarest other one.
    """
    voxels = {
        name: fingerprint.voxels_per_structure[name] * fingerprint.cases_per_structure[name] for name in labels.names
    }
    everything = sum(math.prod(shape) for shape in fingerprint.shapes) - fingerprint.ignored_voxels
    if labels.regions:
        inside = [sum(voxels[name] for name in region.structures) for region in labels.regions]
        weights = [(everything - n) / n if n else math.nan for n in inside]
    else:
        counts = [everything - sum(voxels.values()), *voxels.values()]
        weights = [everything / (len(counts) * n) if n else math.nan for n in counts]
    largest = max((w for w in weights if not math.isnan(w)), default=1.0)
    return [float(f"{largest if math.isnan(w) else w:.6g}") for w in weights]


def decided_sampling(asked: str | dict[str, float], fingerprint: Fingerprint) -> dict[str, float]:
    """How likely a patch is centred on each structure of its case, relative to the others; empty: all alike.

    ``frequency``: by the mean number of voxels, so that the large ones are seen most, as any voxel of them would be.
    """
    if asked == "balanced":
        return {}
    return dict(fingerprint.voxels_per_structure) if isinstance(asked, str) else dict(asked)
