"""Full fine-tuning: every weight of the dense classifier is trained."""

from __future__ import annotations

from transformers import PreTrainedModel


def full_fine_tuning(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it is, everything trainable."""
    return model.requires_grad_(True)
