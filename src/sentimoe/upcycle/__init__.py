"""From a dense Hugging Face classifier to experts and back; model classes, saving and loading."""

from .backbones import load_classifier, with_mean_head
from .collapse import CollapseReport, collapse
from .configuration import SentiMoEConfig
from .convert import upcycle
from .head import head_modules, logits_layer, reads_last_token
from .labels import check_single_label, is_ordinal, label_type
from .layout import find_layout, transformer_layers
from .mean_head import mean_over_real_tokens
from .modeling import MoESequenceClassifierOutput, SentiMoEForSequenceClassification, register
from .names import PACKAGED, backbone_path
from .receipt import MoEReceipt
from .recording import inputs_of_real_tokens, recorded
from .structure import layer_numbers, moe_layers, set_experts_per_token
from .temperature import divide_logits

__all__ = [
    "PACKAGED",
    "CollapseReport",
    "MoEReceipt",
    "MoESequenceClassifierOutput",
    "SentiMoEConfig",
    "SentiMoEForSequenceClassification",
    "backbone_path",
    "check_single_label",
    "collapse",
    "divide_logits",
    "find_layout",
    "head_modules",
    "inputs_of_real_tokens",
    "is_ordinal",
    "label_type",
    "layer_numbers",
    "load_classifier",
    "logits_layer",
    "mean_over_real_tokens",
    "moe_layers",
    "reads_last_token",
    "recorded",
    "register",
    "set_experts_per_token",
    "transformer_layers",
    "upcycle",
    "with_mean_head",
]
