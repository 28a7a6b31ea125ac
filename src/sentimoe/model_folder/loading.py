"""The one way in: every config, tokenizer, model and adapter is loaded by these functions, from a folder or a hub id.

Code that a folder brings along runs only with `trust_remote_code`, nothing is asked on standard input (which may be the
user's texts), and weights are read from safetensors alone. What transformers has itself it uses, whatever `auto_map`
says. A folder is checked before a library reads it, because libraries make up what is missing; what they still raise
becomes one error here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import ConfigError, ModelFolderError, NotSupportedError, SentiMoEError, WeightsError
from .checks import (
    check_as_saved,
    check_labels,
    check_tokenizer,
    check_tokenizer_files,
    check_whole,
    read_config,
)
from .files import ADAPTER_WEIGHTS, check_files, check_hashes, is_model_folder, is_own
from .quiet import quietly, without_deprecations
from .weights import check_adapter_weights, check_dtypes, check_finite, check_surplus, check_weights

if TYPE_CHECKING:
    from peft import PeftModel

# what transformers, peft, tokenizers and safetensors raise on files that are damaged, and nothing wider
RAISED_ON_DAMAGE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError, RuntimeError),
    *(SafetensorError, StrictDataclassError),
)


ENCODER_DECODER = "{} is an encoder-decoder ({}), which sentimoe does not read; give an encoder or a decoder"


def load_config(name: str | Path, *, trust_remote_code: bool = False, labelled: bool = False) -> PreTrainedConfig:
    """The config of a folder or hub id. labelled: its label maps must be right.

    Raises ModelFolderError, or ConfigError where there is no such model.
    """
    if is_model_folder(name):
        check_files(Path(name))
        config = read_config(Path(name), trusted=trust_remote_code)
        if labelled:
            check_labels(Path(name), config)
    with _told(name):
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)


def load_tokenizer(name: str | Path, *, trust_remote_code: bool = False, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id. Raises ModelFolderError, or ConfigError where there is no such model."""
    checked = is_model_folder(name) and "gguf_file" not in options
    if checked:
        check_files(Path(name))
        check_tokenizer_files(Path(name))
    with _told(name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code, **options)
    if checked:
        with _told(name):
            check_tokenizer(Path(name), tokenizer)
    return tokenizer


def load_model(
    model_class: Any,
    name: str | Path,
    *,
    trust_remote_code: bool = False,
    verify: bool = True,
    labelled: bool = False,
    **options: Any,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model of that class (or auto class) in evaluation mode, and what transformers tells of its weights' names.

    verify: compare a folder with its manifest, where it has one. labelled: its label maps must be right. options: of
    `from_pretrained`. Raises ModelFolderError, ConfigError where there is no such model, and NotSupportedError for a
    classifier that is an encoder-decoder.
    """
    config: dict[str, Any] = {}
    checked = is_model_folder(name) and "gguf_file" not in options
    if checked:
        check_files(Path(name))
        check_whole(Path(name))
        if verify:
            check_hashes(Path(name))
        config = read_config(Path(name), trusted=trust_remote_code)
        if labelled:
            check_labels(Path(name), config)
        check_weights(Path(name))
    with _told(name), quietly():
        model, info = model_class.from_pretrained(
            name, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True, **options
        )
    if model_class is AutoModelForSequenceClassification and getattr(model.config, "is_encoder_decoder", False):
        raise NotSupportedError(ENCODER_DECODER.format(name, model.config.model_type))
    check_finite(model, str(name))
    if checked and is_own(Path(name)) and config.get("quantization_config") is None:
        check_as_saved(Path(name), model.config)
        saved = config.get("architectures") or [type(model).__name__]
        if type(model).__name__ in saved:  # not its backbone alone
            check_surplus(Path(name), info)
        if "dtype" not in options:
            check_dtypes(Path(name), model)
    return model, info


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model under the adapter that lies in a folder. Raises ModelFolderError."""
    from peft import PeftModel, get_peft_model_state_dict  # slow to import, and only adapters need it

    check_adapter_weights(folder)
    with _told(folder), without_deprecations():
        adapted = PeftModel.from_pretrained(model, str(folder)).eval()
        stored = load_file(folder / ADAPTER_WEIGHTS)
        loaded = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    if differing := sorted(stored.keys() ^ loaded.keys()):
        raise WeightsError(f"the adapter in {folder} has not the weights that its settings say: see {differing[:3]}")
    _keep_dtypes(folder, adapted, stored, loaded)
    check_finite(adapted, str(folder))
    return adapted


def _keep_dtypes(
    folder: Path, adapted: PeftModel, stored: dict[str, torch.Tensor], loaded: dict[str, torch.Tensor]
) -> None:
    """Undo that peft rounds what was trained in float32 to the type of the base. Raises WeightsError for others."""
    parameters = {parameter.data_ptr(): parameter for parameter in adapted.parameters()}
    for name, tensor in loaded.items():
        if stored[name].dtype == torch.float32 and tensor.dtype == torch.bfloat16:
            parameters[tensor.data_ptr()].data = stored[name].to(tensor.device)
        elif stored[name].dtype != tensor.dtype:
            raise WeightsError(
                f"{name} of the adapter in {folder} is stored as {stored[name].dtype}, and used as {tensor.dtype}: "
                "it was changed after it was saved; copy the folder again"
            )


@torch.inference_mode()
def check_answers(model: Any, folder: Path) -> None:
    """Ask a classifier about two made-up texts, one of which is padded: token ids `[2, 3]`.

    A setting that only a forward reads is found now, and not under the user's first text. Raises ModelFolderError.
    """
    ids = torch.ones(2, 3, dtype=torch.long, device=model.device)
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]], device=model.device)
    with _told(folder):
        model(input_ids=ids, attention_mask=mask)


@contextmanager
def _told(name: str | Path) -> Iterator[None]:
    """What libraries raise on a model that cannot be loaded, as one error that says what to do."""
    try:
        yield
    except (ModelFolderError, torch.OutOfMemoryError):
        raise
    except ImportError as error:
        raise ConfigError(f"{name} needs a package that is not installed: {_short(error)}") from error
    except SentiMoEError as error:  # of our model classes, about a setting in the folder
        raise ModelFolderError(f"{name} cannot be loaded: {error}") from error
    except RAISED_ON_DAMAGE as error:
        raise _refused(name, error) from error
    except Exception as error:
        if type(error) is not Exception:  # tokenizers raises that class itself
            raise
        raise _refused(name, error) from error


def _refused(name: str | Path, error: Exception) -> SentiMoEError:
    if "trust_remote_code" in str(error):  # transformers has no error type for it
        return ModelFolderError(
            f"{name} brings Python code of its own, which is not run; read that code, and if you trust it load the "
            "model with --trust-remote-code (trust_remote_code=True)"
        )
    if is_model_folder(name):
        return ModelFolderError(
            f"{name} cannot be loaded ({type(error).__name__}: {_short(error)}); if it was damaged, copy it again "
            "from where it was made"
        )
    return ConfigError(
        f"model {str(name)!r} cannot be loaded; give the folder of a model or the id of one that the hub or its cache "
        f"has ({_short(error)})"
    )


def _short(error: BaseException) -> str:
    return textwrap.shorten(str(error), 200, placeholder=" ...")
