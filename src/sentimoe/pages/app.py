"""The server of `sentimoe explore`: a page from this folder, and answers as JSON. Nothing is stored or sent on."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from ..classifier import SentimentClassifier
from ..data import clean_text
from ..errors import ConfigError, SentiMoEError
from ..explain import attribute, knocked_out, trace
from ..explain.attribution import has_captum
from ..explain.report import doubts, pieces
from ..inference import Engine, in_precision, softmax
from ..moe import mask_experts
from ..upcycle import layer_numbers, moe_layers
from .body_limit import BodyLimit

STATIC = Path(__file__).parent / "static"
MAX_CHARACTERS = 20_000
MAX_BYTES = 1_000_000  # of a body: a character of JSON takes up to 12
LOCAL = ("127.0.0.1", "localhost", "[::1]")
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'"


class Question(BaseModel):
    """A text for one of the models; closed: (layer, expert) pairs that may not be used, see `knocked_out`."""

    text: str = Field(max_length=MAX_CHARACTERS)
    model: str
    closed: list[tuple[int, int]] = []


def create_app(classifiers: Mapping[str, SentimentClassifier], hosts: Sequence[str] = LOCAL) -> FastAPI:
    """The application over trained classifiers by name, dense or with experts. hosts: names that it is reached under.

    Raises ConfigError for one that is exported, compressed, or has added domains.
    """
    for name, classifier in classifiers.items():
        if classifier._engine is not None and classifier.domains:
            raise ConfigError(
                f"{name} has added domains, which this page cannot show; give a copy without them, or use "
                "sentimoe predict"
            )
        if classifier.model is None:
            raise ConfigError(
                f"{name} is exported or compressed, and cannot be looked into; give the run folder that it was made "
                "from"
            )
    app = FastAPI(title="SentiMoE", docs_url=None, redoc_url=None, openapi_url=None)
    # a page elsewhere must not reach this server under a name of its own
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(BodyLimit, limit=MAX_BYTES)
    exact: dict[str, Any] = {}  # copies, because attribution hooks the model it reads
    attributing = threading.Lock()

    @app.middleware("http")
    async def headers(request: Request, call_next):
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.exception_handler(SentiMoEError)
    async def told(request: Request, error: SentiMoEError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=400)

    @app.exception_handler(RequestValidationError)
    async def misasked(request: Request, error: RequestValidationError) -> JSONResponse:
        # what was sent is not sent back: it may not even be a text
        problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return JSONResponse({"detail": "; ".join(problems)}, status_code=422)

    def chosen(question: Question) -> tuple[SentimentClassifier, Engine]:
        classifier = classifiers.get(question.model)
        if classifier is None:
            raise HTTPException(404, f"there is no model {question.model!r}; there are {list(classifiers)}")
        engine = classifier.engine
        assert isinstance(engine, Engine)
        return classifier, engine

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/api/models")
    def models() -> list[dict[str, Any]]:
        return [_described(name, classifier) for name, classifier in classifiers.items()]

    @app.post("/api/answer")
    def answer(question: Question) -> dict[str, Any]:
        started = time.perf_counter()
        _, engine = chosen(question)
        text = readable(engine, question.text)
        found = _routed(engine, text, question.closed) if moe_layers(engine.model) else _dense(engine, text)
        cut = bool(engine.windows([text], "truncate").truncated)
        found["cut_at"] = engine.max_length if cut else None  # tokens
        return found | {"milliseconds": round(1000 * (time.perf_counter() - started), 1)}

    @app.post("/api/attribution")
    def attribution(question: Question) -> dict[str, Any]:
        classifier, engine = chosen(question)
        if not has_captum():
            raise ConfigError("attribution needs captum: pip install 'sentimoe[explain]'")
        text = readable(engine, question.text)
        with attributing:
            if question.model not in exact:
                widened = in_precision(classifier.model, torch.float32)
                exact[question.model] = copy.deepcopy(widened) if widened is classifier.model else widened
            model = exact[question.model]
            masked = {
                layer: [expert for number, expert in question.closed if number == place]
                for place, layer in zip(layer_numbers(model), moe_layers(model), strict=True)
            }
            with knocked_out(engine, question.closed), mask_experts(masked):
                target = int(_beginning(engine, text).argmax())
                scores = attribute(engine, model, text, target)
        parts = [
            {"text": piece, "score": None if token is None else token["score"]}
            for piece, token in pieces(text, scores["tokens"])
        ]
        label = engine.label_names[target]
        said = doubts(text, scores["tokens"], scores["disputed"], scores["gap"], label)
        return {"label": label, "pieces": parts, "gap": scores["gap"], "doubts": said}

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


def readable(engine: Engine, given: str) -> str:
    """The text as the model reads it. Raises HTTPException for one that has no token, so no answer."""
    text = clean_text(given)
    if not text.strip():
        raise HTTPException(422, "the text is blank; type something")
    if not engine.windows([text], "truncate").encodings:
        raise HTTPException(422, "the model reads no token in this text; type something else")
    return text


def _described(name: str, classifier: SentimentClassifier) -> dict[str, Any]:
    engine = classifier.engine
    assert isinstance(engine, Engine)
    layers = moe_layers(engine.model)
    return {
        "name": name,
        "labels": classifier.label_names,
        "layers": layer_numbers(engine.model),
        "experts": layers[0].experts.num_experts if layers else 0,
        "experts_per_token": layers[0].num_experts_per_tok if layers else 0,
        "attribution": has_captum() and engine.tokenizer.is_fast,
    }


def _routed(engine: Engine, text: str, closed: list[tuple[int, int]]) -> dict[str, Any]:
    with knocked_out(engine, closed):
        (found,) = trace(engine, [text])
    tokens = [
        {"start": int(start), "end": int(end), "experts": experts.tolist(), "weights": weights.tolist()}
        for start, end, experts, weights in zip(found.start, found.end, found.experts, found.weights, strict=True)
    ]
    parts = [
        {"text": piece, "experts": token and token["experts"], "weights": token and token["weights"]}
        for piece, token in pieces(text, tokens)
    ]
    return {"probabilities": found.probabilities[0].tolist(), "pieces": parts}


def _dense(engine: Engine, text: str) -> dict[str, Any]:
    parts = [{"text": text, "experts": None, "weights": None}]
    return {"probabilities": _beginning(engine, text).tolist(), "pieces": parts}


def _beginning(engine: Engine, text: str) -> np.ndarray:
    """Probabilities `[C]` of what routing and attribution read, too: as much as one forward pass takes."""
    logits, _ = engine.logits(engine.windows([text], "truncate"))
    return softmax(logits)[0]
