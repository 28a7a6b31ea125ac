"""Reading and writing the JSON of runs and results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4


def write_json(path: Path, value: Any) -> None:
    """Write whole or not at all, also where several processes write the same file."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))
