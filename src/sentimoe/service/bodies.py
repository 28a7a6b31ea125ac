"""Bodies are read up to a limit of bytes, seconds and depth; and a client that leaves takes its request along."""

from __future__ import annotations

import asyncio
import re

import numpy as np
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .dialects import dialect_at
from .refusals import Kind, Refusal

DEPTH = 16  # of lists and objects; the deepest question of ours has 4
STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class Bodies:
    """Reads the body of a request before the application sees it, and cancels the application when the client leaves.

    limit: bytes, whatever length it said to have. seconds: for the whole body.
    """

    def __init__(self, app: ASGIApp, limit: int, seconds: float):
        self.app, self.limit, self.seconds = app, limit, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await self._read(Headers(scope=scope), receive)
        except Refusal as refusal:
            await dialect_at(scope["path"]).refused(refusal)(scope, receive, send)
            return
        if body is not None:
            await self._answer(scope, body, receive, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes | None:
        """The body; None where the client left. Raises Refusal."""
        said = headers.get("content-length", "")
        if said.isdigit() and int(said) > self.limit:
            raise self._too_large()
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.limit:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        break
        except TimeoutError as late:
            reason = f"the request did not come within {self.seconds:g} s; send it again"
            raise Refusal(Kind.SLOW, reason, {"Connection": "close"}) from late
        body = b"".join(parts)
        check_json(body)
        return body

    def _too_large(self) -> Refusal:
        reason = f"the request is longer than {self.limit} bytes; send less at once"
        return Refusal(Kind.TOO_LARGE, reason, {"Connection": "close"})

    async def _answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        unread = True

        async def again() -> Message:
            nonlocal unread
            if unread:
                unread = False
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.shield(leaving)
            return {"type": "http.disconnect"}

        leaving = asyncio.ensure_future(_left(receive))
        answering = asyncio.ensure_future(self.app(scope, again, send))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                await answering
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def check_json(body: bytes) -> None:
    """Raises Refusal for what no JSON of a question is: nested deeper than `DEPTH`, or with a zero byte."""
    if b"\0" in body:
        raise Refusal(Kind.INVALID, "the request is no JSON in UTF-8; send it as such")
    if body.count(b"[") + body.count(b"{") <= DEPTH:
        return
    brackets = np.frombuffer(STRINGS.sub(b"", body).translate(None, ALL_BUT_BRACKETS), dtype=np.uint8)
    steps = np.where((brackets == ord("[")) | (brackets == ord("{")), 1, -1)
    if len(steps) and int(np.cumsum(steps).max()) > DEPTH:
        raise Refusal(Kind.INVALID, f"the request is nested deeper than {DEPTH} lists or objects; none of ours is")
