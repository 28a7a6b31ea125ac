"""Whether the settings in a folder make sense, before a library reads them and takes a default for what is missing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

from ..config import MoEConfig
from ..errors import ConfigError, ModelFolderError
from .files import (
    ADAPTER,
    BASE,
    CONFIG,
    OWN_TYPE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    VOCABULARIES,
    WEIGHTS,
    is_own,
    read_object,
)

# settings of an adapter that would load a module, a file or another model, and that no method of sentimoe uses
ELSEWHERE = (
    *("auto_mapping", "megatron_config", "corda_config", "eva_config", "loftq_config", "lora_ga_config"),
    *("arrow_config", "kasa_config", "velora_config", "monteclora_config", "layer_replication", "use_bdlora"),
)


def read_config(folder: Path, *, trusted: bool = False) -> dict[str, Any]:
    """What config.json holds. Raises ModelFolderError for damage, and for code from elsewhere unless `trusted`."""
    config = read_object(folder / CONFIG)
    for name, value in _settings(config):
        if name.endswith("attn_implementation") and "/" in str(value) and not trusted:
            raise ModelFolderError(
                f"{CONFIG} of {folder} asks for {name}={value!r}, which is code of the hub; if you trust it, load the "
                "model with --trust-remote-code (trust_remote_code=True)"
            )
    if "transformers_weights" in config:
        raise ModelFolderError(f"{CONFIG} of {folder} names its weights itself (transformers_weights): not supported")
    if config.get("model_type") == OWN_TYPE:
        _check_own(folder, config)
    return config


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """All names with their values, of what lies inside too."""
    if isinstance(config, dict):
        for name, value in config.items():
            yield str(name), value
            yield from _settings(value)


def _check_own(folder: Path, config: dict[str, Any]) -> None:
    lacking = [name for name in ("head", "moe", "moe_receipt", "id2label", "label2id") if name not in config]
    moe, known = config.get("moe"), [field.name for field in dataclasses.fields(MoEConfig)]
    if not lacking and moe is not None:
        if not isinstance(moe, dict):
            raise ModelFolderError(f"{CONFIG} of {folder} has moe={moe!r}; it must be null or hold settings")
        lacking = [f"moe.{name}" for name in known if name not in moe]
    if lacking:
        raise ModelFolderError(f"{CONFIG} of {folder} lacks {', '.join(lacking)}; copy it again from where it was made")
    if moe is not None:
        try:
            MoEConfig(**{name: value for name, value in moe.items() if name in known})  # a newer version may have more
        except (ConfigError, TypeError) as error:
            raise ModelFolderError(f"{CONFIG} of {folder}, moe: {error}") from error


def check_labels(folder: Path, config: dict[str, Any]) -> None:
    """Raises ModelFolderError unless the label maps are each other's inverse and number the labels from 0.

    config: what config.json holds.
    """
    names, numbers = config.get("id2label"), config.get("label2id")
    where = f"{CONFIG} of {folder}"
    if names is None and numbers is None:
        return
    if not isinstance(names, dict) or not names or not all(isinstance(each, str) for each in names.values()):
        raise ModelFolderError(f"{where} has id2label={names!r}; it must map numbers to names of labels")
    if set(names) != {str(index) for index in range(len(names))}:
        raise ModelFolderError(f"{where} numbers its labels {sorted(names)}, not 0 to {len(names) - 1}")
    if len(set(names.values())) != len(names):
        raise ModelFolderError(f"{where} gives two labels one name: {sorted(names.values())}; rename one of them")
    if numbers is not None and numbers != {name: int(index) for index, name in names.items()}:
        raise ModelFolderError(
            f"{where} has id2label={names} and label2id={numbers}, which contradict each other; correct one of them"
        )


def check_as_saved(folder: Path, config: PreTrainedConfig) -> None:
    """Of a folder in sentimoe's own format: every setting that this transformers writes is there, and no other."""
    stored, written = read_object(folder / CONFIG), config.to_diff_dict()
    same = [stored.get(name) == written.get(name) for name in ("transformers_version", "format_version")]
    if not all(same) or stored["transformers_version"] != transformers_version:
        return  # another version may have written other settings
    differing = sorted(_names(stored) ^ _names(written))
    if differing:
        raise ModelFolderError(
            f"{CONFIG} of {folder} has not the settings that were saved: see {', '.join(differing[:3])}; copy it again "
            "from where it was made"
        )


def _names(config: dict[str, Any]) -> set[str]:
    """The names of all settings, but those of labels."""
    maps = ("id2label", "label2id")
    inside = (_names(value) for name, value in config.items() if isinstance(value, dict) and name not in maps)
    return {str(name) for name in config}.union(*inside)


