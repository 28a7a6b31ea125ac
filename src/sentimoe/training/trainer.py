"""The Hugging Face Trainer with rates of their own for routers and gates, and optional class weights."""

from __future__ import annotations

import math
from functools import reduce
from itertools import islice
from operator import add
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EvalPrediction
from transformers.trainer_utils import EvalLoopOutput

from ..errors import ConfigError, DivergedError
from ..moe import Experts, Router
from ..upcycle import moe_layers
from . import processes
from .balance import SHARES, expert_shares
from .batches import STAND_IN
from .distillation import Distillation
from .objective import Answers, Objective, Sums
from .resuming import ResumableTrainer
from .tokens import ROW


class SentimentTrainer(ResumableTrainer):
    """Trains a classifier, on one process or several: a step's loss and gradients are those of its whole batch.

    rates: learning rates of the groups "router" and "gate"; a missing group has the common rate.
    class_weights: `[C]`, weights of the cross entropy; None: all 1.
    distillation: a teacher to learn from; its loss takes the place of the cross entropy in training.
    batch_size: texts of a step, all processes together; None: what the arguments say.

    Raises DivergedError, before the step is applied, when loss or gradients are not finite, and before a checkpoint is
    written, when weights are not.
    """

    def __init__(
        self,
        *args: Any,
        rates: dict[str, float],
        class_weights: torch.Tensor | None = None,
        distillation: Distillation | None = None,
        **kwargs: Any,
    ):
        self.optimizer: Any = None
        self.load: torch.Tensor | None = None
        self.control: Any
        self.parts: list[dict[str, Any]] = []  # of a batch that this process reads
        self.whole: Sums | None = None  # what all of them add up to, where it is known beforehand
        super().__init__(*args, **kwargs)
        self.rates = rates
        self.scored = Objective(class_weights)
        self.objective = self.scored if distillation is None else Objective(distillation=distillation)

    def create_optimizer(self, model=None):
        """AdamW over the groups of `parameter_groups`."""
        if self.optimizer is None:
            groups = parameter_groups(
                self.model, set(self.get_decay_parameter_names(self.model)), self.args.weight_decay, self.rates
            )
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(groups, **arguments)
        return self.optimizer

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The parts of the next batch that this process reads."""
        self.parts = [self._on_device(part) for part in islice(epoch_iterator, num_batches)]
        self.whole = None
        return self.parts, None

    def training_step(self, model, inputs, num_items_in_batch=None):
        """What a part adds to the loss of its batch, all processes together; its gradients are computed."""
        if self.whole is None:
            self._begin_batch()
        loss = super().training_step(model, inputs, num_items_in_batch)
        loss = processes.summed(loss) / processes.count()
        self._check_step(loss, "loss")
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """What a part adds to the loss of its batch, times what it is divided by later: processes and steps."""
        answers = self.objective.answers(model, inputs)
        own = self.objective.sums(answers)
        whole = own.of_all_processes() if self.whole is None else self.whole
        self._note_load(answers, whole)
        loss = self.objective.loss(answers, own, whole) * processes.count() * max(len(self.parts), 1)
        return (loss, answers.outputs) if return_outputs else loss

    def _begin_batch(self) -> None:
        """Draw what a batch leaves out; where it is read in several steps, find out first what its parts add up to."""
        for part in self.parts:
            self.objective.drop_tokens(part)
        if len(self.parts) == 1:
            return
        answers = [Answers(part) for part in self.parts]
        if self.objective.needs_answers(self.model):
            self.model.eval()
            with torch.no_grad():
                answers = [self.objective.answers(self.model, part) for part in self.parts]
        self.whole = reduce(add, map(self.objective.sums, answers)).of_all_processes()

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: value.to(self.args.device) for name, value in inputs.items()}

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        self._check_step(norm, "norm of the gradients")
        return norm

    def _check_step(self, value: torch.Tensor, name: str) -> None:
        if math.isfinite(value):
            return
        own = [
            (row, ids) for part in self.parts for row, ids in zip(part[ROW].tolist(), part["input_ids"], strict=True)
        ]
        read = [(row, self._beginning(ids)) for row, ids in own if row != STAND_IN]
        read = sorted(each for found in processes.of_all(read) for each in found)
        raise DivergedError(
            f"training diverged: the {name} of step {self.state.global_step + 1} of {self.state.max_steps} is "
            f"{float(value)}, and the step was not applied; it read the training texts "
            f"{', '.join(str(row) for row, _ in read)} ({', '.join(text for _, text in read[:3])}, ...); "
            f"try a learning_rate below {self.args.learning_rate:g}, or look at these texts"
        )

    def _beginning(self, ids: torch.Tensor) -> str:
        return repr(self.processing_class.decode(ids, skip_special_tokens=True)[:60])

    def _save_checkpoint(self, model, trial):
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise DivergedError(
                    f"training diverged: after step {self.state.global_step} of {self.state.max_steps} {name} holds "
                    f"weights that are not finite; try a learning_rate below {self.args.learning_rate:g}"
                )
        super()._save_checkpoint(model, trial)

    def _note_load(self, answers: Answers, whole: Sums) -> None:
        """Keep what each expert reads of a batch after which a row is logged."""
        if (self.state.global_step + 1) % self.args.logging_steps == 0:
            routing = answers.routing
            self.load = None if routing is None else whole.load(routing.num_experts_per_tok)

    def log(self, logs, start_time=None):
        """Log a row, with the share of the tokens that each expert reads where it is one of a loss."""
        if "loss" in logs and self.load is not None:
            logs[SHARES] = expert_shares(self.load, moe_layers(self.model)[0].num_experts_per_tok)
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        """What all processes together answer to the validation texts, and the loss, which asks no teacher."""
        self.model.eval()
        logits, labels, loss, texts = [], [], torch.zeros((), device=self.args.device), 0.0
        for part in map(self._on_device, dataloader):
            with torch.no_grad():
                answers = self.scored.answers(self.model, part)
                own = self.scored.sums(answers)
                whole = own.of_all_processes()
                loss += self.scored.loss(answers, own, whole) * whole.texts
            texts += float(whole.texts)
            if answers.counts:
                logits.append(answers.outputs.logits.float().cpu().numpy())
                labels.append(part["labels"].cpu().numpy())
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        read = processes.of_all((logits, labels))
        found, true = (np.concatenate([part for one in read for part in one[which]]) for which in (0, 1))
        scores = self.compute_metrics(EvalPrediction(found, true))
        scores = {"loss": float(processes.summed(loss)) / texts, **scores}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in scores.items()}
        return EvalLoopOutput(found, true, metrics, len(true))


def parameter_groups(
    model: nn.Module, decayed: set[str], weight_decay: float, rates: dict[str, float]
) -> list[dict[str, Any]]:
    """Optimizer groups: routers, gate projections and the rest, each with and without weight decay.

    Raises ConfigError for a rate that no trained parameter would have.
    """
    kinds: dict[int, str] = {}
    for module in model.modules():
        if isinstance(module, Router):
            kinds |= {id(tensor): "router" for tensor in module.parameters()}
        elif isinstance(module, Experts) and module.has_gate:
            kinds |= {id(tensor): "gate" for tensor in (module.in_proj, module.in_proj_bias) if tensor is not None}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((kinds.get(id(parameter), "rest"), name in decayed), []).append(parameter)
    for kind in set(rates) - {kind for kind, _ in groups}:
        raise ConfigError(f"{kind}_learning_rate is given, but no {kind} is trained here; leave it out")
    return [
        {"params": parameters, "weight_decay": weight_decay if decays else 0.0}
        | ({"lr": rates[kind]} if kind in rates else {})
        for (kind, decays), parameters in groups.items()
    ]
