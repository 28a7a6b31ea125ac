"""`SentiMoEForSequenceClassification`: a Hugging Face classifier, or a backbone with mean pooling, whose FFNs may be
experts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from ..config import MoEConfig
from ..errors import WeightsError
from ..model_folder import load_config
from ..moe import Routing, RoutingCall
from .checkpointing import with_routing
from .configuration import FORMAT_VERSION, SentiMoEConfig
from .labels import carry
from .mean_head import backbone_class, mean_over_real_tokens, without_pooler
from .receipt import MoEReceipt
from .structure import install_experts, resolve_layers


@dataclass
class MoESequenceClassifierOutput(SequenceClassifierOutputWithPast):
    """Output of a classifier with experts.

    loss: task loss plus `aux_loss`, when labels are given. logits: `[B, C]`.
    routing: what the routers decided; `routing[i]` is that of text `i`, so that `pipeline` can take batches apart.
    """

    routing: Routing | None = None

    @property
    def aux_loss(self) -> torch.Tensor | None:
        """Weighted sum of load-balancing loss and router z-loss, each a mean over the MoE layers: a scalar."""
        return None if self.routing is None else self.routing.aux_loss

    @property
    def expert_load(self) -> torch.Tensor | None:
        """`[N, E]`: per MoE layer the share of (token, choice) pairs that each expert reads, over real tokens."""
        return None if self.routing is None else self.routing.expert_load

    @property
    def router_logits(self) -> tuple[torch.Tensor, ...] | None:
        """One `[T, E]` float32 tensor per MoE layer, real tokens in text order."""
        return None if self.routing is None else self.routing.router_logits


class SentiMoEForSequenceClassification(PreTrainedModel):
    """A text classifier by composition: `base`, a head, and experts in place of some FFNs of `base`.

    base: the architecture's own classifier (`head="native"`) or its backbone (`head="mean"`: mean over real tokens,
    dropout, linear layer; Reimers & Gurevych 2019).
    """

    config_class = SentiMoEConfig
    config: SentiMoEConfig
    base_model_prefix = "base"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a plain mean: Trainer must divide it when it accumulates gradients
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: SentiMoEConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.base = _empty_base(config)
        config.base_config = self.base.config
        if config.head == "mean":
            self.dropout = nn.Dropout(config.head_dropout)
            self.classifier = nn.Linear(config.get_text_config().hidden_size, config.num_labels)
        if config.moe_config is not None:
            install_experts(self, config.moe_config)
        self.post_init()

    @classmethod
    def around(cls, base: PreTrainedModel, head: str, **settings: Any) -> SentiMoEForSequenceClassification:
        """Put the class around a model that has its weights; a `mean` head starts at random.

        settings: of `SentiMoEConfig`, such as `id2label`.
        """
        config = SentiMoEConfig(base.config, head=head, **settings)
        with torch.device("meta"):
            model = cls(config)
        model.base, model.config.base_config = base, base.config
        if head == "native":
            carry(base.config, model.config)
        if head == "mean":
            hidden_size, std = (
                base.config.get_text_config().hidden_size,
                getattr(base.config, "initializer_range", 0.02),
            )
            model.classifier = nn.Linear(hidden_size, config.num_labels, dtype=base.dtype, device=base.device)
            nn.init.normal_(model.classifier.weight, std=std)
            nn.init.zeros_(model.classifier.bias)
        model.training = base.training  # not model.train(), which would change parts of the base too
        for module in model.children():
            if module is not base:
                module.train(base.training)
        return model

    def without_experts(self) -> PreTrainedModel:
        """The model around dense FFNs that took the place of all experts: `base` itself, or a dense one of this class.

        Modules are shared with this model, which is not to be used afterwards.
        """
        if self.config.head == "native":
            carry(self.config, self.base.config)
            return self.base
        settings = {name: getattr(self.config, name) for name in ("head_dropout", "id2label", "label2id")}
        dense = type(self).around(self.base, "mean", **settings)
        dense.classifier = self.classifier
        carry(self.config, dense.config)
        return dense

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MoESequenceClassifierOutput | tuple:
        """Classify texts.

        Args:
            input_ids: `[B, L]`; or `inputs_embeds` `[B, L, D]` in their place.
            attention_mask: `[B, L]`, 1 for real tokens; None: all are. With a cache it covers what the cache holds too.
            labels: `[B]`; the output then has a loss.
            token_type_ids, position_ids, past_key_values, use_cache: as the architecture takes them.

        Raises:
            ValueError: neither ids nor embeddings are given, or the mask does not fit them.
        """
        given = {
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "use_cache": use_cache,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        given = {name: value for name, value in given.items() if value is not None}
        if self.config.moe is None:
            output, routing = self.classify(input_ids, attention_mask, inputs_embeds, labels, **given), None
        else:
            with RoutingCall(real_token_mask(input_ids, inputs_embeds, attention_mask)) as call:
                output = self.classify(input_ids, attention_mask, inputs_embeds, labels, **given)
            moe = self.config.moe
            routing = call.result(moe["router_aux_loss_coef"], moe["router_z_loss_coef"])
        loss = output.loss
        if routing is not None and loss is not None:
            loss = loss + routing.aux_loss.to(loss.device)
        result = MoESequenceClassifierOutput(
            loss=loss,
            logits=output.logits,
            past_key_values=output.get("past_key_values"),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            routing=routing,
        )
        return result.to_tuple() if return_dict is False else result

    def classify(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **given: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Base and head without the routing: outside of a `RoutingCall` the experts read padding too."""
        given |= {"attention_mask": attention_mask, "return_dict": True}
        given |= {"input_ids": input_ids} if inputs_embeds is None else {"inputs_embeds": inputs_embeds}
        if self.config.head == "native":
            return self.base(labels=labels, **given)
        output = self.base(**given)
        pooled = mean_over_real_tokens(output.last_hidden_state, attention_mask)
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutputWithPast(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any):
        """As in transformers, but raises WeightsError where weights are missing instead of drawing them."""
        config = kwargs.get("config") or load_config(path)
        old = config.format_version.startswith("0.")
        if old:
            kwargs |= {"config": config, "key_mapping": _names_of_version_0(config)}
            config.format_version = FORMAT_VERSION  # what is saved from now on
        model, info = super().from_pretrained(path, *args, output_loading_info=True, **kwargs)
        if info["missing_keys"]:
            raise WeightsError(
                f"weights are missing from the checkpoint: {sorted(info['missing_keys'])}; a model with experts is "
                "made by sentimoe.upcycle, not by loading dense weights"
            )
        if old:
            model._weight_conversions = None  # or saving would write the names of version 0.1 again
        return (model, info) if output_loading_info else model

    @property
    def base_model(self) -> nn.Module:
        """The backbone, without any head."""
        return self.base.base_model

    @property
    def moe_receipt(self) -> MoEReceipt | None:
        """What the conversion measured; None for a dense model."""
        stored = self.config.moe_receipt
        return None if stored is None else MoEReceipt(**stored)

    @property
    def moe_config(self) -> MoEConfig | None:
        """How the model was converted; None for a dense model."""
        return self.config.moe_config

    def _set_gradient_checkpointing(self, enable=True, gradient_checkpointing_func=checkpoint, **kwargs):
        if self.config.moe is not None and enable:
            gradient_checkpointing_func = with_routing(gradient_checkpointing_func)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)


