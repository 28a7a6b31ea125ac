"""How the frozen weights of a large language model are kept while a few others are trained: 4 bits, or bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from ..errors import ConfigError
from .head import HEAD_NAMES


def frozen_weights(keep_layers: Sequence[int]) -> dict[str, Any]:
    """Arguments of `from_pretrained`: NF4 through bitsandbytes where CUDA is there, bfloat16 otherwise.

    keep_layers: indices of transformer layers that stay in bfloat16, because their FFNs become experts. Source:
    Dettmers et al. 2023, QLoRA. Raises ConfigError when bitsandbytes is missing beside CUDA.
    """
    if not torch.cuda.is_available():
        return {"dtype": torch.bfloat16}
    if find_spec("bitsandbytes") is None:
        raise ConfigError("load_in_4bit needs bitsandbytes beside CUDA: pip install bitsandbytes")
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=[*HEAD_NAMES, *(rf".*\.{index}" for index in keep_layers)],
    )
    return {"dtype": torch.bfloat16, "quantization_config": quantization}
