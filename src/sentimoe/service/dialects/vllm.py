"""The dialect of vLLM's `POST /classify`: `probs` in the order of the classes, as there, and `label`, the best one."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ..asking import Asking
from ..refusals import Kind
from .dialect import Dialect

TYPES = {
    Kind.UNKNOWN: "NotFoundError",
    Kind.NO_TOKEN: "AuthenticationError",
    Kind.OVERLOADED: "RateLimitError",
    Kind.FAILED: "InternalServerError",
    Kind.CLOSING: "ServiceUnavailableError",
    Kind.DEADLINE: "TimeoutError",
}


class ClassifyRequest(BaseModel):
    """A text or several."""

    model: str | None = Field(None, description="null: the first model.")
    input: str | list[str]
    truncate_prompt_tokens: Literal[-1] | None = Field(None, description="-1: cut a long text; else it is read whole.")
    use_activation: bool | None = Field(None, description="false: logits in place of probabilities.")


class ClassificationData(BaseModel):
    """One text."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Usage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


class ClassificationResponse(BaseModel):
    """All texts."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[ClassificationData]
    usage: Usage


class Told(BaseModel):
    """Why there is no answer."""

    error: dict[str, Any]


def routes(asking: Asking) -> APIRouter:
    """The addresses."""
    router = APIRouter(tags=["vLLM"])
    told: dict[int | str, dict[str, Any]] = {code: {"model": Told} for code in (400, 404, 413, 429, 504)}

    @router.post("/classify", response_model=ClassificationResponse, responses=told, summary="Label texts.")
    async def classify(question: ClassifyRequest, request: Request) -> JSONResponse:
        model = asking.models.named(question.model)
        texts = [question.input] if isinstance(question.input, str) else question.input
        cut = question.truncate_prompt_tokens is not None
        found = await asking.whole_answers(request, model, texts, "input", cut)
        scores = found.logits if question.use_activation is False else found.probabilities
        reply = ClassificationResponse(
            id=f"classify-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model.served.name,
            data=[_data(model.served.labels, row, index) for index, row in enumerate(scores)],
            usage=Usage(prompt_tokens=found.tokens, total_tokens=found.tokens),
        )
        return JSONResponse(reply.model_dump())

    return router


def _data(labels: list[str], scores: np.ndarray, index: int) -> ClassificationData:
    best = labels[int(scores.argmax())]
    return ClassificationData(index=index, label=best, probs=scores.tolist(), num_classes=len(labels))


def _body(kind: Kind, status: int, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": TYPES.get(kind, "BadRequestError"), "param": None, "code": status}}


VLLM = Dialect("vllm", routes, _body, {Kind.INVALID: 400})
