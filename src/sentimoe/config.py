"""How a mixture-of-experts conversion is set, and where an FFN lies inside a transformer layer."""

from sentimoe_settings import PRECISIONS, FFNLayout, MoEConfig, check_whole, read_yaml

__all__ = ["PRECISIONS", "FFNLayout", "MoEConfig", "check_whole", "read_yaml"]
