"""P-Tuning: trained virtual tokens before every text (Liu et al. 2021), through peft."""

from __future__ import annotations

from peft import PeftModel, PromptEncoderConfig, TaskType, get_peft_model
from transformers import PreTrainedModel

from ..errors import NotSupportedError
from ..model_folder import without_deprecations
from ..upcycle import head_modules, reads_last_token


def p_tuning(model: PreTrainedModel, num_virtual_tokens: int, encoder_hidden_size: int) -> PeftModel:
    """Virtual tokens and the head are trained, the backbone is frozen.

    With a mean-pooling head the virtual tokens enter the mean: peft's mask counts them as real tokens. Raises
    NotSupportedError for a head that reads the last token (decoders): it finds that token in the ids, which peft
    replaces by embeddings.
    """
    if reads_last_token(model):
        raise NotSupportedError(
            f"the head of {type(model).__name__} looks for the last token in input ids, which P-Tuning replaces by "
            "embeddings; use head='mean'"
        )
    text_config = model.config.get_text_config()
    config = PromptEncoderConfig(
        task_type=TaskType.SEQ_CLS,
        token_dim=model.get_input_embeddings().embedding_dim,
        num_layers=text_config.num_hidden_layers,
        num_attention_heads=text_config.num_attention_heads,
        num_virtual_tokens=num_virtual_tokens,
        encoder_hidden_size=encoder_hidden_size,
        modules_to_save=head_modules(model),
    )
    with without_deprecations():
        return get_peft_model(model, config)
