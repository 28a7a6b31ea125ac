"""What people write first: FastAPI over `transformers.pipeline`, without batches of several requests. For `make load`.

`python tools/plain_service.py sentiment` prints its address and serves until SIGTERM.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline

from sentimoe import SentimentClassifier


class Question(BaseModel):
    """Texts, as the service takes them."""

    inputs: list[list[str]]


def main() -> None:
    """Serve until a signal."""
    loaded = SentimentClassifier.from_pretrained(sys.argv[1], precision="float32")
    classify = pipeline("text-classification", model=loaded.model, tokenizer=loaded.tokenizer, top_k=None)
    app = FastAPI()

    @app.post("/predict")
    def predict(question: Question) -> list[Any]:
        return classify([text for (text,) in question.inputs], batch_size=len(question.inputs), truncation=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"plain at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.Server(uvicorn.Config(app, access_log=False, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main()
