"""The texts that a model saw before training starts from it, or before it teaches."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from ..data import SeenTexts
from ..model_folder import SEEN
from ..records import read_json
from ..upcycle import backbone_path


def seen_before(source: str) -> SeenTexts:
    """Those that a classifier keeps a list of; without one, that it saw some. A bare backbone saw none that count.

    source: a short name, a folder or a hub id, which was loaded before.
    """
    place, nothing = backbone_path(source), SeenTexts.of([])
    folder = Path(place if Path(place).is_dir() else snapshot_download(place, allow_patterns=["config.json", SEEN]))
    known, config = SeenTexts.load(folder), folder / "config.json"
    if known is not None:
        return known
    kinds = (read_json(config).get("architectures") or ()) if config.exists() else ()
    bare = config.exists() and not any("Classification" in kind for kind in kinds)  # an adapter alone has no config
    return nothing if bare else nothing.and_more()