def real_token_mask(
    input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Which tokens are real, `[B, L]` bool; all are, without `attention_mask`.

    A mask that also covers what a cache holds (prefix tuning) is longer: its last `L` columns are meant. Raises
    ValueError for a mask that is not `[B, L]`, or when there are no texts.
    """
    tokens = input_ids if input_ids is not None else inputs_embeds
    if tokens is None:
        raise ValueError("give the model input_ids or inputs_embeds")
    if attention_mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if attention_mask.dim() != 2 or attention_mask.shape[1] < tokens.shape[1]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; a model with experts needs [B, L], here "
            f"{tuple(tokens.shape[:2])}, to know which tokens are real"
        )
    return attention_mask[:, -tokens.shape[1] :].bool()


def register() -> None:
    """Make the auto classes of transformers know saved sentimoe folders."""
    AutoConfig.register(SentiMoEConfig.model_type, SentiMoEConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(SentiMoEConfig, SentiMoEForSequenceClassification, exist_ok=True)


def _empty_base(config: SentiMoEConfig) -> PreTrainedModel:
    """The model underneath, with weights drawn at random."""
    base: PreTrainedConfig = config.base_config
    if config.head == "mean":
        return AutoModel.from_config(base, **without_pooler(backbone_class(type(base))))
    base.id2label, base.label2id, base.problem_type = config.id2label, config.label2id, config.problem_type
    return AutoModelForSequenceClassification.from_config(base)


def _names_of_version_0(config: SentiMoEConfig) -> dict[str, str]:
    """Version 0.1 had no `base` in front of the weights of the model underneath, and another name for a permutation."""
    renamed = {r"\.neurons$": ".neuron_permutation"}
    markers = "(?!)"
    if config.moe_config is not None and config.moe_config.ffn is not None:
        layers = resolve_layers(config.moe_config, config.get_text_config().num_hidden_layers)
        up = re.escape(config.moe_config.ffn.up)
        markers = rf".*\.(?:{'|'.join(map(str, layers))})\.{up}\.weight$"
    if config.head == "native":
        return {rf"^(?!{markers})": "base."} | renamed
    prefix = backbone_class(type(config.base_config)).base_model_prefix or "model"
    return {rf"^{prefix}\.(?!{markers})": "base."} | renamed
