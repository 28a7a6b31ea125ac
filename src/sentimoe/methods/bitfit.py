"""BitFit: only biases and the head are trained (Ben Zaken et al. 2022)."""

from __future__ import annotations

from transformers import PreTrainedModel

from ..errors import NotSupportedError
from ..upcycle import head_modules


def bitfit(model: PreTrainedModel) -> PreTrainedModel:
    """Freeze everything but the biases and the head. Raises NotSupportedError for a backbone without biases (Llama)."""
    model.requires_grad_(False)
    biases = [parameter for name, parameter in model.base_model.named_parameters() if name.endswith("bias")]
    if not biases:
        model.requires_grad_(True)
        raise NotSupportedError(f"{type(model).__name__} has no biases in its backbone, so BitFit has nothing to train")
    for parameter in biases:
        parameter.requires_grad_(True)
    for name in head_modules(model):
        model.get_submodule(name).requires_grad_(True)
    return model
