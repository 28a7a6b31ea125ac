"""LoRA on a dense model and on a mixture of experts (Hu et al. 2022), through peft."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..config import MoEConfig
from ..errors import NotSupportedError
from ..model_folder import without_deprecations
from ..upcycle import head_modules, transformer_layers, upcycle


def lora(model: PreTrainedModel, r: int, lora_alpha: int, lora_dropout: float) -> PeftModel:
    """Low-rank updates of every linear map of the transformer layers, attention and FFN alike; the head is trained."""
    return _adapters(model, _linear_maps(model), [], r, lora_alpha, lora_dropout)


def moe_lora(model: PreTrainedModel, r: int, lora_alpha: int, lora_dropout: float, **settings: Any) -> PeftModel:
    """A mixture of gated experts whose attention and experts get low-rank updates; routers and the head are trained.

    The experts' stacked weights are reached through peft's `target_parameters`, which has no dropout. Raises
    NotSupportedError for GPT-2, whose transposed linear maps peft does not combine with stacked parameters.
    """
    if any(isinstance(module, Conv1D) for module in model.modules()):
        raise NotSupportedError(
            f"{type(model).__name__} keeps its linear maps transposed (Conv1D), which peft cannot combine with updates "
            "of stacked expert weights; use lora or moe-gated for this model"
        )
    model = upcycle(model, MoEConfig(expert="gated", **settings))
    stacked = sorted(
        name for name, parameter in model.named_parameters() if ".experts." in name and parameter.dim() == 3
    )
    return _adapters(model, _linear_maps(model), stacked, r, lora_alpha, lora_dropout)


def _adapters(
    model: PreTrainedModel, maps: list[str], stacked: list[str], r: int, lora_alpha: int, lora_dropout: float
) -> PeftModel:
    routers = sorted({name for name, module in model.named_modules() if name.endswith(".router")})
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=maps,
        target_parameters=stacked or None,
        modules_to_save=head_modules(model) + routers,
    )
    with without_deprecations():
        return get_peft_model(model, config)


def _linear_maps(model: PreTrainedModel) -> list[str]:
    """Full names of the linear maps inside the transformer layers."""
    layers = transformer_layers(model, model.config.get_text_config().num_hidden_layers)
    inside = {id(module) for module in layers.modules()}
    return [
        name
        for name, module in model.named_modules()
        if id(module) in inside and isinstance(module, nn.Linear | Conv1D)
    ]
