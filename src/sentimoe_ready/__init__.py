"""The ready models: what each learnt on top of its backbone, as data. Naming them imports nothing heavy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FACTS = "ready.json"  # backbone, labels, what it was trained on, scores
UPDATES = "updates.safetensors"  # low-rank updates and the head, in 16 bits
DEFAULT = "sentiment"  # what `sentimoe predict TEXT` answers with
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # how the other names of models are written


def ready_models() -> dict[str, Path]:
    """The folder of every ready model, by name, the default one first."""
    found = {path.parent.name: path.parent for path in sorted(Path(__file__).parent.glob(f"*/{FACTS}"))}
    return {name: found[name] for name in sorted(found, key=lambda name: name != DEFAULT)}


def facts(folder: Path) -> dict[str, Any]:
    """What is known of a ready model."""
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))
