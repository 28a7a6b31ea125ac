"""Put MoE layers where the FFNs were, and take them out again. Structure only: no weights are copied here."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..config import MoEConfig, check_whole
from ..errors import ConfigError
from ..moe import EXPERTS_BACKENDS, Experts, MoE, Router, SharedExpert, SplitMoE
from .layout import DenseFFN, read_ffn, transformer_layers, write_ffn


class MovedWeight(nn.Module):
    """Lies under the key that a dense weight has in the library's own class, with a shape that it refuses to load.

    Without it that class would load the folder, warn, and run with random weights.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.zeros(1))


def add_marker(module: nn.Module, path: str) -> None:
    """Put a `MovedWeight` at a path below a module, with empty modules on the way."""
    *parents, name = path.split(".")
    for parent in parents:
        child = getattr(module, parent, None)
        if child is None:
            child = nn.Module()
            module.add_module(parent, child)
        module = child
    module.add_module(name, MovedWeight())


def resolve_layers(config: MoEConfig, num_layers: int) -> list[int]:
    """Indices in the order of the layers, negative ones resolved. Raises ConfigError outside the model."""
    chosen = config.layers_to_transform
    if chosen is None:
        chosen = default_layers(config, num_layers)
    for index in chosen:
        if not -num_layers <= index < num_layers:
            raise ConfigError(
                f"layers_to_transform holds {index}, but the model has {num_layers} layers: allowed are "
                f"{-num_layers} to {num_layers - 1}"
            )
    return sorted({index % num_layers for index in chosen})


def default_layers(config: MoEConfig, num_layers: int) -> tuple[int, ...]:
    """The last two layers become copies; of a split, which makes each layer cheaper, all."""
    return tuple(range(num_layers)) if config.init == "split" else (-2, -1)


def moe_layers(model: nn.Module) -> list[MoE]:
    """The MoE layers of a model, in order."""
    return [module for module in model.modules() if isinstance(module, MoE)]


def layer_numbers(model: Any) -> list[int]:
    """For each MoE layer of a model its place among all layers, counted from 0 as in `layers_to_transform`."""
    config = getattr(model.config, "moe_config", None)
    return [] if config is None else resolve_layers(config, model.config.get_text_config().num_hidden_layers)


def install_experts(model: Any, config: MoEConfig) -> list[tuple[MoE, DenseFFN]]:
    """Replace the FFNs named by `config.ffn` with MoE layers whose weights are not filled yet.

    model: a `SentiMoEForSequenceClassification`. Returns for each layer the MoE and the dense weights it replaced.
    """
    layout = config.ffn
    if layout is None:
        raise ConfigError("the FFN layout is not known: convert with sentimoe.upcycle, which finds and stores it")
    if config.experts_backend not in EXPERTS_BACKENDS:
        raise ConfigError(f"experts_backend={config.experts_backend!r} must be one of {sorted(EXPERTS_BACKENDS)}")
    names = {module: name for name, module in model.base.named_modules()}
    prefix = "" if model.config.head == "native" else f"{model.base.base_model_prefix or 'model'}."
    layers = transformer_layers(model.base, model.config.get_text_config().num_hidden_layers)
    installed = []
    for index in resolve_layers(config, len(layers)):
        layer = layers[index]
        ffn = read_ffn(layer, layout)
        moe = _new_moe(ffn, config)
        layer.set_submodule(layout.replace, moe)
        if layout.bypass is not None:
            layer.set_submodule(layout.bypass, nn.Identity())
        add_marker(model, f"{prefix}{names[layer]}.{layout.up}")
        installed.append((moe, ffn))
    return installed


def _new_moe(ffn: DenseFFN, config: MoEConfig) -> MoE:
    if config.init == "split":
        return _new_split(ffn, config)
    width, hidden_size = ffn.up.shape
    gated = config.expert == "gated"
    with ffn.up.device:
        router = Router(config.num_experts, hidden_size)
        experts = Experts(
            config.num_experts,
            hidden_size,
            width,
            ffn.act,
            gated=gated,
            bias=ffn.has_bias or (gated and ffn.gate is None),
            hidden_dropout=ffn.hidden_dropout,
            backend=config.experts_backend,
        )
    moe = MoE(router, experts, config.num_experts_per_tok, ffn.output_dropout)
    return moe.to(ffn.up.dtype)


def _new_split(ffn: DenseFFN, config: MoEConfig) -> SplitMoE:
    (width, hidden_size), parts = ffn.up.shape, config.num_experts + config.num_shared_experts
    gated = config.expert == "gated"
    if gated != (ffn.gate is not None):
        needed = "plain" if gated else "gated"
        raise ConfigError(f"init='split' divides the FFN as it is: this one is {needed}, so give expert={needed!r}")
    if width % parts:
        raise ConfigError(
            f"{width} neurons cannot be divided evenly among num_experts + num_shared_experts = {parts}; choose "
            f"numbers whose sum divides {width}"
        )
    shape: dict[str, Any] = {"gated": gated, "bias": ffn.has_bias, "hidden_dropout": ffn.hidden_dropout}
    with ffn.up.device:
        router = Router(config.num_experts, hidden_size, bias=True)
        experts = Experts(
            config.num_experts,
            hidden_size,
            width // parts,
            ffn.act,
            down_bias=True,
            backend=config.experts_backend,
            **shape,
        )
        shared = None
        if config.num_shared_experts:
            shared = SharedExpert(hidden_size, config.num_shared_experts * (width // parts), ffn.act, **shape)
        moe = SplitMoE(router, experts, shared, config.num_experts_per_tok, ffn.output_dropout, width)
    return moe.to(ffn.up.dtype)


def set_experts_per_token(model: PreTrainedModel, count: int) -> PreTrainedModel:
    """Let `count` experts read each token from now on: of a split model the dial between quality and speed, in place.

    Raises ConfigError when the model has no experts or not so many.
    """
    layers = moe_layers(model)
    if not layers:
        raise ConfigError("the model has no experts, so there is no number of experts per token to set")
    check_whole("num_experts_per_tok", count, 1)
    if count > layers[0].experts.num_experts:
        raise ConfigError(f"{count} experts per token: it must be between 1 and {layers[0].experts.num_experts}")
    for layer in layers:
        layer.num_experts_per_tok = count
    model.config.moe["num_experts_per_tok"] = count
    return model


def put_dense_ffn(model: Any, position: int, weights: DenseFFN) -> None:
    """Put a dense FFN at the place of the `position`-th converted layer of a `SentiMoEForSequenceClassification`.

    Its modules come from a fresh dense model, so that the result is the library's own.
    """
    config, text_config = model.config.moe_config, model.config.get_text_config()
    index = resolve_layers(config, text_config.num_hidden_layers)[position]
    dense_config = copy.deepcopy(model.config)
    dense_config.moe = None
    with torch.device("meta"):
        source = transformer_layers(type(model)(dense_config), text_config.num_hidden_layers)[index]
    target = transformer_layers(model, text_config.num_hidden_layers)[index]
    paths = [path for path in (config.ffn.bypass, config.ffn.replace) if path is not None]
    for path in paths:
        source.get_submodule(path).to_empty(device=weights.up.device).to(weights.up.dtype)
    write_ffn(source, config.ffn, weights)
    for path in paths:
        target.set_submodule(path, source.get_submodule(path).train(target.training))
