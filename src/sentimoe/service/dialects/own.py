"""Our own dialect: `/v1/predict` says all that `sentimoe predict` says, of several models at once; `/v1/models`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ...explain import trace
from ...inference import Engine
from ..asking import Asking
from ..batcher import Answers
from ..models import RunningModel, ServedModel
from ..refusals import Kind
from .dialect import Dialect


class Question(BaseModel):
    """Texts for one or more models. exits: how many layers read each text. routing: which experts read each token."""

    model_config = ConfigDict(extra="forbid", strict=True)

    texts: str | list[str]
    models: list[str] | None = Field(None, min_length=1, description="Names; null: the first model.")
    probabilities: bool = False
    exits: bool = False
    routing: bool = False
    truncate: bool = Field(False, description="Read only the beginning of a long text; else all of it, in windows.")


class Routing(BaseModel):
    """For each token its characters, and for each layer with experts those that read it and their weights."""

    layers: list[int]
    tokens: list[dict[str, Any]]


class Answer(BaseModel):
    """What `predict` writes for a text. label: null for a blank text and, with `guess`, below the model's threshold."""

    label: str | int | None
    score: float | None
    reason: str | None
    guess: str | int | None = None
    probabilities: dict[str, float] | None = None
    layers: int | None = None
    truncated: bool | None = None
    routing: Routing | None = None


class Reply(BaseModel):
    """The answers of each model, in the order of the texts."""

    results: dict[str, list[Answer]]


class Told(BaseModel):
    """Why there is no answer."""

    detail: str


def routes(asking: Asking) -> APIRouter:
    """The addresses."""
    router = APIRouter(prefix="/v1", tags=["SentiMoE"])
    told: dict[int | str, dict[str, Any]] = {code: {"model": Told} for code in (400, 404, 413, 422, 429, 504)}

    @router.post("/predict", response_model=Reply, responses=told, summary="Label texts with one or more models.")
    async def predict(question: Question, request: Request) -> JSONResponse:
        names = [None] if question.models is None else list(dict.fromkeys(question.models))
        models = [asking.models.named(name) for name in names]
        given = [question.texts] if isinstance(question.texts, str) else question.texts
        texts = asking.check(given, "texts")
        rows = [asyncio.ensure_future(_rows(asking, request, model, texts, question)) for model in models]
        try:
            found = await asyncio.gather(*rows)
        finally:
            for each in rows:  # where one is refused, the others need not go on
                each.cancel()
        named = zip((model.served.name for model in models), found, strict=True)
        return JSONResponse({"results": dict(named)})

    @router.get("/models", summary="The models, as a list of OpenAI's kind with what they answer.")
    async def models() -> dict[str, Any]:
        about = [
            {"id": name, "object": "model", "created": 0, "owned_by": "sentimoe", **each.served.about()}
            for name, each in asking.models.by_name.items()
        ]
        return {"object": "list", "data": about}

    return router


async def _rows(
    asking: Asking, request: Request, model: RunningModel, texts: list[str], question: Question
) -> list[dict[str, Any]]:
    begun = monotonic()
    answers = await asking.answers(request, model, texts, question.truncate)
    rows = [_row(model.served, answers, row, question) for row in range(len(texts))]
    asking.metrics.doubtful(model.served, sum(row["reason"] == "doubtful" for row in rows))
    if question.routing:
        shown: Sequence[dict[str, Any] | None] = [None] * len(texts)
        if model.served.is_shown and model.served.has_experts:
            left = model.batcher.deadline - (monotonic() - begun)
            shown = await model.batcher.alone(len(texts), lambda: _routing(model.served, texts), left)
        for row, routing in zip(rows, shown, strict=True):
            row["routing"] = routing
    return rows


def _row(model: ServedModel, answers: Answers, row: int, question: Question) -> dict[str, Any]:
    probabilities = answers.probabilities[row]
    blank = bool(np.isnan(probabilities[0]))
    best = 0 if blank else int(probabilities.argmax())
    label, score = (None, None) if blank else (model.classes[best], float(probabilities[best]))
    told: dict[str, Any] = {"label": label, "score": score, "reason": "blank" if blank else None}
    if model.threshold is not None:
        told["guess"] = label
        if score is not None and score < model.threshold:
            told |= {"label": None, "reason": "doubtful"}
    if question.probabilities:
        told["probabilities"] = None if blank else dict(zip(model.labels, map(float, probabilities), strict=True))
    if question.exits:
        told["layers"] = None if answers.layers is None else int(answers.layers[row])
    if question.truncate:
        told["truncated"] = row in answers.truncated
    return told


def _routing(model: ServedModel, texts: list[str]) -> list[dict[str, Any]]:
    """Of each text, which experts read each of its tokens; long texts are cut."""
    assert isinstance(model.engine, Engine)
    (found,) = trace(model.engine, texts)
    shown: list[dict[str, Any]] = [{"layers": found.layers, "tokens": []} for _ in texts]
    each = zip(found.text, found.start, found.end, found.experts, found.weights, strict=True)
    for text, start, end, experts, weights in each:
        token = {"start": int(start), "end": int(end), "experts": experts.tolist(), "weights": weights.tolist()}
        shown[text]["tokens"].append(token)
    return shown


def _body(kind: Kind, status: int, message: str) -> dict[str, Any]:
    return {"detail": message}


OWN = Dialect("sentimoe", routes, _body)
