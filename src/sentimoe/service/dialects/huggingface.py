"""The dialect of `huggingface_hub.InferenceClient(model=URL).text_classification(text)`: `POST /models/NAME`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from ..asking import Asking
from ..batcher import Answers
from ..refusals import Kind
from .dialect import Dialect
from .ranking import ranked


class Parameters(BaseModel):
    """function_to_apply: softmax (the default) gives probabilities, none logits, sigmoid that of each logit."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(default=None, ge=1)
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None
    truncation: bool | None = None


class TextClassificationInput(BaseModel):
    """A text or several."""

    inputs: str | list[str]
    parameters: Parameters | None = None


class Element(BaseModel):
    """A class; they come the best one first."""

    label: str
    score: float


class Told(BaseModel):
    """Why there is no answer."""

    error: str


def routes(asking: Asking) -> APIRouter:
    """The addresses."""
    router = APIRouter(tags=["Hugging Face"])
    told: dict[int | str, dict[str, Any]] = {code: {"model": Told} for code in (400, 404, 413, 422, 429, 504)}

    @router.post("/models/{name}", response_model=list[list[Element]], responses=told, summary="Label texts.")
    async def classify(name: str, question: TextClassificationInput, request: Request) -> JSONResponse:
        model = asking.models.named(name)
        texts = [question.inputs] if isinstance(question.inputs, str) else question.inputs
        told = question.parameters or Parameters()
        found = await asking.whole_answers(request, model, texts, "inputs", bool(told.truncation))
        scores = _scores(found, told.function_to_apply or "softmax")
        return JSONResponse(ranked(model.served.labels, scores, told.top_k))

    return router


def _scores(found: Answers, function: str) -> np.ndarray:
    if function == "softmax":
        return found.probabilities
    return found.logits if function == "none" else (1 + np.tanh(found.logits / 2)) / 2  # the sigmoid, without overflow


def _body(kind: Kind, status: int, message: str) -> dict[str, Any]:
    return {"error": message}


HUGGING_FACE = Dialect("huggingface", routes, _body)
