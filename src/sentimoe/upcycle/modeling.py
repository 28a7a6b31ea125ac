"""The registered model classes: a Hugging Face classifier plus a head choice plus experts.

For every architecture there are two classes, made on demand: `native` keeps the classifier of the library, `mean` puts
mean pooling over real tokens and a linear layer on the backbone. Both carry experts when `config.moe` says so. Their
`config.json` is the one of the base architecture with `model_type: sentimoe` and `base_model_type`, `head`, `moe`.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from ..config import MoEConfig
from ..errors import ConfigError, WeightsError
from ..moe import RoutingCall, expert_load, load_balancing_loss, router_z_loss
from .checkpointing import with_routing
from .mean_head import mean_pooled_class
from .structure import install_experts

HEADS = ("mean", "native")


@dataclass
class MoESequenceClassifierOutput(SequenceClassifierOutputWithPast):
    """Output of a classifier with experts.

    loss: task loss plus `aux_loss`, when labels are given. logits: `[B, C]`.
    aux_loss: the weighted sum of load-balancing loss and router z-loss, each a mean over the MoE layers; None in
        inference mode, where nobody learns from it.
    expert_load: `[N, E]`, per MoE layer the share of (token, choice) pairs of each expert, over real tokens.
    router_logits: one `[T, E]` float32 tensor per MoE layer, real tokens in text order.

    Without gradients the last three are attributes and not entries: a `pipeline` cuts every entry into texts.
    """

    aux_loss: torch.Tensor | None = None
    expert_load: torch.Tensor | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None


class SentiMoEConfig(PreTrainedConfig):
    """Entry of `AutoConfig`: reads `base_model_type` and `head` and builds the config of that architecture."""

    model_type = "sentimoe"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        base_type, head = config_dict.get("base_model_type"), config_dict.get("head")
        if base_type not in CONFIG_MAPPING or head not in HEADS:
            raise ConfigError(
                f"config.json has base_model_type={base_type!r} and head={head!r}; the first must be an architecture "
                f"that this transformers knows, the second one of {HEADS}"
            )
        return classifier_config_class(CONFIG_MAPPING[base_type], head).from_dict(config_dict, **kwargs)


@functools.cache
def classifier_config_class(base: Any, head: str) -> Any:
    """The config class of `base` with sentimoe's fields; its model class is registered with the auto classes."""
    fields = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with a {head} head and, where `moe` is set, experts.",
        "model_type": "sentimoe",
        "base_config_class": base,
        "to_diff_dict": lambda self: base.to_diff_dict(self) | {"id2label": self.id2label, "label2id": self.label2id},
        "__reduce__": lambda self: (_empty_config, (base, head), self.__dict__),
        "keys_to_ignore_at_inference": ["past_key_values", "aux_loss", "expert_load", "router_logits"],
    }
    config_class = type(f"SentiMoE{head.title()}{base.__name__}", (base,), fields)
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.register(config_class, _classifier_class(config_class, base, head))
    if base in MODEL_MAPPING:  # native classifiers of decoders build their backbone through AutoModel
        MODEL_MAPPING.register(config_class, MODEL_MAPPING[base])
    return config_class


def classifier_class(config_class: Any) -> Any:
    """The model class that belongs to a class made by `classifier_config_class`."""
    return MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[config_class]


def _empty_config(base: Any, head: str) -> PreTrainedConfig:
    config_class = classifier_config_class(base, head)
    return config_class.__new__(config_class)


def _empty_model(base: Any, head: str) -> PreTrainedModel:
    model_class = classifier_class(classifier_config_class(base, head))
    return model_class.__new__(model_class)


