"""The service: dialects and page on one port, limits before them, batchers behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route

from sentimoe_settings import ServeConfig

from ..errors import ConfigError
from .access import LOCAL, Access
from .asking import Asking
from .batcher import Batcher
from .bodies import Bodies
from .dialects import DIALECTS, dialect_at
from .metrics import Metrics
from .models import RunningModel, RunningModels, ServedModel
from .page import PATHS, page_of
from .refusals import Kind, Refusal
from .watching import Watching, logger

KINDS = {400: Kind.INVALID, 404: Kind.UNKNOWN, 405: Kind.NO_METHOD, 413: Kind.TOO_LARGE, 422: Kind.INVALID}


def create_service(models: Sequence[ServedModel], config: ServeConfig, token: str | None = None) -> FastAPI:
    """The application over models, the first of which answers where none is named. Raises ConfigError for repeats."""
    names = [model.name for model in models]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"the names {', '.join(repeated)} are given more than once; name models with NAME=MODEL")
    metrics = Metrics()
    running = RunningModels({model.name: RunningModel(model, _batcher(model, config, metrics)) for model in models})
    asking = Asking(running, config, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        for model in running.by_name.values():
            model.batcher.start()
        yield
        for model in running.by_name.values():
            await model.batcher.stop()

    app = FastAPI(
        title="SentiMoE",
        version=version("sentimoe"),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        description="Text classifiers under several dialects. Without a model's name, the first one answers.",
    )
    app.state.models = running
    hosts = {*LOCAL, config.host, *config.allow_host}
    app.add_middleware(Bodies, limit=config.max_body, seconds=config.deadline)
    app.add_middleware(Access, hosts=hosts, token=token)
    app.add_middleware(Watching, metrics=metrics)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> JSONResponse:
        if refusal.kind is Kind.FAILED:
            logger.error("a model failed", exc_info=refusal.__cause__)
        return dialect_at(request.url.path).refused(refusal)

    @app.exception_handler(RequestValidationError)
    async def misasked(request: Request, error: RequestValidationError) -> JSONResponse:
        # what was sent is not sent back: it may not even be a text
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
        return dialect_at(request.url.path).refused(Refusal(Kind.INVALID, problems))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> JSONResponse:
        kind = KINDS.get(error.status_code, Kind.INVALID)
        return dialect_at(request.url.path).refused(Refusal(kind, str(error.detail), dict(error.headers or {})))

    @app.get("/health", tags=["Operation"], summary="200 while every model answers, else 503.")
    async def health() -> JSONResponse:
        dead = [name for name, each in running.by_name.items() if not each.batcher.alive]
        return JSONResponse({"status": "failed" if dead else "ok", "failed": dead}, 503 if dead else 200)

    @app.get("/metrics", tags=["Operation"], summary="For Prometheus.")
    async def measured() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    for dialect in DIALECTS:
        app.include_router(dialect.routes(asking))
    if config.page and token is None and (page := page_of(models)) is not None:
        app.router.routes.extend(Route(path, page, include_in_schema=False) for path in PATHS)
    return app


def _batcher(model: ServedModel, config: ServeConfig, metrics: Metrics) -> Batcher:
    told: Any = partial(metrics.batch, model.name)
    batcher = Batcher(
        model.engine,
        batch_tokens=config.batch_tokens,
        batch_wait=config.batch_wait,
        max_queue=config.max_queue,
        deadline=config.deadline,
        told=told,
    )
    metrics.watch(model.name, lambda: batcher.held)
    return batcher
