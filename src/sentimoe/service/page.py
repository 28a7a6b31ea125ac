"""The page of `explore` in the service. Its questions pass by the batcher, so only a few are answered at once."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..pages import create_app
from .models import ServedModel

AT_ONCE = 2
PATHS = ("/", "/static/{file:path}", "/api/{question}")  # not all: else an address of a dialect would be its own 404


class Few:
    """Answers 429 to questions beyond `most` at once; what is no question passes."""

    def __init__(self, app: ASGIApp, most: int = AT_ONCE):
        self.app, self.most, self.now = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if self.now >= self.most:
            told = {"detail": f"{self.most} questions of the page are being answered; try again"}
            await JSONResponse(told, 429, {"Retry-After": "1"})(scope, receive, send)
            return
        self.now += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.now -= 1


def page_of(models: Sequence[ServedModel]) -> ASGIApp | None:
    """The page over the models that torch runs; None where there is none."""
    shown = {model.name: model.classifier for model in models if model.is_shown and model.classifier is not None}
    return Few(create_app(shown, hosts=["*"])) if shown else None  # names were checked before
