"""From a trained classifier and texts without labels to a folder that answers the same, faster."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..config import check_whole
from ..data import SeenTexts
from ..errors import ConfigError
from ..inference import compute_dtype, exportable, make_windows
from ..inference.compressed import save_compressed
from ..inference.lengths import position_limit, window_length
from ..inference.segments import check_segments
from ..machine import hardware, versions
from ..model_card import model_facts
from .quality import label_indices, quality
from .search import Search, default_levers
from .texts import divided, promises
from .words import certificate_lines

SUMMARY = (
    "A text classifier made faster by `sentimoe compress`. Each text gets one of these labels, with a probability for "
    "every label."
)
LIMITS = (
    "The certificate is about agreement with the original model, not about the truth. It covers texts of the same kind "
    "as those that certified it, on the same kind of processor.",
    "Each text gets one label; the model does not tell which aspect an opinion is about.",
)
FEW_REPEATS = 0.1  # share of the texts
LEAST, MOST = 0.0001, 0.5  # shares of texts whose label may be another


def compress(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    output: Path,
    *,
    labels: Sequence[Any] | None = None,
    seen: SeenTexts | None = None,
    max_disagreement: float = 0.01,
    exits: bool = True,
    int8: bool = True,
    minutes: float = 10.0,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
    card: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the fastest model found on this processor whose labels are the original's, but for a certified share.

    texts: of the kind that the model will read. labels: of these texts, where they are known, None for each that has
    none: then F1 of both models stands beside the certificate. seen: those that the model was trained or selected
    on; None where nobody knows. max_disagreement: the share of texts whose label may be another. exits, int8: which
    levers may be used. minutes: that the search takes, about. card: what the model card says beside what the model
    says of itself. Returns what `sentimoe_compressed.json` says.

    Raises ConfigError for a setting outside what is allowed, DataError where the texts are too few for any promise, and
    NotSupportedError where no lever keeps the promise.
    """
    if not LEAST <= max_disagreement <= MOST:
        raise ConfigError(
            f"max_disagreement={max_disagreement!r} must lie between {LEAST:g} and {MOST:g}, such as 0.01"
        )
    check_whole("seed", seed, 0)
    if not minutes > 0:
        raise ConfigError(f"minutes={minutes!r} must be above 0, such as 10")
    if labels is not None and len(labels) != len(texts):
        raise ConfigError(f"{len(labels)} labels and {len(texts)} texts; give as many, and None for a text without one")
    started = time.monotonic()
    layers = model.config.get_text_config().num_hidden_layers
    levers = default_levers(layers, exits, int8)
    if not levers:
        raise ConfigError(
            f"exits={exits} and int8={int8} leave nothing to try on a model of {layers} layer{'s' * (layers > 1)}; "
            "leave int8 on"
        )
    for package in ("openvino", *(("nncf",) if int8 else ())):
        if find_spec(package) is None:
            raise ConfigError(f"compress needs {package}: pip install 'sentimoe[compress]'")
    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; choose another folder")
    length = window_length(None, tokenizer, position_limit(model))
    check_segments(exportable(model), max((lever.cuts for lever in levers), key=len), length)
    if seen is None or not seen.complete:
        which = "the model keeps no list" if seen is None else "nobody keeps a whole list"
        progress(f"warning: {which} of its training texts; if some are here, too much is certified")
    known = np.zeros(len(texts), dtype=bool) if seen is None else seen.mask(texts)
    read = set(make_windows(texts, tokenizer, length, "truncate").owner)  # a lone U+FE0F has no token
    texts = [text if row in read else "" for row, text in enumerate(texts)]
    parts = divided(texts, known, max_disagreement, seed)
    if parts.repeats > FEW_REPEATS * len(texts):
        progress(
            f"warning: {parts.repeats:,} of {len(texts):,} texts are repeats; the certificate counts each different "
            "text once, so the share of all rows that change may be another"
        )
    for line in (str(parts), *promises(len(parts.certify), max_disagreement)):
        progress(line)
    true = None if labels is None else label_indices(labels, _names(model))[parts.certify_rows]
    search = Search(model, tokenizer, parts, tolerance=max_disagreement, minutes=minutes, seed=seed, progress=progress)
    found = search.run(levers)
    about = {
        "default_tolerance": max_disagreement,
        "certificates": [asdict(each) for each in found.certificates],
        "lever": asdict(found.variant.lever),
        "speed": found.speed,
        "quality": None if true is None else quality(true, search.true, search.answers(found), seed),
        "all_layers": found.all_layers,
        "original": found.original | {"precision": _dtype_name(), "weights_sha256": _hash_of(model)},
        "trials": found.trials,
        "texts": {
            "learn": len(parts.learn),
            "choose": len(parts.choose),
            "certify": len(parts.certify),
            "repeats_left_out": parts.repeats,
            "blank_left_out": parts.blank,
            "seen_in_training": parts.seen if seen is not None and seen.complete else None,
            "certify_sha256": hashlib.sha256("\0".join(parts.certify).encode()).hexdigest(),
        },
        "seed": seed,
        "minutes": (time.monotonic() - started) / 60,
        "hardware": hardware(),
        "versions": versions("openvino", *(("nncf",) if int8 else ())),
    }
    told = {"model": model_facts(model, tokenizer.model_max_length), "summary": SUMMARY, "limits": LIMITS}
    told |= {"certificate": certificate_lines(about)} | dict(card or {})
    learned = seen and seen | SeenTexts.of([*parts.learn, *parts.choose])  # its accuracy on these promises nothing
    save_compressed(output, found.variant.networks, found.variant.classifier, tokenizer, about, learned, told)
    return about


def _names(model: PreTrainedModel) -> list[str]:
    return [model.config.id2label[index] for index in range(model.config.num_labels)]


def _dtype_name() -> str:
    return str(compute_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


def _hash_of(model: PreTrainedModel) -> str:
    """SHA-256 of the weights, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
