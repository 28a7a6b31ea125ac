"""Who may ask: under which name, from which page, with which token. Looked at before a body is read."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .dialects import dialect_at
from .refusals import Kind, Refusal

LOCAL = ("127.0.0.1", "localhost", "::1")
PROBED = ("/health", "/metrics")  # by address, whatever that is


class Access:
    """Refuses requests under names that are not ours, from pages of other origins, and without the token.

    hosts: names, without ports; "*": any. token: None: everybody may ask. `/health` needs no token.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str | None = None):
        self.app, self.hosts, self.token = app, {host.lower() for host in hosts}, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except Refusal as refusal:
                await dialect_at(scope["path"]).refused(refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if path not in PROBED and "*" not in self.hosts and _name(host) not in self.hosts:
            raise Refusal(Kind.FOREIGN, "the service is not reached under this name; allow it with --allow-host NAME")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise Refusal(
                Kind.FOREIGN, "a page of another origin may not ask; ask from a program, or from our own page"
            )
        if self.token is not None and path != "/health" and not self._knows(headers.get("authorization", "")):
            wanted = {"WWW-Authenticate": "Bearer"}
            raise Refusal(Kind.NO_TOKEN, "the token is missing or wrong; send `Authorization: Bearer TOKEN`", wanted)

    def _knows(self, authorization: str) -> bool:
        kind, _, token = authorization.partition(" ")
        assert self.token is not None
        return kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self.token.encode())


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
