"""The loss of a step, which is that of its whole batch, wherever the parts of the batch are read.

A mean over a batch is the sum of the means over its parts, each times its share of the texts (or of the tokens). The
load-balancing loss is no mean but a product, `E sum_e load_e * p_e`; only `p` has a gradient, so once `load` is that of
the whole batch it is a mean over tokens as well. The distance of hidden states is divided by a mean in the same way. So
what is summed over the parts beforehand (`Sums`) needs no gradient, and the losses of the parts add up to the loss that
one process has of the batch, as do their gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ..moe import Routing
from ..upcycle import moe_layers
from . import processes
from .batches import STAND_IN
from .distillation import NO_LABEL, TEACHER_PROBS, Distillation
from .tokens import ROW

NOT_READ = ("labels", ROW, TEACHER_PROBS)  # columns of a batch that the model does not take


@dataclass(frozen=True)
class Answers:
    """What a model answers to a part of a batch. taught: what the teacher answers that runs along.

    inputs: the part, with `labels` `[B]`. Nobody has answered it yet where there is no more.
    """

    inputs: dict[str, torch.Tensor]
    outputs: Any = None
    taught: Any = None

    @property
    def counts(self) -> bool:
        """Whether it is a part, and not a stand-in for an empty one."""
        return ROW not in self.inputs or int(self.inputs[ROW][0]) != STAND_IN

    @property
    def routing(self) -> Routing | None:
        """What the routers decided; None without experts."""
        return getattr(self.outputs, "routing", None)

    @property
    def real(self) -> torch.Tensor:
        """Which tokens of the texts are real, `[B, L]` bool."""
        ids = self.inputs["input_ids"]
        return self.inputs.get("attention_mask", torch.ones_like(ids)).bool()


@dataclass(frozen=True)
class Sums:
    """What the parts of a batch add up to: float64, without gradients.

    texts: how many. weights: of their labels. tokens: real ones. squares: the mean square of the teacher's hidden
    states times the tokens. pairs: `[N, E]`, (token, choice) pairs of each expert; of none without experts.
    """

    texts: torch.Tensor
    weights: torch.Tensor
    tokens: torch.Tensor
    squares: torch.Tensor
    pairs: torch.Tensor

    def __add__(self, other: Sums) -> Sums:
        return Sums(**{name: value + vars(other)[name] for name, value in vars(self).items()})

    def of_all_processes(self) -> Sums:
        """The sums over the parts that all processes read."""
        values = vars(self)
        flat = processes.summed(torch.cat([value.flatten() for value in values.values()]))
        parts = flat.split([value.numel() for value in values.values()])
        return Sums(**{name: part.view_as(values[name]) for name, part in zip(values, parts, strict=True)})

    def load(self, num_experts_per_tok: int) -> torch.Tensor:
        """`[N, E]` float32: the share of the (token, choice) pairs that each expert reads."""
        return self.pairs.float() / self.tokens.clamp_min(1) / num_experts_per_tok


class Objective:
    """What is minimised: cross entropy, or what a teacher adds to it, and the auxiliary losses of routers.

    class_weights: `[C]`, weights of the cross entropy; None: all 1. distillation: without class weights.
    """

    def __init__(self, class_weights: torch.Tensor | None = None, distillation: Distillation | None = None):
        self.class_weights, self.distillation = class_weights, distillation

    def drop_tokens(self, inputs: dict[str, Any]) -> None:
        """Close the tokens of a part that neither teacher nor student is to read."""
        if self.distillation is not None:
            self.distillation.drop_tokens(inputs)

    def answers(self, model: Any, inputs: dict[str, Any]) -> Answers:
        """Ask the model, and the teacher where one runs along."""
        given = {name: value for name, value in inputs.items() if name not in NOT_READ}
        if self.distillation is None:
            return Answers(inputs, model(**given))
        outputs = model(**given, output_hidden_states=self.distillation.hidden_weight > 0)
        return Answers(inputs, outputs, self.distillation.taught(given))

    def needs_answers(self, model: Any) -> bool:
        """Whether the sums of a part are known only once the model, or the teacher, is asked."""
        hidden = 0.0 if self.distillation is None else self.distillation.hidden_weight
        return hidden > 0 or bool(moe_layers(model))

    def sums(self, answers: Answers) -> Sums:
        """What a part adds to the sums of its batch."""
        labels, routing = answers.inputs["labels"], answers.routing
        tokens = (answers.real if routing is None else routing.mask).sum()  # the latter has virtual ones too
        labelled = labels[labels != NO_LABEL]
        weights = torch.ones_like(labelled) if self.class_weights is None else self._weights(labels)[labelled]
        squares = torch.zeros((), device=labels.device)
        if self.distillation is not None and self.distillation.hidden_weight > 0:
            squares = self.distillation.square(answers.taught, answers.real) * tokens
        pairs = torch.zeros(0, device=labels.device) if routing is None else routing.expert_pairs
        found = Sums(torch.ones_like(labels).sum(), weights.sum(), tokens, squares, pairs)
        return Sums(**{name: value.detach().double() * answers.counts for name, value in vars(found).items()})

    def loss(self, answers: Answers, own: Sums, whole: Sums) -> torch.Tensor:
        """What a part adds to the loss of its batch. own: what it adds to the sums. whole: those of all parts."""
        logits, labels, routing = answers.outputs.logits.float(), answers.inputs["labels"], answers.routing
        if self.distillation is None:
            loss = F.cross_entropy(logits, labels, weight=self._weights(labels)) * _share(own.weights, whole.weights)
        else:
            loss = self._distillation(self.distillation, answers, own, whole)
        if routing is None:
            return loss
        load = whole.load(routing.num_experts_per_tok)
        return loss + routing.aux_loss_at(load) * _share(own.tokens, whole.tokens)

    def _distillation(self, told: Distillation, answers: Answers, own: Sums, whole: Sums) -> torch.Tensor:
        logits, labels = answers.outputs.logits.float(), answers.inputs["labels"]
        task = F.cross_entropy(logits, labels, ignore_index=NO_LABEL, reduction="sum") * answers.counts
        taught = told.answers_loss(logits, answers.inputs, answers.taught) * _share(own.texts, whole.texts)
        loss = (1 - told.weight) * (task / whole.weights.float().clamp_min(1)) + told.weight * taught
        if told.hidden_weight > 0:
            distance = told.distance(answers.outputs, answers.taught, answers.real) * _share(own.tokens, whole.tokens)
            loss = loss + told.hidden_weight * distance / _share(whole.squares, whole.tokens)
        return loss

    def _weights(self, labels: torch.Tensor) -> Any:
        return None if self.class_weights is None else self.class_weights.to(labels.device)


def _share(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return (part / whole).float()