class SentiMoEModel:
    """What sentimoe adds to a classifier class: experts at construction, auxiliary losses, checkpointing."""

    accepts_loss_kwargs = False  # the loss is a plain mean: Trainer must divide it when it accumulates gradients
    config: Any

    def __reduce__(self):  # the class is made on demand: a pickle rebuilds it from the architecture and the head
        return _empty_model, (type(self.config).base_config_class, self.config.head), self.__dict__

    @classmethod
    def from_pretrained(cls, *args, output_loading_info=False, **kwargs):
        """As in transformers, but raises WeightsError where weights are missing instead of drawing them."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        if info["missing_keys"]:
            raise WeightsError(
                f"weights are missing from the checkpoint: {sorted(info['missing_keys'])}; a model with experts is "
                "made by sentimoe.upcycle, not by loading dense weights"
            )
        return (model, info) if output_loading_info else model

    @property
    def moe_receipt(self):
        """What the conversion measured, as `MoEReceipt`; None for a dense model."""
        from .receipt import MoEReceipt

        stored = self.config.moe_receipt
        return None if stored is None else MoEReceipt(**stored)

    @property
    def moe_config(self) -> MoEConfig | None:
        """How the model was converted; None for a dense model."""
        return None if self.config.moe is None else MoEConfig.from_dict(self.config.moe)

    def _set_gradient_checkpointing(self, enable=True, gradient_checkpointing_func=checkpoint, **kwargs):
        if self.config.moe is not None and enable:
            gradient_checkpointing_func = with_routing(gradient_checkpointing_func)
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)  # type: ignore[misc]


def _classifier_class(config_class, base: Any, head: str) -> Any:
    parent: Any = mean_pooled_class(base) if head == "mean" else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[base]

    def __init__(self, config, *args, **kwargs):
        parent.__init__(self, config, *args, **kwargs)
        if config.moe is not None:
            install_experts(self, MoEConfig.from_dict(config.moe))

    namespace = {
        "__module__": __name__,
        "__doc__": f"{parent.__name__} whose FFNs may be experts; see sentimoe.upcycle.modeling.",
        "config_class": config_class,
        "__init__": __init__,
        "forward": _forward_with_experts(parent.forward),
    }
    return type(f"SentiMoE{head.title()}{parent.__name__.removeprefix('Mean')}", (SentiMoEModel, parent), namespace)


def _forward_with_experts(base_forward):
    signature = inspect.signature(base_forward)

    @functools.wraps(base_forward)  # Trainer reads the argument names from the signature
    def forward(self, *args, **kwargs):
        if self.config.moe is None:
            return base_forward(self, *args, **kwargs)
        return_dict = kwargs.pop("return_dict", None)
        given = signature.bind(self, *args, **kwargs).arguments
        with RoutingCall(real_token_mask(given)) as call:
            output = base_forward(self, *args, **kwargs, return_dict=True)
        output = _with_routing(output, call, self.config)
        return output.to_tuple() if return_dict is False else output

    return forward


def real_token_mask(given: dict[str, Any]) -> torch.Tensor:
    """Which tokens are real, `[B, L]` bool, from the arguments of a forward; all are, without `attention_mask`.

    A mask that also covers what a cache holds (prefix tuning) is longer: its last `L` columns are meant. Raises
    ValueError for a mask that is not `[B, L]`, or when there are no texts.
    """
    mask, ids, embeddings = (given.get(name) for name in ("attention_mask", "input_ids", "inputs_embeds"))
    tokens = ids if ids is not None else embeddings
    if tokens is None:
        raise ValueError("give the model input_ids or inputs_embeds")
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if mask.dim() != 2 or mask.shape[1] < tokens.shape[1]:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}; a model with experts needs [B, L], here "
            f"{tuple(tokens.shape[:2])}, to know which tokens are real"
        )
    return mask[:, -tokens.shape[1] :].bool()


def _with_routing(output, call: RoutingCall, config) -> MoESequenceClassifierOutput:
    layers, aux_loss, loss = call.layers, None, output.loss
    if not torch.is_inference_mode_enabled() or loss is not None:
        balance = torch.stack([load_balancing_loss(layer.logits, layer.experts) for layer in layers]).mean()
        z = torch.stack([router_z_loss(layer.logits) for layer in layers]).mean()
        aux_loss = config.moe["router_aux_loss_coef"] * balance + config.moe["router_z_loss_coef"] * z
        loss = None if loss is None else loss + aux_loss.to(loss.device)
    routing: dict[str, Any] = {
        "aux_loss": aux_loss,
        "expert_load": torch.stack([expert_load(layer.experts, layer.logits.shape[1]) for layer in layers]),
        "router_logits": tuple(layer.logits for layer in layers),
    }
    result = MoESequenceClassifierOutput(
        loss=loss,
        logits=output.logits,
        past_key_values=output.get("past_key_values"),
        hidden_states=output.hidden_states,
        attentions=output.attentions,
        **(routing if torch.is_grad_enabled() else {}),
    )
    result.__dict__.update(routing)  # setattr would make entries of them
    return result


def become(model: PreTrainedModel, head: str) -> None:
    """Turn a library classifier (or a mean-pooled one) into its sentimoe class, in place. The weights stay."""
    base: Any = type(model.config)
    base_type = model.config.model_type
    config_class = classifier_config_class(base, head)
    model.config.__class__ = config_class
    for name, value in {"base_model_type": base_type, "head": head, "moe": None, "moe_receipt": None}.items():
        setattr(model.config, name, value)
    model.__class__ = classifier_class(config_class)


def revert(model: PreTrainedModel) -> None:
    """Undo `become` for a native head: the class and config of the library again."""
    for name in ("base_model_type", "head", "moe", "moe_receipt"):
        delattr(model.config, name)
    base: Any = type(model.config).base_config_class
    model.config.__class__ = base
    model.__class__ = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[base]


def register() -> None:
    """Make `AutoConfig` and the auto classes know saved sentimoe folders."""
    AutoConfig.register(SentiMoEConfig.model_type, SentiMoEConfig, exist_ok=True)
