"""The head of every backbone alike: mean pooling over real tokens, dropout, one linear layer."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import MODEL_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..errors import ConfigError


def mean_pooled_class(base: Any) -> Any:
    """Backbone, mean over real tokens (Reimers & Gurevych 2019), dropout, linear layer."""
    body: Any = backbone_class(base)
    family: Any = next(c for c in reversed(body.__mro__) if issubclass(c, PreTrainedModel) and c is not PreTrainedModel)

    def __init__(self, config):
        family.__init__(self, config)
        self.num_labels = config.num_labels
        setattr(self, self.base_model_prefix, build_backbone(config, base))
        self.dropout = nn.Dropout(config.head_dropout)
        self.classifier = nn.Linear(config.get_text_config().hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        token_type_ids=None,
        position_ids=None,
        inputs_embeds=None,
        labels=None,
        return_dict=None,
        **kwargs,
    ):
        """input_ids `[B, L]`, attention_mask `[B, L]` -> logits `[B, C]`; with labels `[B]` also the loss."""
        kwargs |= {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        kwargs |= {} if position_ids is None else {"position_ids": position_ids}
        backbone = getattr(self, self.base_model_prefix)
        output = backbone(
            input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, return_dict=True, **kwargs
        )
        pooled = mean_over_real_tokens(output.last_hidden_state, attention_mask)
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        result = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=output.hidden_states, attentions=output.attentions
        )
        return result.to_tuple() if return_dict is False else result

    name = f"Mean{body.__name__.removesuffix('Model')}ForSequenceClassification"
    prefix = body.base_model_prefix or family.base_model_prefix or "model"
    return type(
        name,
        (family,),
        {"__module__": __name__, "__init__": __init__, "forward": forward, "base_model_prefix": prefix},
    )


def mean_over_real_tokens(hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """hidden `[B, L, D]`, attention_mask `[B, L]` or None -> `[B, D]`; the sum is taken in float32."""
    if attention_mask is None:
        return hidden.mean(dim=1)
    mask = attention_mask[:, -hidden.shape[1] :].unsqueeze(-1).float()  # with a cache it is longer than the texts
    mean = (hidden.float() * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1.0)
    return mean.to(hidden.dtype)


def backbone_class(base: Any) -> Any:
    """The headless model of an architecture. Raises ConfigError when transformers has none."""
    if base not in MODEL_MAPPING:
        raise ConfigError(f"{base.__name__} has no model registered with AutoModel")
    return MODEL_MAPPING[base]


def build_backbone(config: PreTrainedConfig, base: Any) -> PreTrainedModel:
    """A backbone with random weights, without the pooler that mean pooling would leave untrained."""
    return backbone_class(base)(config, **without_pooler(backbone_class(base)))


def without_pooler(model_class: Any) -> dict[str, bool]:
    """The constructor argument that leaves the pooler out, where the architecture has one."""
    accepted = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}
