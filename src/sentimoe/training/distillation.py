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

    def drop_tokens(self, inputs: dict[str, Any]) -> None:
        """Close some tokens of tokenised texts, for teacher and student alike."""
        if self.token_dropout > 0:
            inputs["attention_mask"] = drop_tokens(inputs["attention_mask"], self.token_dropout)

    def taught(self, given: dict[str, Any]) -> Any:
        """What the teacher answers that runs along; None without one."""
        if self.teacher is None:
            return None
        self.teacher.to(given["input_ids"].device)
        with torch.no_grad():
            return self.teacher(**given, output_hidden_states=self.hidden_weight > 0)

    def square(self, taught: Any, real: torch.Tensor) -> torch.Tensor:
        """The mean square of the teacher's hidden states over real tokens. real: `[B, L]` bool."""
        return taught.hidden_states[-1][real].float().square().mean()

    def distance(self, outputs: Any, taught: Any, real: torch.Tensor) -> torch.Tensor:
        """The mean square of what the student's hidden states lack to the teacher's. real: `[B, L]` bool."""
        student, teacher = (each.hidden_states[-1][real].float() for each in (outputs, taught))
        return F.mse_loss(student, teacher)

    def answers_loss(self, logits: torch.Tensor, inputs: dict[str, Any], taught: Any) -> torch.Tensor:
        """The softened answers, a mean over the texts."""
        if taught is None:
            wanted = inputs[TEACHER_PROBS].float().clamp_min(1e-12).log()
        else:
            wanted = (taught.logits.float() / self.temperature).log_softmax(-1)
        ours = (logits / self.temperature).log_softmax(-1)
        return F.kl_div(ours, wanted, reduction="batchmean", log_target=True) * self.temperature**2


def drop_tokens(mask: torch.Tensor, share: float) -> torch.Tensor:
    """An attention mask `[B, L]` in which that share of the real tokens is closed.

    Never the first or the last one of a text: heads read them, and a decoder's finds the last one by its id.
    """
    real = mask.bool()
    first = real & (mask.cumsum(dim=1) == 1)
    last = real & (mask.flip(1).cumsum(dim=1).flip(1) == 1)
    kept = (torch.rand(mask.shape, device=mask.device) >= share) | first | last
    return mask * kept.to(mask.dtype)
