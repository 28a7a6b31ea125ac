"""How many tokens a model reads at once."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import check_whole
from ..errors import ConfigError

LONGEST = 10_000_000  # transformers writes 1e30 where it knows no length


def position_limit(model: PreTrainedModel) -> int | None:
    """Tokens that learned position embeddings cover, else what the config says; None where there is no limit.

    Of rotary frequencies that change with the longest text of a batch ("dynamic", "longrope"): up to where they do not,
    so that no answer depends on a neighbour. Virtual tokens, which P-Tuning puts before every text, take their share.
    """
    limit, adapters = _positions(model), getattr(model, "peft_config", {}).values()
    return limit and limit - sum(getattr(adapter, "num_virtual_tokens", None) or 0 for adapter in adapters)


def _positions(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None)
    stated = None if stated == -1 else stated  # XLNet: without a limit
    rope = getattr(config, "rope_parameters", None) or {}
    for each in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if each.get("rope_type") == "longrope":
            return each["original_max_position_embeddings"]
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name and module.num_embeddings == stated:
            # RoBERTa and MPNet number positions from the padding index + 1
            return stated if module.padding_idx is None else stated - module.padding_idx - 1
    return stated


def window_length(max_length: int | None, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> int:
    """Tokens per window: `max_length`, else the tokenizer's `model_max_length`, of both no more than `limit`.

    Raises ConfigError when nothing says a length, or `max_length` is no whole number, leaves no room for text or is
    more than the model can read.
    """
    if max_length is not None:
        check_whole("max_length", max_length, tokenizer.num_special_tokens_to_add() + 1)
        if limit is not None and max_length > limit:
            raise ConfigError(f"max_length={max_length} is more than the {limit} tokens that the model reads; lower it")
        return max_length
    known = [length for length in (tokenizer.model_max_length, limit) if length is not None and length <= LONGEST]
    if not known:
        raise ConfigError(
            "neither tokenizer nor model says how many tokens it reads; set the tokenizer's model_max_length, or give "
            "max_length"
        )
    if min(known) <= (special := tokenizer.num_special_tokens_to_add()):
        raise ConfigError(
            f"{min(known)} tokens leave no room for text beside {special} special ones; set the tokenizer's "
            "model_max_length, or give max_length"
        )
    return min(known)
