"""Distillation: a student learns what trained models answer and what one of them thinks, with or without labels.

`loss = (1 - w) CE + w T^2 KL(teachers || student) + h MSE(last hidden states)`: Hinton et al. 2015 for the softened
answers, whose mean over several teachers is one; the hidden states are compared over real tokens, relative to the mean
square of the teacher's. Texts without a label have label -100 and no cross entropy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

NO_LABEL = -100
TEACHER_PROBS = "teacher_probs"  # a column of the training set


class Distillation:
    """How much the teachers count, and the teacher whose hidden states are learnt, if there is one.

    weight: `w`, 0 to 1. temperature: `T`. hidden_weight: `h`. token_dropout: share of the tokens that teacher and
    student both do not read, drawn anew for every batch, so that they come to agree on more than the training texts.
    Without a `teacher` that runs along, a batch holds the softened answers `[B, C]` under `TEACHER_PROBS`.
    """

    def __init__(
        self,
        weight: float,
        temperature: float,
        hidden_weight: float = 0.0,
        teacher: PreTrainedModel | None = None,
        token_dropout: float = 0.0,
    ):
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.weight, self.temperature, self.hidden_weight = weight, temperature, hidden_weight
        self.token_dropout = token_dropout

    def loss(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """The loss of the student on tokenised texts with labels `[B]`, and its output."""
        given = {name: value for name, value in inputs.items() if name not in ("labels", TEACHER_PROBS)}
        if self.token_dropout > 0:
            given["attention_mask"] = drop_tokens(given["attention_mask"], self.token_dropout)
        outputs = model(**given, output_hidden_states=self.hidden_weight > 0)
        labels, logits = inputs["labels"], outputs.logits.float()
        labelled = (labels != NO_LABEL).sum().clamp_min(1)
        task = F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum") / labelled
        if self.teacher is None:
            wanted = inputs[TEACHER_PROBS].float().clamp_min(1e-12).log()
        else:
            self.teacher.to(inputs["input_ids"].device)
            with torch.no_grad():
                taught = self.teacher(**given, output_hidden_states=self.hidden_weight > 0)
            wanted = (taught.logits.float() / self.temperature).log_softmax(-1)
        ours = (logits / self.temperature).log_softmax(-1)
        soft_loss = F.kl_div(ours, wanted, reduction="batchmean", log_target=True) * self.temperature**2
        loss = (1 - self.weight) * task + self.weight * soft_loss
        if self.hidden_weight > 0:
            real = given["attention_mask"].bool()
            student, teacher_hidden = (each.hidden_states[-1][real].float() for each in (outputs, taught))
            loss = loss + self.hidden_weight * F.mse_loss(student, teacher_hidden) / teacher_hidden.square().mean()
        aux_loss = getattr(outputs, "aux_loss", None)
        return loss if aux_loss is None else loss + aux_loss, outputs


def drop_tokens(mask: torch.Tensor, share: float) -> torch.Tensor:
    """An attention mask `[B, L]` in which that share of the real tokens is closed.

    Never the first or the last one of a text: heads read them, and a decoder's finds the last one by its id.
    """
    real = mask.bool()
    first = real & (mask.cumsum(dim=1) == 1)
    last = real & (mask.flip(1).cumsum(dim=1).flip(1) == 1)
    kept = (torch.rand(mask.shape, device=mask.device) >= share) | first | last
    return mask * kept.to(mask.dtype)
