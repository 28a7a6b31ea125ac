"""Where the FFN of a transformer layer is: found by shape, confirmed by running it.

Candidates are read off the modules (which linear maps go D -> F and F -> D); the one whose formula reproduces what the
layer's own modules compute is taken. No model is known by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..config import FFNLayout
from ..errors import ConversionError

TOLERANCE = 1e-4  # relative to the largest output


@dataclass(frozen=True)
class DenseFFN:
    """The weights of a dense FFN, read through a layout: `up` `[F, D]`, `down` `[D, F]`, `gate` `[F, D]` or None."""

    up: torch.Tensor
    up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None
    gate: torch.Tensor | None
    gate_bias: torch.Tensor | None
    act: Callable[[torch.Tensor], torch.Tensor]
    hidden_dropout: float
    output_dropout: float

    @property
    def has_bias(self) -> bool:
        """Whether any projection has a bias."""
        return any(bias is not None for bias in (self.up_bias, self.down_bias, self.gate_bias))

    def inner(self, hidden: torch.Tensor) -> torch.Tensor:
        """What `down` reads: `[..., D]` -> `[..., F]`."""
        up = nn.functional.linear(hidden, self.up, self.up_bias)
        if self.gate is None:
            return self.act(up)
        return self.act(nn.functional.linear(hidden, self.gate, self.gate_bias)) * up

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """The dense function without dropout, `[..., D]` -> `[..., D]`: what a conversion must preserve."""
        return nn.functional.linear(self.inner(hidden), self.down, self.down_bias)


def transformer_layers(model: nn.Module, num_layers: int) -> nn.ModuleList:
    """The list of the model's `num_layers` transformer layers. Raises ConversionError where layers share weights."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    for candidate in lists:
        if len(candidate) == num_layers == len(set(map(id, candidate))) and list(candidate[0].parameters()):
            return candidate
    raise ConversionError(
        f"{type(model).__name__} runs {num_layers} layers but holds no list of {num_layers} separate layer modules "
        f"(lists found: {[len(found) for found in lists]}). Its layers share weights, as in ALBERT: experts placed in "
        "one would act in all of them. Use a model whose layers have weights of their own."
    )


def find_layout(layer: nn.Module) -> FFNLayout:
    """The layout of the layer's FFN. Raises ConversionError when there is none, or when the layer is already sparse."""
    refuse_sparse(layer)
    for candidate in _candidates(layer):
        if reproduces(layer, candidate):
            return _with_dropouts(layer, candidate)
    linears = [f"{name} {tuple(_matrix(m).shape)}" for name, m in layer.named_modules() if _is_linear(m)]
    raise ConversionError(
        f"no FFN of a known shape in {type(layer).__name__}; its linear maps are {', '.join(linears) or 'none'}. "
        "Name it yourself: MoEConfig(ffn=FFNLayout(replace=..., up=..., down=..., act=...), ...)."
    )


def refuse_sparse(layer: nn.Module) -> None:
    """Raises ConversionError when the layer holds experts already."""
    for name, parameter in layer.named_parameters():
        if parameter.dim() == 3:
            raise ConversionError(
                f"{type(layer).__name__} is already sparse: {name} {tuple(parameter.shape)} holds stacked experts. "
                "Only dense models can be upcycled."
            )
    for name, module in layer.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) > 1 and any(_is_linear(m) for m in module.modules()):
            raise ConversionError(
                f"{type(layer).__name__} is already sparse: {name} is a list of {len(module)} networks. "
                "Only dense models can be upcycled."
            )


