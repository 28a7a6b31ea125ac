"""What `from_pretrained` loads: whatever kind of folder it is, something that runs, and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .data import SeenTexts
from .errors import ConfigError
from .inference import (
    BASE,
    OpenVINOClassifier,
    RoutedClassifier,
    StagedClassifier,
    compute_dtype,
    domain_names,
    is_compressed,
    is_exported,
    load_compressed,
    load_exported,
    load_routed,
    seen_places,
)
from .model_folder import check_vocabulary, find_folder, is_model_folder, load_tokenizer
from .ready import is_ready, load_ready
from .upcycle import set_experts_per_token


@dataclass(frozen=True)
class Loaded:
    """A trained classifier. network: what an engine runs; for an exported or compressed folder no model of torch.

    seen: the texts that it was trained on; None where that is not known.
    """

    folder: Path
    network: PreTrainedModel | OpenVINOClassifier | StagedClassifier | RoutedClassifier
    tokenizer: PreTrainedTokenizerBase
    seen: SeenTexts | None


def load(
    name: str | Path,
    *,
    precision: str,
    num_experts_per_tok: int | None,
    max_disagreement: float | None,
    trust_remote_code: bool,
    verify: bool,
    domain: str | None = None,
) -> Loaded:
    """Load a folder, a ready model or a hub id, as `SentimentClassifier.from_pretrained` explains, onto the processor.

    Raises ConfigError when there is no such model or it does not allow what is asked, and ModelFolderError when it is
    damaged or not trusted.
    """
    folder = find_folder(name)
    if max_disagreement is not None and not is_compressed(folder):
        raise ConfigError(f"max_disagreement is for a compressed model, which {folder} is not; see sentimoe compress")
    if num_experts_per_tok is not None and (is_compressed(folder) or is_exported(folder)):
        raise ConfigError(
            f"{folder} is compressed or exported, with its experts per token fixed; make it again from the run folder "
            "with others"
        )
    domains = domain_names(folder)
    if domain is not None and not domains:
        raise ConfigError(f"{folder} has no domains, so domain={domain!r} is not allowed; see sentimoe add-domain")
    network: PreTrainedModel | OpenVINOClassifier | StagedClassifier | RoutedClassifier
    device = torch.device("cuda" if torch.cuda.is_available() and domains else "cpu")
    dtype, tokenizer = compute_dtype(precision, device), None
    if is_compressed(folder):
        network = load_compressed(folder, dtype, max_disagreement, verify=verify)
    elif is_exported(folder):
        network = load_exported(folder, dtype, verify=verify)
    elif is_ready(folder):
        network, tokenizer = load_ready(folder, verify=verify)
    elif is_model_folder(folder):
        from .methods import load_adapted  # brings peft

        network = load_adapted(folder, trust_remote_code=trust_remote_code, verify=verify)
    else:
        raise ConfigError(f"{folder} is not a trained model (it has no config.json); give the folder of a run")
    if tokenizer is None:
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    if isinstance(network, torch.nn.Module):
        check_vocabulary(tokenizer, network, folder)
        if num_experts_per_tok is not None:
            set_experts_per_token(network, num_experts_per_tok)
        if domains and domain != BASE:
            network = load_routed(folder, network.to(device), dtype, domain, verify=verify)
    seen = SeenTexts.load(folder)  # where nobody knows those of the model itself, those of its domains do not help
    if seen is not None and domain != BASE:
        for place in seen_places(folder)[1:]:
            seen |= SeenTexts.load(place)
    return Loaded(folder, network, tokenizer, seen)
