"""`SentiMoEConfig`: the config of a backbone or classifier, the head on it, and its experts."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ..config import MoEConfig
from ..errors import ConfigError, ModelFolderError

HEADS = ("mean", "native")
FORMAT_VERSION = "1.0"
OF_VERSION_0 = ("base_model_type", "head", "head_dropout", "moe", "moe_receipt")


class SentiMoEConfig(PreTrainedConfig):
    """Config of `SentiMoEForSequenceClassification`, composed as transformers composes its own.

    base_config: config of the architecture underneath. head: "native" (the classification head of that architecture) or
    "mean" (mean pooling over real tokens, dropout of probability `head_dropout`, one linear layer).
    moe: the fields of a `MoEConfig`; None: a dense model. moe_receipt: what the conversion measured.
    format_version: of a saved folder, as major.minor. A folder with a newer minor version loads with a warning; a newer
    major one raises ModelFolderError.
    """

    model_type = "sentimoe"
    sub_configs: ClassVar[dict[str, Any]] = {"base_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values", "routing"]

    def __init__(
        self,
        base_config: PreTrainedConfig | dict[str, Any] | None = None,
        head: str = "native",
        head_dropout: float = 0.1,
        moe: dict[str, Any] | None = None,
        moe_receipt: dict[str, Any] | None = None,
        format_version: str = FORMAT_VERSION,
        **kwargs: Any,
    ):
        if head not in HEADS:
            raise ConfigError(f"head={head!r} must be one of {HEADS}")
        self.base_config = _base_config(base_config)
        self.head, self.head_dropout = head, head_dropout
        self.moe, self.moe_receipt = moe, moe_receipt
        self.format_version = format_version
        labels = {name: getattr(self.base_config, name) for name in ("id2label", "label2id", "problem_type")}
        super().__init__(**(labels | {"dtype": self.base_config.dtype} | kwargs))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):
        """Build from `config.json`, of version 0.1 too. Raises ConfigError or ModelFolderError."""
        if "base_config" not in config_dict and "base_model_type" in config_dict:
            config_dict = _from_version_0(config_dict)
        if _is_newer(config_dict) and config_dict.get("moe"):
            known = {field.name for field in dataclasses.fields(MoEConfig)}
            config_dict["moe"] = {name: value for name, value in config_dict["moe"].items() if name in known}
        return super().from_dict(config_dict, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """What `config.json` holds: the labels always, also transformers' default ones; never the path of the base."""
        stored = super().to_diff_dict() | {"id2label": self.id2label, "label2id": self.label2id}
        stored.get("base_config", {}).pop("_name_or_path", None)
        return stored

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """The config that has `hidden_size`, `vocab_size`, `pad_token_id` and the like."""
        return self.base_config.get_text_config(decoder=decoder, encoder=encoder)

    @property
    def moe_config(self) -> MoEConfig | None:
        """How the model was converted; None for a dense model."""
        return None if self.moe is None else MoEConfig.from_dict(self.moe)


def _base_config(given: PreTrainedConfig | dict[str, Any] | None) -> PreTrainedConfig:
    if isinstance(given, PreTrainedConfig):
        return given
    base_config = (
        {"model_type": "bert"} if given is None else dict(given)
    )  # transformers builds every config class once without arguments
    model_type = base_config.pop("model_type", None)
    if model_type not in CONFIG_MAPPING or model_type == SentiMoEConfig.model_type:
        raise ConfigError(
            f"base_config has model_type={model_type!r}; it must be an architecture that this transformers knows"
        )
    return CONFIG_MAPPING[model_type].from_dict(base_config)


def _from_version_0(config_dict: dict[str, Any]) -> dict[str, Any]:
    """Version 0.1 wrote the fields of the base config beside its own."""
    base_config = dict(config_dict)
    ours: dict[str, Any] = {name: base_config.pop(name) for name in OF_VERSION_0 if name in base_config}
    base_config["model_type"] = ours.pop("base_model_type")
    if ours.get("head") not in HEADS:
        raise ConfigError(f"config.json has head={ours.get('head')!r}; it must be one of {HEADS}")
    return {"base_config": base_config, "format_version": "0.1", **ours}


def _is_newer(config_dict: dict[str, Any]) -> bool:
    """Whether the folder has a newer minor version, which is said. Raises ModelFolderError for a newer major one."""
    version = config_dict.get("format_version", FORMAT_VERSION)
    try:
        major, minor = (int(part) for part in version.split("."))
    except (AttributeError, ValueError):
        raise ModelFolderError(
            f"config.json has format_version={version!r}; it must be like {FORMAT_VERSION!r}"
        ) from None
    ours = tuple(int(part) for part in FORMAT_VERSION.split("."))
    if major > ours[0]:
        raise ModelFolderError(
            f"the model folder has format {version}, this sentimoe reads up to {ours[0]}.x: update it with "
            "pip install --upgrade sentimoe"
        )
    newer = (major, minor) > ours
    if newer:
        warnings.warn(
            f"the model folder has format {version}, newer than {FORMAT_VERSION}: what this sentimoe does not know in "
            "it is left out",
            stacklevel=2,
        )
    return newer