def read_ffn(layer: nn.Module, layout: FFNLayout) -> DenseFFN:
    """Read the dense weights. Raises ConversionError when a path of the layout does not exist or is not linear."""
    up, up_bias = _projection(layer, layout.up)
    down, down_bias = _projection(layer, layout.down)
    gate, gate_bias = (None, None) if layout.gate is None else _projection(layer, layout.gate)
    if layout.fused is not None:
        halves = list(up.chunk(2))
        biases = [None, None] if up_bias is None else list(up_bias.chunk(2))
        first, second = (0, 1) if layout.fused == "gate_up" else (1, 0)
        gate, gate_bias, up, up_bias = halves[first], biases[first], halves[second], biases[second]
    if up.shape != down.T.shape or (gate is not None and gate.shape != up.shape):
        raise ConversionError(f"the projections named by {layout} do not fit each other: {up.shape}, {down.shape}")
    act = _get(layer, layout.act)
    if not callable(act):
        raise ConversionError(f"{layout.act} is a {type(act).__name__}, not a callable activation")
    rates = [0.0 if path is None else _get(layer, path).p for path in (layout.hidden_dropout, layout.output_dropout)]
    return DenseFFN(up, up_bias, down, down_bias, gate, gate_bias, act, *rates)


@torch.no_grad()
def write_ffn(layer: nn.Module, layout: FFNLayout, ffn: DenseFFN) -> None:
    """The inverse of `read_ffn`. Raises ConversionError for a bias that the layer has no place for."""
    if layout.fused is None:
        _fill(layer, layout.up, ffn.up, ffn.up_bias)
        if layout.gate is not None:
            assert ffn.gate is not None
            _fill(layer, layout.gate, ffn.gate, ffn.gate_bias)
    else:
        assert ffn.gate is not None
        order = 1 if layout.fused == "gate_up" else -1
        biases = [bias for bias in (ffn.gate_bias, ffn.up_bias)[::order] if bias is not None]
        _fill(layer, layout.up, torch.cat((ffn.gate, ffn.up)[::order]), torch.cat(biases) if biases else None)
    _fill(layer, layout.down, ffn.down, ffn.down_bias)


