"""`upcycle`: a dense classifier becomes a mixture of experts that starts as exactly the same function."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedModel

from ..config import FFNLayout, MoEConfig
from ..errors import ConfigError, ConversionError
from ..model_folder import check_finite
from .checkpointing import with_routing
from .discarded import refuse_discarded_result
from .initialise import INITIALISATIONS, add_noise
from .layout import find_layout, read_ffn, refuse_sparse, reproduces, transformer_layers
from .modeling import SentiMoEForSequenceClassification
from .receipt import MoEReceipt
from .recording import real_tokens
from .split import ffn_inputs
from .structure import default_layers, install_experts, resolve_layers, set_experts_per_token

TOLERANCE = 1e-4


def upcycle(
    model: PreTrainedModel,
    config: MoEConfig | None = None,
    probe: Mapping[str, torch.Tensor] | None = None,
    texts: Sequence[Mapping[str, torch.Tensor]] = (),
) -> SentiMoEForSequenceClassification:
    """Make a copy of a classifier in which the FFNs of some layers are experts; the head stays.

    Args:
        model: a sequence classifier, fine-tuned or not. It is not changed.
        config: default: four gated experts, top two, in the last two layers.
        probe: tokenised texts (`input_ids` `[B, L]`, `attention_mask`, ...) to compare logits on; default: random
            in-vocabulary ids.
        texts: for `init="split"`, tokenised real texts in batches; 10,000 tokens or more tell best what neurons do.

    Returns:
        The new model. The comparison of its logits with the given model's, in float32, is its `moe_receipt`.

    Raises:
        ConversionError: the model cannot be converted, or its logits moved by more than 1e-4 (unless the config asks
            for a start that is not the dense function).
        ConfigError: the config does not fit the model, or the call throws the new model away.
        WeightsError: a weight is NaN or infinite.
    """
    refuse_discarded_result("upcycle")
    config = config or MoEConfig()
    initialisation = INITIALISATIONS[config.init]
    _refuse(model)
    check_finite(model, "the model cannot be upcycled")
    batches = _random_probe(model) if probe is None else [dict(probe)]
    masks = [real_tokens(batch) for batch in batches]
    sparse = _composed(copy.deepcopy(model))
    with _float32_evaluation(sparse):
        config = replace(config, ffn=_layout(sparse, config))
        layers = transformer_layers(sparse, sparse.config.get_text_config().num_hidden_layers)
        if config.layers_to_transform is None:
            config = replace(config, layers_to_transform=default_layers(config, len(layers)))
        before = _logits(sparse, batches)
        chosen = [layers[index] for index in resolve_layers(config, len(layers))]
        assert config.ffn is not None
        states: list[Any] = [None] * len(chosen)
        if initialisation.needs_texts:
            states = list(ffn_inputs(sparse, chosen, config.ffn, texts))
        installed = install_experts(sparse, config)
        sparse.config.moe = config.to_dict()
        for (moe, ffn), tokens in zip(installed, states, strict=True):
            initialisation.fill(moe, ffn, tokens)
            moe.eval()
        active_difference = None
        if config.init == "split":
            active_difference = _largest_difference(before, _logits(sparse, batches))
            set_experts_per_token(sparse, config.num_experts)
        difference = _largest_difference(before, _logits(sparse, batches))
        set_experts_per_token(sparse, config.num_experts_per_tok)
        if initialisation.preserves and not difference <= TOLERANCE:
            raise ConversionError(
                f"the logits moved by {difference:.3g} in float32, more than {TOLERANCE}: the experts do not reproduce "
                "the dense FFN"
            )
        noise_difference = 0.0
        if config.init_noise:
            for moe, _ in installed:
                add_noise(moe.experts, config.init_noise)
            noise_difference = _largest_difference(before, _logits(sparse, batches))
    receipt = MoEReceipt(
        max_abs_logit_diff=difference,
        noise_abs_logit_diff=noise_difference,
        probe="random ids" if probe is None else "given texts",
        texts=sum(len(mask) for mask in masks),
        tokens=sum(int(mask.sum()) for mask in masks),
        tolerance=TOLERANCE if initialisation.preserves else None,
        active_abs_logit_diff=active_difference,
    )
    sparse.config.moe_receipt = asdict(receipt)
    return sparse


def _composed(model: PreTrainedModel) -> SentiMoEForSequenceClassification:
    """The model in our class, with its own modes, hooks and checkpointing."""
    if isinstance(model, SentiMoEForSequenceClassification):
        composed = model
    else:
        composed = SentiMoEForSequenceClassification.around(model, "native")
    for module in composed.modules():
        if getattr(module, "gradient_checkpointing", False):
            module._gradient_checkpointing_func = with_routing(module._gradient_checkpointing_func)
    return composed


def _refuse(model: PreTrainedModel) -> None:
    if isinstance(model, SentiMoEForSequenceClassification):
        if model.config.moe is not None:
            raise ConversionError("the model already has experts; collapse it first, or start from the dense model")
        return
    expected = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), None)
    if expected is not type(model):
        raise ConversionError(
            f"{type(model).__name__} is not the sequence classifier registered for {type(model.config).__name__} "
            f"({getattr(expected, '__name__', None)}): load it with AutoModelForSequenceClassification or "
            "sentimoe.load_classifier, or register your class with AutoModelForSequenceClassification"
        )


def _layout(model: PreTrainedModel, config: MoEConfig) -> FFNLayout:
    """The one layout of all layers to convert."""
    layers = transformer_layers(model, model.config.get_text_config().num_hidden_layers)
    chosen = [layers[index] for index in resolve_layers(config, len(layers))]
    for layer in layers:
        refuse_sparse(layer)
    if config.ffn is not None:
        for layer in chosen:
            if not reproduces(layer, config.ffn):
                raise ConversionError(
                    f"the named FFN {config.ffn} does not compute what {type(layer).__name__} computes: check the "
                    "roles of up, gate and down, the activation, and `fused`"
                )
        layout = config.ffn
    else:
        layouts = [find_layout(layer) for layer in chosen]
        layout = layouts[0]
        if any(other != layout for other in layouts):
            raise ConversionError(f"the layers to convert have different FFNs: {sorted(set(map(str, layouts)))}")
    if layout.gated and config.expert == "plain" and config.init != "split":
        raise ConfigError(
            "expert='plain' is not possible here: the dense FFN is gated already (down(act(gate x) * up x)), and a "
            "plain expert cannot start as the same function. Use expert='gated', which keeps that gate."
        )
    for layer in chosen:
        read_ffn(layer, layout)
    return layout


def _random_probe(model: PreTrainedModel, texts: int = 4) -> list[dict[str, torch.Tensor]]:
    """Single texts of in-vocabulary ids (never padding) within the position limit."""
    config = model.config.get_text_config()
    # RoBERTa-like models number positions from padding_idx + 1, so stay well below the limit
    length = max(1, min(32, (getattr(config, "max_position_embeddings", None) or 64) // 2))
    generator = torch.Generator().manual_seed(0)
    allowed = torch.tensor([token for token in range(config.vocab_size) if token != config.pad_token_id])
    probe = []
    for _ in range(texts):
        ids = allowed[torch.randint(len(allowed), (1, length), generator=generator)].to(model.device)
        probe.append({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return probe


@contextmanager
def _float32_evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and float32 inside; modes and precisions as before outside (new modules: that of the model)."""
    training = {module: module.training for module in model.modules()}
    dtypes = {tensor: tensor.dtype for tensor in [*model.parameters(), *model.buffers()] if tensor.is_floating_point()}
    main = next(model.parameters()).dtype
    widened = {tensor for tensor, dtype in dtypes.items() if dtype != torch.float32}
    was_training = model.training
    model.eval()
    for tensor in widened:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtypes.get(tensor, main))
        for module in model.modules():
            module.training = training.get(module, was_training)


@torch.no_grad()
def _logits(model: PreTrainedModel, batches: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    return [model(**{name: value.to(model.device) for name, value in batch.items()}).logits for batch in batches]


def _largest_difference(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    # not Python's max, which overlooks NaN
    return float(torch.stack([(new - old).abs().max() for old, new in zip(before, after, strict=True)]).max())
