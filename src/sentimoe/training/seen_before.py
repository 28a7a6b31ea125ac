"""The texts that models saw before training starts from one of them, or before they teach."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import snapshot_download

from ..data import SeenTexts
from ..model_folder import SEEN
from ..records import read_json
from ..upcycle import backbone_path


def seen_before(sources: Iterable[str]) -> SeenTexts:
    """Those that classifiers keep lists of; of one without a list, that it saw some. A bare backbone saw none.

    sources: short names, folders or hub ids of models that were loaded before.
    """
    seen = SeenTexts.of([])
    for source in dict.fromkeys(sources):
        seen |= _seen_by(source)
    return seen


def _seen_by(source: str) -> SeenTexts:
    place, nothing = backbone_path(source), SeenTexts.of([])
    folder = Path(place if Path(place).is_dir() else snapshot_download(place, allow_patterns=["config.json", SEEN]))
    known, config = SeenTexts.load(folder), folder / "config.json"
    if known is not None:
        return known
    kinds = (read_json(config).get("architectures") or ()) if config.exists() else ()
    bare = config.exists() and not any("Classification" in kind for kind in kinds)  # an adapter alone has no config
    return nothing if bare else nothing.and_more()
