"""Model folders: how all that lies in one, or under a hub id, is checked, loaded and saved."""

from .adapter_config import AdapterConfig, register_adapters
from .checks import check_adapter, check_vocabulary, missing_special_tokens
from .files import (
    ADAPTER,
    BASE,
    COMPRESSED,
    CONFIG,
    DOMAINS,
    EXPORT,
    INDEX,
    SEEN,
    THRESHOLD,
    TOKENIZER,
    TOKENIZER_CONFIG,
    check_file,
    check_files,
    check_hashes,
    is_model_folder,
    read_object,
)
from .finding import find_folder
from .loading import check_answers, load_adapter, load_config, load_model, load_tokenizer
from .quiet import quietly, without_deprecations
from .saving import saved_whole
from .weights import check_finite, read_header, same_weights

__all__ = [
    "ADAPTER",
    "BASE",
    "COMPRESSED",
    "CONFIG",
    "DOMAINS",
    "EXPORT",
    "INDEX",
    "SEEN",
    "THRESHOLD",
    "TOKENIZER",
    "TOKENIZER_CONFIG",
    "AdapterConfig",
    "check_adapter",
    "check_answers",
    "check_file",
    "check_files",
    "check_finite",
    "check_hashes",
    "check_vocabulary",
    "find_folder",
    "is_model_folder",
    "load_adapter",
    "load_config",
    "load_model",
    "load_tokenizer",
    "missing_special_tokens",
    "quietly",
    "read_header",
    "read_object",
    "register_adapters",
    "same_weights",
    "saved_whole",
    "without_deprecations",
]
