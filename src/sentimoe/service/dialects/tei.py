"""The dialect of text-embeddings-inference: `/predict`, `/info`, and the same below the address of each model.

There, a flat list of two strings is a pair of texts to compare, and a batch is a list of lists. A text that is longer
than the model is read in windows; there it is refused. `truncate` cuts it in both.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, WithJsonSchema

from ..asking import Asking
from ..models import RunningModel
from ..refusals import Kind, Refusal
from .dialect import Dialect
from .ranking import ranked

PAIR = (
    "a list of two strings is a pair of texts, and this model reads texts one by one; a batch is a list of lists: "
    '[["one text"], ["another"]]'
)


ONE_TEXT = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": 1}
BATCH = {"type": "array", "items": ONE_TEXT, "minItems": 1}
INPUTS = WithJsonSchema({"anyOf": [ONE_TEXT["items"], ONE_TEXT, BATCH]})  # pairs are read too, to say why not


class PredictRequest(BaseModel):
    """A text, a list with one text, or a batch: a list of such lists."""

    inputs: Annotated[str | list[str] | list[list[str]], INPUTS]
    truncate: bool | None = Field(
        None, description="Read only the beginning of a long text; else all of it, in windows."
    )
    truncation_direction: Literal["Right", "right", "Left", "left"] = "Right"
    raw_scores: bool = Field(False, description="Logits in place of probabilities.")


class Prediction(BaseModel):
    """A class; they come the best one first."""

    score: float
    label: str


class ErrorResponse(BaseModel):
    """Why there is no answer."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


def routes(asking: Asking) -> APIRouter:
    """The addresses."""
    router = APIRouter(tags=["text-embeddings-inference"])
    told: dict[int | str, dict[str, Any]] = {code: {"model": ErrorResponse} for code in (400, 413, 422, 424, 429)}
    unknown: dict[int | str, dict[str, Any]] = {404: {"model": ErrorResponse}}
    reply = list[Prediction] | list[list[Prediction]]

    async def predicted(question: PredictRequest, request: Request, model: RunningModel) -> JSONResponse:
        texts, single = _texts(question.inputs)
        if question.truncate and question.truncation_direction.lower() == "left":
            raise Refusal(
                Kind.INVALID, "the end of a long text is cut here, not its beginning; leave out `truncation_direction`"
            )
        found = await asking.whole_answers(request, model, texts, "inputs", bool(question.truncate))
        scores = found.logits if question.raw_scores else found.probabilities
        rows = ranked(model.served.labels, scores)
        return JSONResponse(rows[0] if single else rows)

    @router.post("/predict", response_model=reply, responses=told, summary="Label texts with the first model.")
    async def predict(question: PredictRequest, request: Request) -> JSONResponse:
        return await predicted(question, request, asking.models.first)

    @router.post("/models/{name}/predict", response_model=reply, responses=told | unknown, summary="With this model.")
    async def predict_with(name: str, question: PredictRequest, request: Request) -> JSONResponse:
        return await predicted(question, request, asking.models.named(name))

    @router.get("/info", summary="The first model and the limits.")
    async def info() -> dict[str, Any]:
        return _info(asking, asking.models.first)

    @router.get("/models/{name}/info", responses=unknown, summary="This model and the limits.")
    async def info_of(name: str) -> dict[str, Any]:
        return _info(asking, asking.models.named(name))

    return router


def _texts(inputs: str | list[str] | list[list[str]]) -> tuple[list[str], bool]:
    """The texts, and whether it was one that is no batch. Raises Refusal for pairs and what is neither."""
    if isinstance(inputs, str):
        return [inputs], True
    if not inputs:
        raise Refusal(Kind.EMPTY, "`inputs` cannot be empty; give a text, or a list of lists with one text each")
    if all(isinstance(each, str) for each in inputs):
        if len(inputs) != 1:
            raise Refusal(
                Kind.INVALID, PAIR if len(inputs) == 2 else f"a list of {len(inputs)} strings is no batch; " + PAIR
            )
        return [str(inputs[0])], True
    for each in inputs:
        if len(each) != 1:
            raise Refusal(
                Kind.INVALID, PAIR if len(each) == 2 else "a text of a batch is a list of one string; " + PAIR
            )
    return [each[0] for each in inputs], False


def _info(asking: Asking, model: RunningModel) -> dict[str, Any]:
    labels, config = model.served.labels, asking.config
    names = {str(index): label for index, label in enumerate(labels)}
    numbers = {label: index for index, label in enumerate(labels)}
    dtype = getattr(getattr(model.served.engine, "model", None), "dtype", "int8 or float32")
    return {
        "model_id": model.served.name,
        "model_sha": None,
        "model_dtype": str(dtype).removeprefix("torch."),
        "model_type": {"classifier": {"id2label": names, "label2id": numbers}},
        "max_concurrent_requests": config.max_queue,
        "max_input_length": getattr(model.served.engine, "max_length", 0),
        "max_batch_tokens": config.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": config.max_texts,
        "auto_truncate": False,
        "tokenization_workers": 1,
        "version": version("sentimoe"),
        "sha": None,
        "docker_label": None,
    }


ERROR_TYPES = {
    Kind.EMPTY: "Empty",
    Kind.TOO_LARGE: "Validation",
    Kind.OVERLOADED: "Overloaded",
    Kind.FAILED: "Backend",
    Kind.CLOSING: "Unhealthy",
    Kind.DEADLINE: "Overloaded",
    Kind.INVALID: "Tokenizer",
}


def _body(kind: Kind, status: int, message: str) -> dict[str, Any]:
    return {"error": message, "error_type": ERROR_TYPES.get(kind, "Validation")}


TEI = Dialect("tei", routes, _body, {Kind.FAILED: 424})
