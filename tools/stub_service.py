"""A service over a stub: an engine whose answers are known and whose time is fixed, for tests and `make load`.

`python tools/stub_service.py --seconds-per-text 0.001` prints its address and serves until SIGTERM.
"""

from __future__ import annotations

import argparse
import gc
import socket
import time
import zlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvicorn

from sentimoe.inference import Windows
from sentimoe.service import ServedModel, create_service, server_settings
from sentimoe_settings import ServeConfig

LABELS = ("negative", "neutral", "positive")


class StubEngine:
    """One token a word; a text's logits come from its words alone. It sleeps as long as it is told, and counts.

    "broken" as a word is an error of the model, "nan" an answer that is not finite. `batches`: texts of each call.
    """

    num_labels = len(LABELS)
    max_length = 16
    model = SimpleNamespace(dtype="float32")

    def __init__(self, seconds_per_text: float = 0.0, seconds_per_batch: float = 0.0, layers: bool = False):
        self.seconds_per_text, self.seconds_per_batch, self.has_layers = seconds_per_text, seconds_per_batch, layers
        self.batches: list[int] = []

    def windows(self, texts: Sequence[str], long_texts: str | None = None) -> Windows:
        """Windows of 16 words, or the first one of each text."""
        found = Windows([], [], [])
        for row, text in enumerate(texts):
            ids = [zlib.crc32(word.encode()) for word in text.split()]
            parts = [ids[start : start + self.max_length] for start in range(0, len(ids), self.max_length)]
            if long_texts == "truncate" and len(parts) > 1:
                found.truncated.append(row)
                parts = parts[:1]
            found.encodings.extend({"input_ids": part} for part in parts)
            found.owner.extend([row] * len(parts))
        return found

    def logits(self, windows: Windows) -> tuple[np.ndarray, np.ndarray | None]:
        """Of each window."""
        count = len(set(windows.owner))
        self.batches.append(count)
        time.sleep(self.seconds_per_batch + count * self.seconds_per_text)
        rows = [_logits(each["input_ids"]) for each in windows.encodings]
        layers = [1 + len(each["input_ids"]) % 3 for each in windows.encodings]
        return np.array(rows, dtype=np.float32), np.array(layers) if self.has_layers else None


BROKEN, NAN = (zlib.crc32(word) for word in (b"broken", b"nan"))


def _logits(ids: Sequence[int]) -> Any:
    if BROKEN in ids:
        raise RuntimeError("the stub is broken")
    return np.full(3, np.nan) if NAN in ids else np.sin(sum(ids) + np.arange(3.0))


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds-per-text", type=float, default=0.001)
    parser.add_argument("--seconds-per-batch", type=float, default=0.0)
    parser.add_argument("--max-queue", type=int, default=1024)
    parser.add_argument("--deadline", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    config = ServeConfig(max_queue=given.max_queue, deadline=given.deadline)
    app = create_service(
        [ServedModel("stub", StubEngine(given.seconds_per_text, given.seconds_per_batch), LABELS)], config
    )
    gc.freeze()
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", given.port))
        print(f"stub at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(server_settings(app, config)).run(sockets=[listening])


if __name__ == "__main__":
    main()
