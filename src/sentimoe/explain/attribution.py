"""Which tokens made the label: integrated gradients (Sundararajan et al. 2017) of the input embeddings, by captum."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from ..inference import Engine, check_offsets, make_windows

STEPS = 32
LARGE = 0.25  # of the largest score of a text: what is coloured to the eye
STEP_TOKENS = 2048  # of all steps together: what the backward pass keeps grows with them


def has_captum() -> bool:
    """Whether captum is installed: `pip install 'sentimoe[explain]'`."""
    return find_spec("captum") is not None


def attribute(engine: Engine, model: PreTrainedModel, text: str, target: int) -> dict[str, Any]:
    """What each token of a text adds to the logit of class `target`, against the text blanked out by padding tokens.

    model: the engine's model in float32; it has hooks meanwhile, so nothing else may use it. Returns `tokens` (per
    token `start`, `end`, `score`) and `gap`: how far the scores are from adding up to the difference of the two logits,
    relative to it. Routing changes along the path in steps, so the gap is not 0. `disputed`: places of tokens with a
    large score that the model takes the other way: one with a score for the class leaves it more likely when it alone
    is blanked out. Raises ConfigError when the tokenizer cannot say where a token came from.
    """
    from captum.attr import LayerIntegratedGradients

    check_offsets(engine.tokenizer)
    (read,) = make_windows([text], engine.tokenizer, engine.max_length, "truncate", offsets=True).encodings
    offsets: Any = read["offset_mapping"]
    ids, mask = (torch.tensor([read[name]], device=model.device) for name in ("input_ids", "attention_mask"))
    blank = ids.clone()
    blank[0, [index for index, (start, end) in enumerate(offsets) if end > start]] = engine.tokenizer.pad_token_id

    def logit(given: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return model(input_ids=given, attention_mask=seen).logits[:, target]

    method = LayerIntegratedGradients(logit, model.get_input_embeddings())
    at_once = max(1, STEP_TOKENS // ids.shape[1])
    scores = method.attribute(ids, blank, additional_forward_args=(mask,), n_steps=STEPS, internal_batch_size=at_once)
    scores = scores[0].sum(dim=-1).detach()
    large = (scores.abs() >= max(LARGE * float(scores.abs().max()), 1e-6)).nonzero().flatten()
    alone = ids.repeat(len(large), 1)
    alone[torch.arange(len(large)), large] = engine.tokenizer.pad_token_id
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask).logits
        difference = float((whole - _blanked(model, ids, mask, blank))[0, target])
        change = _likely(whole, target) - _likely(_blanked(model, ids, mask, alone), target)
    disputed = [place for place, each in zip(large.tolist(), change.tolist(), strict=True) if each * scores[place] < 0]
    gap = abs(float(scores.sum()) - difference) / max(abs(difference), 1e-6)
    tokens = [
        {"start": start, "end": end, "score": float(score)} for (start, end), score in zip(offsets, scores, strict=True)
    ]
    return {"tokens": tokens, "gap": gap, "difference": difference, "disputed": disputed}


def _blanked(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Logits `[B, C]` with the embeddings of `others` `[B, L]` under the text's own ids, which a decoder looks at."""
    embeddings, found = model.get_input_embeddings(), []
    for given in others.split(max(1, STEP_TOKENS // ids.shape[1])):
        replaced = embeddings(given)
        handle = embeddings.register_forward_hook(lambda module, inputs, output, replaced=replaced: replaced)
        try:
            size = (len(given), -1)
            found.append(model(input_ids=ids.expand(size), attention_mask=mask.expand(size)).logits)
        finally:
            handle.remove()
    return torch.cat(found) if found else ids.new_zeros((0, model.config.num_labels), dtype=torch.float32)


def _likely(logits: torch.Tensor, target: int) -> torch.Tensor:
    """Log probability of a class `[B]`."""
    return logits.float().log_softmax(dim=-1)[:, target]