def _fill(layer: nn.Module, path: str, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    module = _get(layer, path)
    _matrix(module).copy_(weight)
    if module.bias is not None:
        module.bias.copy_(torch.zeros_like(module.bias) if bias is None else bias)
    elif bias is not None and bool(bias.any()):
        raise ConversionError(f"{path} has no bias, but the expert learned one: it has no place in the dense model")


@torch.no_grad()
def reproduces(layer: nn.Module, layout: FFNLayout) -> bool:
    """Whether the formula of the layout gives what the layer's own modules give, on random hidden states.

    Call it in evaluation mode: dropout would differ.
    """
    ffn = read_ffn(layer, layout)
    hidden = torch.randn(1, 8, ffn.up.shape[1], generator=torch.Generator().manual_seed(0)).to(ffn.up)
    try:
        own = _run(layer, layout, hidden)
    except (RuntimeError, TypeError):  # a candidate whose modules do not chain: not this one
        return False
    ours = ffn(hidden)
    return own.shape == ours.shape and bool((own - ours).abs().max() <= TOLERANCE * own.abs().max().clamp_min(1e-6))


def _run(layer: nn.Module, layout: FFNLayout, hidden: torch.Tensor) -> torch.Tensor:
    inner = hidden if layout.bypass is None else _get(layer, layout.bypass)(hidden)
    return _get(layer, layout.replace)(inner)


def _candidates(layer: nn.Module) -> Iterator[FFNLayout]:
    for name, module in layer.named_modules():
        if name:
            yield from _one_module(name, module)
    for first, before in layer.named_children():
        for second, after in layer.named_children():
            if first != second:
                yield from _two_modules(first, before, second, after)


def _one_module(name: str, module: nn.Module) -> Iterator[FFNLayout]:
    """An FFN that is one module: Linear-act-Linear, gate/up/down, or fused gate-and-up with down."""
    linears = [child for child, m in module.named_children() if _is_linear(m)]
    for act in _activations(module):
        at: dict[str, Any] = {"replace": name, "act": f"{name}.{act}"}
        for up in linears:
            for down in linears:
                if up == down:
                    continue
                rows, columns = _matrix(getattr(module, up)).shape
                if len(linears) == 2 and _matrix(getattr(module, down)).shape == (columns, rows):
                    yield FFNLayout(up=f"{name}.{up}", down=f"{name}.{down}", **at)
                if len(linears) == 2 and _matrix(getattr(module, down)).shape == (columns, rows // 2):
                    yield FFNLayout(up=f"{name}.{up}", down=f"{name}.{down}", fused="gate_up", **at)
                    yield FFNLayout(up=f"{name}.{up}", down=f"{name}.{down}", fused="up_gate", **at)
                for gate in linears if len(linears) == 3 else ():
                    same = _matrix(getattr(module, gate)).shape == (rows, columns)
                    if gate not in (up, down) and same and _matrix(getattr(module, down)).shape == (columns, rows):
                        yield FFNLayout(gate=f"{name}.{gate}", up=f"{name}.{up}", down=f"{name}.{down}", **at)


def _two_modules(first: str, before: nn.Module, second: str, after: nn.Module) -> Iterator[FFNLayout]:
    """An FFN shared by two modules (BERT): `before` is Linear-act; `after` has a Linear, then adds and norms."""
    ups = [child for child, m in before.named_children() if _is_linear(m)]
    downs = [child for child, m in after.named_children() if _is_linear(m)]
    if (
        len(ups) == len(downs) == 1
        and _matrix(getattr(before, ups[0])).shape == (_matrix(getattr(after, downs[0])).shape[::-1])
    ):
        for act in _activations(before):
            down = f"{second}.{downs[0]}"
            yield FFNLayout(replace=down, up=f"{first}.{ups[0]}", down=down, act=f"{first}.{act}", bypass=first)


def _with_dropouts(layer: nn.Module, layout: FFNLayout) -> FFNLayout:
    """Add the dropouts inside the FFN, told apart by whether they run before or after `down`."""
    roots = [path for path in (layout.bypass, layout.replace) if path is not None]
    dropouts = {
        f"{root}.{name}": module
        for root in roots
        for name, module in _get(layer, root).named_modules()
        if isinstance(module, nn.Dropout)
    }
    ran: list[str] = []
    watched = {layout.down: _get(layer, layout.down), **dropouts}
    hooks = [m.register_forward_hook(lambda *_, path=path: ran.append(path)) for path, m in watched.items()]
    with torch.no_grad():
        weight = _matrix(_get(layer, layout.up))
        _run(layer, layout, torch.zeros(1, 8, weight.shape[1], dtype=weight.dtype, device=weight.device))
    for hook in hooks:
        hook.remove()
    before, after = ran[: ran.index(layout.down)], ran[ran.index(layout.down) + 1 :]
    return replace(layout, hidden_dropout=next(iter(before), None), output_dropout=next(iter(after), None))


def _activations(module: nn.Module) -> list[str]:
    """Names of what may be the activation: parameter-free child modules, or callables kept as attributes."""
    children = [
        name
        for name, child in module.named_children()
        if not list(child.parameters()) and not isinstance(child, (nn.Dropout, nn.Identity, nn.ModuleList))
    ]
    return children + [name for name, value in vars(module).items() if not name.startswith("_") and callable(value)]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def _matrix(module: Any) -> torch.Tensor:
    """The `[out, in]` matrix of a linear map; GPT-2 keeps it transposed."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def _projection(layer: nn.Module, path: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    module = _get(layer, path)
    if not _is_linear(module):
        raise ConversionError(f"{path} is a {type(module).__name__}, not a linear map; name the projection itself")
    weight = _matrix(module)
    if not weight.is_floating_point():
        raise ConversionError(f"{path} holds {weight.dtype} weights: load the model without quantisation to upcycle it")
    return weight, module.bias


def _get(layer: nn.Module, path: str):
    try:
        return attrgetter(path)(layer)
    except AttributeError as error:
        children = [name for name, _ in layer.named_modules() if name]
        raise ConversionError(f"{type(layer).__name__} has no {path!r}; its modules are {children}") from error
