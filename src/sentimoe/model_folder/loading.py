"""The one way in: every config, tokenizer, model and adapter is loaded by these functions, from a folder or a hub id.

Code that a folder brings along runs only with `trust_remote_code`, nothing is asked on standard input (which may be the
user's texts), and weights are read from safetensors alone. What transformers has itself it uses, whatever `auto_map`
says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import ConfigError, ModelFolderError, SentiMoEError

if TYPE_CHECKING:
    from peft import PeftModel

# what transformers, peft, tokenizers and safetensors raise on files that are damaged, and nothing wider
RAISED_ON_DAMAGE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError),
    *(SafetensorError, StrictDataclassError),
)


def load_config(name: str | Path, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The config of a folder or hub id. Raises ModelFolderError, or ConfigError where there is no such model."""
    with _told(name):
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id. Raises ModelFolderError, or ConfigError where there is no such model."""
    with _told(name):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **options)


def load_model(
    model_class: Any, name: str | Path, *, trust_remote_code: bool = False, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model of that class (or auto class) in evaluation mode, and what transformers tells of its weights' names.

    options: of `from_pretrained`. Raises ModelFolderError, or ConfigError where there is no such model.
    """
    with _told(name):
        return model_class.from_pretrained(
            name, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True, **options
        )


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model under the adapter that lies in a folder. Raises ModelFolderError."""
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelFolderError(f"{folder} lacks adapter_model.safetensors, the weights of its adapter; copy it again")
    from peft import PeftModel  # slow to import, and only adapters need it

    with _told(folder):
        return PeftModel.from_pretrained(model, str(folder)).eval()


def is_model_folder(name: str | Path) -> bool:
    """Whether a folder of that name holds a model or an adapter, whole or not."""
    return any((Path(name) / each).exists() for each in ("config.json", "adapter_config.json"))


@contextmanager
def _told(name: str | Path) -> Iterator[None]:
    """What libraries raise on a model that cannot be loaded, as one error that says what to do."""
    try:
        yield
    except (SentiMoEError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        raise ConfigError(f"{name} needs a package that is not installed: {_first_line(error)}") from error
    except RAISED_ON_DAMAGE as error:
        if "trust_remote_code" in str(error):  # transformers has no error type for it
            raise ModelFolderError(
                f"{name} brings Python code of its own, which is not run; read that code, and if you trust it load the "
                "model with --trust-remote-code (trust_remote_code=True)"
            ) from error
        if not is_model_folder(name):
            raise ConfigError(
                f"model {str(name)!r} cannot be loaded; give the folder of a model or the id of one that the hub or "
                f"its cache has ({_first_line(error)})"
            ) from error
        raise ModelFolderError(
            f"{name} cannot be loaded ({type(error).__name__}: {_first_line(error)}); if it was damaged, copy it again "
            "from where it was made"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
