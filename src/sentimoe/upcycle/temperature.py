"""A temperature inside the model, so that every way of running it gives the same probabilities."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from ..errors import NotSupportedError
from .head import logits_layer

TOLERANCE = 1e-4


@torch.no_grad()
def divide_logits(model: PreTrainedModel, temperature: float) -> None:
    """Divide the logits of a classifier by a temperature: weight and bias of the linear layer that computes them.

    Raises NotSupportedError, and leaves the model as it was, where no linear layer has the logits as its output.
    """
    linear = logits_layer(model)
    before = _probe(model)
    for parameter in linear.parameters():
        parameter.div_(temperature)
    after = _probe(model)
    if not torch.allclose(after * temperature, before, rtol=TOLERANCE, atol=TOLERANCE * float(before.abs().max())):
        for parameter in linear.parameters():
            parameter.mul_(temperature)
        raise NotSupportedError(f"the last linear layer of {type(model).__name__} does not compute its logits")


def _probe(model: PreTrainedModel) -> torch.Tensor:
    """Logits of one short text."""
    training = model.training
    ids = torch.arange(5, 12, device=model.device)[None] % model.config.get_text_config().vocab_size
    logits = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    model.train(training)
    return logits
