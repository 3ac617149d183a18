"""When windows' features are blended in place of their logits: see ``models.head``."""

from medseg.inference.settings import InferenceSettings
from medseg.models.bundle import Model
from medseg.models.head import features_of


def blends_features(model: Model, settings: InferenceSettings) -> bool:
    """Whether the last layer of ``model`` runs after blending: where its features are fewer than its outputs.

    Not where nnU-Net's roundings of logits are wanted, nor where what is averaged is not linear in the features:
    probabilities of folds, or logits of mirrored windows that change their places.
    """
    labels = model.plan.structure_labels
    turned = 0 in settings.mirror and settings.mirror_labels == "swapped"
    swapped = turned and list(labels.output_swaps) != list(range(labels.outputs))
    if swapped or len(model.card.weights) > 1 or settings.accumulators == "nnunet":
        return False
    return features_of(model.plan) < labels.outputs
