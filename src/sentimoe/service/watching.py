"""Every request is counted, timed, and logged in one line of JSON that holds nothing of its texts."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable
from time import perf_counter, time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .dialects import dialect_at
from .metrics import Metrics
from .refusals import Kind, Refusal

LEFT = 499  # what nginx writes for a client that left before the answer
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
logger = logging.getLogger("sentimoe.service")


class Watching:
    """Gives each request an id (its own `X-Request-ID`, where it has a plain one), and tells metrics and log of it."""

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = perf_counter):
        self.app, self.metrics, self.clock = app, metrics, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = self.clock(), LEFT
        given = Headers(scope=scope).get("x-request-id", "")
        name = given if NAME.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = name
            await send(message)

        dialect = dialect_at(scope["path"])
        try:
            await self.app(scope, receive, sent)
        except Exception:
            logger.exception("a request failed", extra={"told": {"id": name}})
            if status != LEFT:
                raise  # half an answer is out: the connection is closed
            refusal = Refusal(Kind.FAILED, f"the service failed; its log says why under the id {name}")
            await dialect.refused(refusal)(scope, receive, sent)
        finally:
            seconds = self.clock() - started
            self.metrics.request(dialect.name, status, seconds)
            if status == LEFT:
                self.metrics.cancelled.inc()
            route = getattr(scope.get("route"), "path", None)  # not the path, which is the client's own words
            told = {"id": name, "method": scope["method"], "route": route, "status": status}
            told |= {"ms": round(1000 * seconds, 1), "texts": state.get("texts", 0)}
            logger.info("request", extra={"told": told})


class JsonLines(logging.Formatter):
    """A line of JSON for each record: time, level, logger, message, and what stands in `told`."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {"time": round(time(), 3), "level": record.levelname, "logger": record.name}
        told |= {"message": record.getMessage()} | getattr(record, "told", {})
        if record.exc_info:
            told["error"] = self.formatException(record.exc_info)
        return json.dumps(told)


def log_settings() -> dict[str, Any]:
    """For `logging.config.dictConfig`: our records and the server's as lines of JSON on standard error."""
    lines = {"handlers": ["lines"], "level": "INFO", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "json"}},
        "loggers": {"sentimoe.service": lines, "uvicorn": lines},
    }
