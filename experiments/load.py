"""How evenly the experts are used over many texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sentimoe.inference import Engine


@torch.inference_mode()
def mean_expert_load(engine: Engine, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
    """Share of the (token, choice) pairs of each expert over all real tokens of the texts: `[N, E]`, rows sum to 1."""
    total, tokens = 0.0, 0
    for start in range(0, len(texts), batch_size):
        batch = engine.tokenizer(
            list(texts[start : start + batch_size]),
            truncation=True,
            max_length=engine.max_length,
            padding=True,
            return_tensors="pt",
        ).to(engine.model.device)
        count = int(batch["attention_mask"].sum())
        total = total + count * engine.model(**batch).expert_load.double().cpu().numpy()
        tokens += count
    return np.asarray(total / tokens)
