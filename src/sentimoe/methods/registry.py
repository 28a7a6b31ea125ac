"""The ways of adapting a dense classifier, by name. A new one is a file, a line here, and one in `METHOD_SETTINGS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from sentimoe_settings import check_trains, complete_settings

from .bitfit import bitfit
from .full import full_fine_tuning
from .lora import lora, moe_lora
from .moe import moe_gated, moe_plain, moe_split
from .p_tuning import p_tuning

Model: TypeAlias = PreTrainedModel | PeftModel


@dataclass(frozen=True)
class Method:
    """One way of adapting a model.

    adapt: turns a dense classifier into the model to train, in place; takes all settings of the method, which stand in
        `sentimoe_settings.METHOD_SETTINGS`. None: nothing is trained (zero-shot).
    needs_texts: `adapt` is also given tokenised texts, in batches.
    keeps_teacher: with a teacher it starts from the teacher's own weights, not from a fresh classifier.
    merges: its updates can be added to the weights after training.
    freezes: it can leave the other weights frozen, in 4 bits.
    rate_scale: its default learning rate over that of full fine-tuning; methods that train few weights need more.
    """

    summary: str
    adapt: Callable[..., Model] | None
    needs_texts: bool = False
    keeps_teacher: bool = False
    merges: bool = False
    freezes: bool = False
    rate_scale: float = 1.0


METHODS: dict[str, Method] = {
    "full": Method("full fine-tuning of the dense model", full_fine_tuning),
    "bitfit": Method("biases and the head", bitfit, rate_scale=10),
    "lora": Method("low-rank updates of attention and FFN", lora, merges=True, freezes=True, rate_scale=10),
    "p-tuning": Method("virtual tokens before the text", p_tuning, rate_scale=30),
    "moe-plain": Method("experts that are plain FFNs", moe_plain, freezes=True),
    "moe-gated": Method("experts with the gate inside", moe_gated, freezes=True),
    "moe-split": Method("the dense FFNs divided among experts", moe_split, needs_texts=True, keeps_teacher=True),
    "moe-lora": Method("low-rank updates of attention and experts", moe_lora, merges=True, rate_scale=10),
    "zero-shot": Method("label words scored by a language model; nothing is trained", None),
}


def adapt(
    model: PreTrainedModel,
    method: str,
    settings: Mapping[str, Any] | None = None,
    texts: Sequence[Mapping[str, torch.Tensor]] = (),
) -> Model:
    """Apply a method by name. texts: tokenised texts in batches, for a method that needs them.

    Raises ConfigError for an unknown method, one that trains nothing or a setting that it does not have, and
    NotSupportedError where the method does not exist for this kind of model.
    """
    check_trains(method)
    given = complete_settings(method, settings or {})
    if METHODS[method].needs_texts:
        given["texts"] = texts
    adapt_by_method = METHODS[method].adapt
    assert adapt_by_method is not None  # it trains
    return adapt_by_method(model, **given)


def merge(model: Model, method: str) -> Model:
    """Add trained low-rank updates to the weights: the result is a plain model, as fast as the one it started from.

    Methods without such updates give the model back as it is.
    """
    return model.merge_and_unload() if METHODS[method].merges and isinstance(model, PeftModel) else model
