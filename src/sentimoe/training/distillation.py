"""Distillation: a student learns what a trained model answers and what it thinks, on texts with or without labels.

`loss = (1 - w) CE + w T^2 KL(teacher || student) + h MSE(last hidden states)`: Hinton et al. 2015 for the softened
answers; the hidden states are compared over real tokens, relative to the mean square of the teacher's. Texts without a
label have label -100 and no cross entropy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

NO_LABEL = -100


class Distillation:
    """The teacher and how much it counts.

    weight: `w`, 0 to 1. temperature: `T`. hidden_weight: `h`; 0 where the models have different hidden sizes.
    """

    def __init__(self, teacher: PreTrainedModel, weight: float, temperature: float, hidden_weight: float):
        self.teacher = teacher.eval().requires_grad_(False)
        self.weight, self.temperature, self.hidden_weight = weight, temperature, hidden_weight

    def loss(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """The loss of the student on tokenised texts with labels `[B]`, and its output."""
        self.teacher.to(inputs["input_ids"].device)
        given = {name: value for name, value in inputs.items() if name != "labels"}
        hidden = self.hidden_weight > 0
        outputs = model(**given, output_hidden_states=hidden)
        with torch.no_grad():
            wanted = self.teacher(**given, output_hidden_states=hidden)
        labels, logits = inputs["labels"], outputs.logits.float()
        labelled = (labels != NO_LABEL).sum().clamp_min(1)
        task = F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum") / labelled
        soft = [(each.float() / self.temperature).log_softmax(-1) for each in (outputs.logits, wanted.logits)]
        answers = F.kl_div(soft[0], soft[1], reduction="batchmean", log_target=True) * self.temperature**2
        loss = (1 - self.weight) * task + self.weight * answers
        if hidden:
            real = given["attention_mask"].bool()
            ours, theirs = (each.hidden_states[-1][real].float() for each in (outputs, wanted))
            loss = loss + self.hidden_weight * F.mse_loss(ours, theirs) / theirs.square().mean()
        aux_loss = outputs.get("aux_loss")
        return loss if aux_loss is None else loss + aux_loss, outputs
