"""Training a few weights of a language model whose other weights are packed into 4 bits, or frozen in bfloat16."""

from __future__ import annotations

from peft import PeftModel
from transformers import PreTrainedModel

from ..upcycle import head_modules, moe_layers


def freeze_packed(model: PreTrainedModel | PeftModel) -> None:
    """Freeze all but adapters, or all but experts, routers and head; what is trained becomes float32."""
    if not isinstance(model, PeftModel):
        model.requires_grad_(False)
        for module in [*moe_layers(model), *(model.get_submodule(name) for name in head_modules(model))]:
            module.requires_grad_(True)
        # the Trainer refuses a packed model without adapters; here whole experts stand beside the packed weights
        model.is_quantized = False
    for parameter in model.parameters():
        if parameter.requires_grad:  # the steps of an optimizer are too small for bfloat16
            parameter.data = parameter.data.float()


def round_packed(model: PreTrainedModel | PeftModel) -> None:
    """Round what `freeze_packed` widened to bfloat16, in which its folder will be loaded; adapters stay as they are."""
    if not isinstance(model, PeftModel):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