def check_tokenizer_files(folder: Path) -> None:
    """Raises ModelFolderError where files are missing without which transformers makes up another tokenizer."""
    own = is_own(folder)
    settings = read_object(folder / TOKENIZER_CONFIG) if own or (folder / TOKENIZER_CONFIG).exists() else {}
    if own and (lacking := [name for name in ("tokenizer_class", "model_max_length") if name not in settings]):
        raise ModelFolderError(f"{TOKENIZER_CONFIG} of {folder} lacks {lacking[0]}; copy it again")
    fast = settings.get("backend") == "tokenizers"
    for name in ("special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            read_object(folder / name)
    if (folder / TOKENIZER).exists():
        read_object(folder / TOKENIZER)
    elif fast or not _has_vocabulary(folder, settings.get("tokenizer_class")):
        raise ModelFolderError(f"{folder} lacks {TOKENIZER}; copy it again from where it was made")
    if other := settings.get("fast_tokenizer_files"):
        raise ModelFolderError(f"{TOKENIZER_CONFIG} of {folder} names other files (fast_tokenizer_files): {other!r}")
    longest = settings.get("model_max_length", 1)
    if isinstance(longest, bool) or not isinstance(longest, int | float) or longest < 1 or longest != int(longest):
        raise ModelFolderError(
            f"{TOKENIZER_CONFIG} of {folder} has model_max_length={longest!r}; it must be a number of tokens"
        )


def _has_vocabulary(folder: Path, class_name: Any) -> bool:
    """Whether a folder without tokenizer.json has the files from which the tokenizer of that class is made."""
    known = tokenizer_class_from_name(class_name) if isinstance(class_name, str) else None
    if known is None:
        return any((folder / name).exists() for name in VOCABULARIES)
    return all((folder / name).exists() for name in known.vocab_files_names.values() if name != TOKENIZER)


def check_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ModelFolderError where settings contradict tokenizer.json, or leave no token for the text."""
    where = f"{TOKENIZER_CONFIG} of {folder}"
    if tokenizer.model_max_length <= tokenizer.num_special_tokens_to_add():
        raise ModelFolderError(
            f"{where} has model_max_length={tokenizer.model_max_length}, which leaves no token for the text"
        )
    if (folder / TOKENIZER_CONFIG).exists() and read_object(folder / TOKENIZER_CONFIG).get("backend") == "tokenizers":
        stored = _parts(Tokenizer.from_file(str(folder / TOKENIZER)))
        made = _parts(tokenizer.backend_tokenizer)
        if differing := [name for name in stored if stored[name] != made[name]]:
            raise ModelFolderError(
                f"{where} has settings that contradict the {', '.join(differing)} of {TOKENIZER}; copy the folder again"
            )


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """How it splits a text into tokens; truncation and padding are given with each call."""
    return {
        name: part for name, part in json.loads(tokenizer.to_str()).items() if name not in ("truncation", "padding")
    }


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, model: nn.Module, where: str | Path) -> None:
    """Raises ModelFolderError where some text would have a token without an embedding, an IndexError in the model.

    where: whose tokenizer it is, for the message. No text has a special token where they are split.
    """
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    read, special = tokenizer.get_vocab(), missing_special_tokens(tokenizer, embeddings.num_embeddings)
    highest = max((index for token, index in read.items() if token not in special), default=-1)
    if highest >= embeddings.num_embeddings:
        raise ModelFolderError(
            f"the tokenizer of {where} has a token {highest}, its model has embeddings of {embeddings.num_embeddings} "
            "tokens: they do not belong together; copy the folder again, or resize the embeddings"
        )
    if special and not getattr(tokenizer, "split_special_tokens", False):
        raise ModelFolderError(
            f"the model of {where} has no embedding for the special tokens {', '.join(sorted(special))}; set "
            "tokenizer.split_special_tokens to True, so that they are read as plain text"
        )


def missing_special_tokens(tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> list[str]:
    """Special tokens beyond the embeddings, such as the image token of Gemma 3 in a model that reads text alone."""
    added = tokenizer.added_tokens_decoder
    return [token.content for index, token in added.items() if token.special and index >= num_embeddings]


def check_whole(folder: Path) -> None:
    """Raises ModelFolderError for an adapter where a whole model is wanted; transformers would load both."""
    if (folder / ADAPTER).exists():
        raise ModelFolderError(
            f"{folder} holds {ADAPTER}; it is not loaded as a whole model. If it is an adapter, give the model in its "
            f"{BASE}/, or train with merge; if not, remove that file"
        )


def check_adapter(folder: Path) -> None:
    """Raises ModelFolderError for an adapter that sentimoe did not write."""
    import peft  # slow to import, and only adapters need it

    kinds = {"LORA": peft.LoraConfig, "P_TUNING": peft.PromptEncoderConfig}  # of methods that are saved as an adapter
    adapter = read_object(folder / ADAPTER)
    if not (folder / BASE).is_dir():
        raise ModelFolderError(
            f"{folder} holds an adapter without the model that it belongs to, which sentimoe saves in {BASE}/; copy "
            "the whole folder again"
        )
    if (folder / WEIGHTS).exists():
        raise ModelFolderError(f"{folder} holds a whole model and an adapter ({ADAPTER}); remove the one not meant")
    if (kind := str(adapter.get("peft_type"))) not in kinds:
        raise ModelFolderError(f"{ADAPTER} of {folder} has peft_type={kind!r}; sentimoe reads {' and '.join(kinds)}")
    if used := [name for name in ELSEWHERE if adapter.get(name)]:
        raise ModelFolderError(
            f"{ADAPTER} of {folder} has {used[0]}={adapter[used[0]]!r}, which sentimoe does not read"
        )
    usual = kinds[kind]().to_dict()
    if adapter.get("peft_version") == peft.__version__ and (lacking := sorted(usual.keys() - adapter.keys())):
        raise ModelFolderError(f"{ADAPTER} of {folder} lacks {', '.join(lacking[:3])}; copy it again")
    for name, value in adapter.items():
        if not _alike(value, usual.get(name)):
            raise ModelFolderError(f"{ADAPTER} of {folder} has {name}={value!r}; it must be like {usual[name]!r}")


def _alike(value: Any, usual: Any) -> bool:
    """Whether a value is a number or yes or no where the usual one is."""
    if isinstance(usual, bool):
        return isinstance(value, bool)
    if isinstance(usual, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return True
