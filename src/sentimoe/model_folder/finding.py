"""Where a trained model lies that is named by its folder, as a ready model or by its hub id, in this order."""

from __future__ import annotations

from pathlib import Path

from sentimoe_ready import HUB_ID, ready_models

from ..errors import ConfigError
from .files import DOMAINS, SEEN, VOCABULARIES

# every file that a folder is loaded from; not the weights of other frameworks, which lie beside them on the hub
WANTED = (
    *("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.md", "*.py", SEEN, *VOCABULARIES),
    *("openvino_model.*", "segment-*.xml", "segment-*.bin", "head-*.xml", "head-*.bin", f"{DOMAINS}/*/{SEEN}"),
)


def find_folder(name: str | Path) -> Path:
    """The folder of a model; that of a hub id is loaded from the hub or its cache. Raises ConfigError."""
    folder, ready = Path(name), ready_models()
    if folder.is_dir():
        return folder
    if str(name) in ready:
        return ready[str(name)]
    if not HUB_ID.fullmatch(str(name)):
        raise ConfigError(
            f"{name} is not a trained model (it has no config.json); give the folder of a run, a ready model "
            f"({', '.join(ready)}) or a hub id"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(
            f"there is no folder {name}, and no such model in the hub or its cache ({type(error).__name__}); check the "
            "path or the id, and the network"
        ) from error
