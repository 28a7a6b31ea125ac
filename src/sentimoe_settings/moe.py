"""How the FFNs of a model become experts, and where an FFN lies inside a transformer layer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from .base import Settings, WholeNumbers, panel, settings
from .errors import ConfigError

in_experts = panel("Experts")


@settings
class FFNLayout(Settings):
    """Where the feed-forward network lies in a transformer layer; every path is relative to the layer."""

    replace: str
    """Module whose place the MoE takes: it receives hidden states `[..., D]` and returns `[..., D]`."""
    up: str
    """The up projection."""
    down: str
    """The down projection."""
    act: str
    """The activation."""
    gate: str | None = None
    """The gate projection; None where the dense FFN has no gate."""
    fused: Literal["gate_up", "up_gate"] | None = None
    """`up` holds gate and up in one matrix of `2F` rows: "gate_up" when the gate rows come first."""
    bypass: str | None = None
    """Module that runs before `replace` and becomes the identity (BERT's `intermediate`)."""
    hidden_dropout: str | None = None
    """The dropout before `down`."""
    output_dropout: str | None = None
    """The dropout after `down`."""

    @property
    def gated(self) -> bool:
        """Whether the dense FFN already multiplies by a gate (Llama, ModernBERT)."""
        return self.gate is not None or self.fused is not None


def _layout(value: Any) -> Any:
    return FFNLayout.from_dict(value) if isinstance(value, dict) else value


@settings
class MoEConfig(Settings):
    """How the FFNs of a model become experts. Names follow transformers and peft.

    Raises:
        ConfigError: a value is outside what is allowed.
    """

    num_experts: int = in_experts(4, ge=2)
    """Experts per layer, E."""
    num_experts_per_tok: int = in_experts(2, ge=1)
    """Experts that read each token, K."""
    expert: Literal["gated", "plain"] = "gated"
    """gated (`down(act(gate x) * up x)`) or plain (`down(act(up x))`)."""
    num_shared_experts: int = in_experts(0, ge=0)
    """Experts that read every token, beside the routed ones (only where the FFN is divided)."""
    layers_to_transform: Annotated[tuple[int, ...] | None, WholeNumbers] = in_experts(
        None, flag="--layers", shown="the last two; all for moe-split", min_length=1
    )
    """Layers to convert, such as -2,-1; negative ones count from the end."""
    init: Literal["copy", "copy-random-gate", "split"] = in_experts("copy")
    """How experts start: as copies of the dense FFN (copy), as copies whose new up projection is random (copy-random-
    gate), or as parts of the FFN that together are the FFN (split)."""
    init_noise: float = in_experts(0.0, ge=0, le=1)
    """Noise on copied experts, relative to the deviation of each tensor."""
    router_aux_loss_coef: float = in_experts(1e-2, ge=0)
    """Weight of the load-balancing loss."""
    router_z_loss_coef: float = in_experts(1e-3, ge=0)
    """Weight of the router z-loss."""
    experts_backend: str = "sorted"
    """sorted (fast), grouped (one grouped matrix product, for GPUs), reference (the slow loop they are tested
    against) or gathered (for export)."""
    ffn: Annotated[FFNLayout | None, BeforeValidator(_layout)] = None
    """Where the FFN lies, for a model whose layout is not recognised; found by shape when None."""

    def __post_init__(self) -> None:
        if self.num_experts_per_tok > self.num_experts:
            raise ConfigError(
                f"num_experts_per_tok={self.num_experts_per_tok} is not allowed; it must be between 1 and "
                f"num_experts={self.num_experts}"
            )
        if self.num_shared_experts and self.init != "split":
            raise ConfigError(
                f"num_shared_experts={self.num_shared_experts} is not allowed; it must be 0, except with init='split'"
            )
