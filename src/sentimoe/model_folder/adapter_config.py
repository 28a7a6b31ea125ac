"""How the folder of an adapter describes itself to transformers."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ..errors import ModelFolderError
from .files import CONFIG


class AdapterConfig(PreTrainedConfig):
    """Entry of `AutoConfig` for the folder of an adapter: reads as the config of its base, which it holds.

    With it and an index of the weights in `base/`, transformers finds the base in the folder itself, wherever that is
    moved; a process without sentimoe does not know this type and refuses, instead of loading the base alone.
    """

    model_type = "sentimoe-adapter"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        base_config = config_dict.get("base_config")
        if not isinstance(base_config, dict) or base_config.get("model_type") not in CONFIG_MAPPING:
            raise ModelFolderError(
                f"{CONFIG} of an adapter has base_config={base_config!r}; it must be that of its base"
            )
        return CONFIG_MAPPING[base_config["model_type"]].from_dict(base_config, **kwargs)


def register_adapters() -> None:
    """Make `AutoConfig` know the folders of adapters."""
    AutoConfig.register(AdapterConfig.model_type, AdapterConfig, exist_ok=True)
