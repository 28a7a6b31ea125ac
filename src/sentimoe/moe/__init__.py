"""Mixture-of-experts layers: tensors in, tensors out. Shapes: B texts, L tokens per text, T real tokens, D hidden size,
F expert width, E experts, K experts per token."""

from .backends import EXPERTS_BACKENDS, ExpertsBackend
from .experts import Experts, SharedExpert
from .layer import MoE, SplitMoE
from .losses import expert_load, expert_pairs, load_balancing_loss, router_z_loss
from .router import Router, straight_through_top_k, top_k
from .routing import LayerRouting, RealTokens, Routing, RoutingCall, active_call, mask_experts

__all__ = [
    "EXPERTS_BACKENDS",
    "Experts",
    "ExpertsBackend",
    "LayerRouting",
    "MoE",
    "RealTokens",
    "Router",
    "Routing",
    "RoutingCall",
    "SharedExpert",
    "SplitMoE",
    "active_call",
    "expert_load",
    "expert_pairs",
    "load_balancing_loss",
    "mask_experts",
    "router_z_loss",
    "straight_through_top_k",
    "top_k",
]
