"""Bodies of requests are read up to a limit, so that nobody fills the memory of the server."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Answers 413 as soon as more than `limit` bytes of a body have come, whatever length it said to have."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0

        async def receive_some() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.limit:
                detail = f"the request is longer than {self.limit} bytes; send less"
                raise HTTPException(413, detail, headers={"Connection": "close"})
            return message

        await self.app(scope, receive_some, send)
