"""The Hugging Face Trainer with rates of their own for routers and gates, and optional class weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError, DivergedError
from ..moe import Experts, Router
from ..upcycle import moe_layers
from .balance import SHARES, expert_shares
from .distillation import TEACHER_PROBS, Distillation
from .resuming import ResumableTrainer
from .tokens import ROW


class SentimentTrainer(ResumableTrainer):
    """Trains a classifier whose loss already holds the auxiliary losses.

    rates: learning rates of the groups "router" and "gate"; a missing group has the common rate.
    class_weights: `[C]`, weights of the cross entropy; None: all 1.
    distillation: a teacher to learn from; its loss takes the place of the cross entropy in training.

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
        super().__init__(*args, **kwargs)
        self.rates, self.class_weights, self.distillation = rates, class_weights, distillation

    def _set_signature_columns_if_needed(self):
        """Keep the answers of the teachers, which the model itself does not take."""
        self._signature_columns: list[str]
        super()._set_signature_columns_if_needed()
        if TEACHER_PROBS not in self._signature_columns:
            self._signature_columns = [*self._signature_columns, TEACHER_PROBS]

    def create_optimizer(self, model=None):
        """AdamW over the groups of `parameter_groups`."""
        if self.optimizer is None:
            groups = parameter_groups(
                self.model, set(self.get_decay_parameter_names(self.model)), self.args.weight_decay, self.rates
            )
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = optimizer_class(groups, **arguments)
        return self.optimizer

    def training_step(self, model, inputs, num_items_in_batch=None):
        """The loss of a batch, whose gradients are computed."""
        self.batch = inputs
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._check_step(loss, "loss")
        return loss

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        self._check_step(norm, "norm of the gradients")
        return norm

    def _check_step(self, value: torch.Tensor, name: str) -> None:
        if math.isfinite(value):
            return
        rows = rows_in(self.batch, self.train_dataset)
        texts = self.train_dataset.select(rows[:3])["input_ids"]
        first = ", ".join(repr(self.processing_class.decode(ids[:12], skip_special_tokens=True)) for ids in texts)
        raise DivergedError(
            f"training diverged: the {name} of step {self.state.global_step + 1} of {self.state.max_steps} is "
            f"{float(value)}, and the step was not applied; it read the training texts "
            f"{', '.join(str(self.train_dataset[row][ROW]) for row in rows)} ({first}, ...); "
            f"try a learning_rate below {self.args.learning_rate:g}, or look at these texts"
        )

    def _save_checkpoint(self, model, trial):
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise DivergedError(
                    f"training diverged: after step {self.state.global_step} of {self.state.max_steps} {name} holds "
                    f"weights that are not finite; try a learning_rate below {self.args.learning_rate:g}"
                )
        super()._save_checkpoint(model, trial)

    def _note_load(self, outputs: Any) -> None:
        """Count what each expert reads of the last batch before a row is logged."""
        if (self.state.global_step + 1) % self.args.logging_steps == 0:
            load = getattr(outputs, "expert_load", None)
            self.load = None if load is None else load.detach()

    def log(self, logs, start_time=None):
        """Log a row, with the share of the tokens that each expert reads where it is one of a loss."""
        if "loss" in logs and self.load is not None:
            logs[SHARES] = expert_shares(self.load, moe_layers(self.model)[0].num_experts_per_tok)
        super().log(logs, start_time)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The model's own loss; with class weights the weighted cross entropy plus the auxiliary losses."""
        if self.distillation is not None and model.training:
            loss, outputs = self.distillation.loss(model, inputs)
            self._note_load(outputs)
            return (loss, outputs) if return_outputs else loss
        outputs = model(**inputs)
        if model.training:
            self._note_load(outputs)
        loss = outputs.loss
        if self.class_weights is not None:
            weights = self.class_weights.to(outputs.logits.device)
            loss = F.cross_entropy(outputs.logits.float(), inputs["labels"], weight=weights)
            aux_loss = getattr(outputs, "aux_loss", None)
            loss = loss if aux_loss is None else loss + aux_loss
        return (loss, outputs) if return_outputs else loss


def rows_in(batch: dict[str, torch.Tensor], dataset: Any) -> list[int]:
    """Which rows of a tokenised data set a batch was made of, and their equals."""
    ids, masks = batch["input_ids"], batch["attention_mask"].bool()
    read = {tuple(row[mask].tolist()) for row, mask in zip(ids, masks, strict=True)}
    return [row for row, found in enumerate(dataset["input_ids"]) if tuple(found) in read]


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
